"""The door through HTTP: events in, receipts out, on a real database, log and workers."""

import asyncio
import json
import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.contacts.door.answers import WHAT_TO_DO
from services.contacts.door.intake import EVENTS_MAX
from shared.events.door import DeliveryRefused
from shared.http.position import PositionToken
from shared.log.port import partition_of
from tests.contacts.door_driver import NOW, SOURCE, line, purchase, refund, sent
from tests.stack import Stack

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
AT_ONCE = {"Prefer": "wait=0"}
LI = {"reference": "C-17", "email": "Li@Example.com", "phone": "+86 138 0013 8000"}


@pytest.fixture
async def shop(stack: Stack) -> httpx.AsyncClient:
    """A new tenant on a test clock that stands at NOW, with its first API key."""
    return await stack.tenant(new_name(), clock_at=NOW.isoformat())


def new_name() -> str:
    return f"t{uuid4().hex[:12]}"


def bought(order_id: str, id: str = "", customer: object = LI, **more: object) -> dict[str, Any]:
    return sent("purchase.completed", purchase(order_id, customer=customer, **more), id or f"e-{order_id}")


def returned(refund_id: str, order_id: str = "1001", **more: Any) -> dict[str, Any]:
    return sent("purchase.refunded", refund(refund_id, order_id=order_id, **more), f"e-{refund_id}")


async def deliver(shop: httpx.AsyncClient, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Send a batch and wait for what became of each."""
    answer = await shop.post("/v1/events", content=json.dumps(events), headers=BATCH)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    assert [item["index"] for item in items] == list(range(len(events)))
    return items


async def receipt(shop: httpx.AsyncClient, id: str, after: str = "") -> dict[str, Any]:
    headers = {"Regulars-After": after} if after else {}
    answer = await shop.get("/v1/events", params={"source": SOURCE, "id": id}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found: dict[str, Any] = answer.json()
    assert (found["type"], bool(found["detail"])) == (f"/problems/{code}", True), found
    return found


# ---- one event


async def test_an_event_is_accepted_at_once_and_its_position_leads_to_the_receipt(shop: httpx.AsyncClient) -> None:
    answer = await shop.post("/v1/events", json=bought("1001"), headers=AT_ONCE)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    assert answer.headers["Location"] == answer.json()["receipt"]
    after = {"Regulars-After": answer.headers["Regulars-Position"]}
    told = await shop.get(answer.json()["receipt"], headers=after)
    contact = told.json()["contact"]
    assert told.json() == {
        "source": SOURCE,
        "id": "e-1001",
        "outcome": "recorded",
        "type": "purchase.completed.v1",
        "reason": None,
        "detail": None,
        "contact": contact,
        "conflicts": 0,
    }
    tenant = (await shop.get("/v1/tenants/current")).json()["tenant"]
    stream = PositionToken.decode(told.headers["Regulars-Position"])
    assert (list(stream.events), stream.inboxes) == ([partition_of(tenant, contact)], {})
    assert (await receipt(shop, "e-1001", told.headers["Regulars-Position"]))["contact"] == contact


async def test_without_a_wait_nobody_waits(shop: httpx.AsyncClient) -> None:
    del shop.headers["Prefer"]
    answer = await shop.post("/v1/events", json=bought("1001"))
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    later = {"Regulars-After": answer.headers["Regulars-Position"], "Prefer": "wait=20"}
    decided = await shop.post("/v1/events", json=bought("1001"), headers=later)
    assert (decided.status_code, decided.json()["status"]) == (200, "duplicate")


async def test_with_a_wait_the_answer_is_the_decision_and_the_streams_position(shop: httpx.AsyncClient) -> None:
    answer = await shop.post("/v1/events", json=bought("1001"))
    assert (answer.status_code, answer.json()["status"], "index" in answer.json()) == (200, "recorded", False)
    position = PositionToken.decode(answer.headers["Regulars-Position"])
    assert (len(position.events), position.inboxes) == (1, {})
    assert (await receipt(shop, "e-1001"))["contact"] == answer.json()["contact"]


async def test_structured_and_binary_mode_are_the_same_event(shop: httpx.AsyncClient) -> None:
    event = bought("1001")
    structured = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    first = await shop.post("/v1/events", content=json.dumps(event), headers=structured)
    attributes = {f"ce-{name}": event[name] for name in ("specversion", "id", "source", "type", "time")}
    again = await shop.post("/v1/events", json=event["data"], headers=attributes)
    assert (first.json()["status"], again.json()["status"]) == ("recorded", "duplicate")
    assert (await receipt(shop, "e-1001"))["conflicts"] == 0


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"ce-specversion": "0.3"}, "version-unsupported", "header.ce-specversion"),
        ({"ce-time": "2026-01-02T10:00:00"}, "time-without-zone", "header.ce-time"),
        ({"ce-id": "%FF"}, "attribute-malformed", "header.ce-id"),
        ({"ce-type": "purchase.cancelled"}, "type-unknown", "header.ce-type"),
    ],
)
async def test_what_is_wrong_with_a_header_names_the_header(
    shop: httpx.AsyncClient, changed: dict[str, str], code: str, field: str
) -> None:
    event = bought("1001")
    attributes = {f"ce-{name}": event[name] for name in ("specversion", "id", "source", "type", "time")}
    answer = await shop.post("/v1/events", json=event["data"], headers=attributes | changed)
    assert problem(answer, 422, code)["errors"][0]["field"] == field
    empty = await shop.post("/v1/events", json={}, headers=attributes)
    assert problem(empty, 422, "customer-missing")["errors"][0]["field"] == "body.customer"


async def test_an_event_of_the_tenants_own_type_is_recorded(shop: httpx.AsyncClient) -> None:
    visit = sent("com.acme.visit", {"customer": LI, "minutes": 12}, "v1")
    named = sent("custom.recorded", {"customer": LI, "name": "store.visited", "fields": {"minutes": 12}}, "v2")
    first, second = await deliver(shop, visit, named)
    assert (first["status"], second["status"], first["contact"]) == ("recorded", "recorded", second["contact"])
    assert (await receipt(shop, "v1"))["type"] == "custom.recorded.v1"


# ---- many events


async def test_a_batch_is_answered_item_by_item(shop: httpx.AsyncClient) -> None:
    early = {**bought("1003"), "time": "2026-01-02T12:05:01Z"}
    items = await deliver(
        shop, bought("1001"), early, bought("1001"), bought("1002", lines=[line(amount_minor=29.5)]), {}, bought("1004")
    )
    assert [item["status"] for item in items] == [
        "recorded", "invalid", "duplicate", "invalid", "invalid", "recorded",
    ]  # fmt: skip
    assert [item.get("type") for item in items[1:5]] == [
        "/problems/time-in-future", None, "/problems/not-a-whole-number", "/problems/version-unsupported",
    ]  # fmt: skip
    assert items[3]["errors"][0]["field"] == "body.3.data.lines.0.amount_minor"
    assert "minor unit" in items[3]["detail"]
    assert "receipt" not in items[1]
    assert (await shop.get("/v1/events", params={"source": SOURCE, "id": "e-1003"})).status_code == 404


async def test_the_shape_says_batch_where_the_content_type_does_not(shop: httpx.AsyncClient) -> None:
    answer = await shop.post("/v1/events", json=[bought("1001"), bought("1002")])
    assert [item["status"] for item in answer.json()["items"]] == ["recorded", "recorded"]


async def test_an_empty_batch_is_answered_empty(shop: httpx.AsyncClient) -> None:
    for wait, status in (("wait=0", 202), ("wait=20", 200)):
        answer = await shop.post("/v1/events", json=[], headers={"Prefer": wait})
        assert (answer.status_code, answer.json()) == (status, {"items": []})
        assert not PositionToken.decode(answer.headers["Regulars-Position"])


async def test_a_batch_of_nothing_valid_is_still_answered_item_by_item(shop: httpx.AsyncClient) -> None:
    answer = await shop.post("/v1/events", json=[1, None, "x"], headers=AT_ONCE)
    assert (answer.status_code, {item["status"] for item in answer.json()["items"]}) == (202, {"invalid"})


async def test_a_full_batch_is_taken_and_a_fuller_one_is_refused_whole(shop: httpx.AsyncClient) -> None:
    events = [bought(f"o{n}", customer={"reference": f"C-{n % 40}"}) for n in range(EVENTS_MAX + 1)]
    refused = await shop.post("/v1/events", content=json.dumps(events), headers=BATCH)
    assert "500" in problem(refused, 422, "too-many-events")["detail"]
    answer = await shop.post("/v1/events", content=json.dumps(events[1:]), headers=BATCH | AT_ONCE)
    assert {item["status"] for item in answer.json()["items"]} == {"accepted"}
    assert sum(map(len, PositionToken.decode(answer.headers["Regulars-Position"]).inboxes.values())) > 1
    after = answer.headers["Regulars-Position"]
    assert (await receipt(shop, "e-o500", after))["outcome"] == "recorded"
    assert (await shop.get("/v1/events", params={"source": SOURCE, "id": "e-o0"})).status_code == 404
    items = await deliver(shop, *events[1:])
    assert {item["status"] for item in items} == {"duplicate"}
    assert len({item["contact"] for item in items}) == 40


async def test_large_batches_are_taken_and_a_large_event_is_not(shop: httpx.AsyncClient) -> None:
    note = "n" * 200_000
    large = [sent("com.acme.note", {"customer": {"reference": f"C-{n}"}, "note": note}, f"n{n}") for n in range(10)]
    too_large = sent("com.acme.note", {"customer": LI, "note": note * 3}, "n10")
    items = await deliver(shop, *large, too_large)
    assert [item["status"] for item in items] == ["recorded"] * 10 + ["invalid"]
    assert items[10]["type"] == "/problems/body-too-large"
    problem(await shop.post("/v1/events", json=too_large), 413, "body-too-large")
    problem(await shop.post("/v1/events", json=[note] * 50), 413, "body-too-large")


# ---- again, and otherwise


async def test_duplicates_change_nothing(shop: httpx.AsyncClient) -> None:
    (first,) = await deliver(shop, bought("1001"))
    before = await receipt(shop, "e-1001")
    answers = await asyncio.gather(*(deliver(shop, bought("1001"), bought("1001")) for _ in range(5)))
    assert {item["status"] for items in answers for item in items} == {"duplicate"}
    assert {item["contact"] for items in answers for item in items} == {first["contact"]}
    assert await receipt(shop, "e-1001") == before


async def test_another_body_under_the_same_name_is_a_recorded_conflict(shop: httpx.AsyncClient) -> None:
    await deliver(shop, bought("1001"))
    other = bought("1001", lines=[line(quantity=3)])
    for _ in range(2):
        (item,) = await deliver(shop, other)
        assert (item["status"], item["reason"]) == ("refused", "conflict")
        assert "send a new event under a new id" in item["detail"]
    found = await receipt(shop, "e-1001")
    assert (found["outcome"], found["conflicts"]) == ("recorded", 1)


async def test_an_order_reported_under_another_id_is_a_duplicate_or_refused(shop: httpx.AsyncClient) -> None:
    same, other = bought("1001", "e2"), bought("1001", "e3", lines=[line(quantity=3)])
    items = await deliver(shop, bought("1001"), same, other)
    assert [(item["status"], item.get("reason")) for item in items] == [
        ("recorded", None),
        ("duplicate", "ignored-duplicate"),
        ("refused", "order-already-known"),
    ]
    assert (await receipt(shop, "e3"))["type"] == "delivery.refused.v1"
    assert (await receipt(shop, "e2"))["outcome"] == "duplicate"


async def test_a_refund_before_its_order_waits_for_it(shop: httpx.AsyncClient) -> None:
    (early,) = await deliver(shop, returned("r1"))
    assert (early["status"], "contact" in early) == ("deferred", False)
    assert (await receipt(shop, "e-r1"))["outcome"] == "deferred"
    (order,) = await deliver(shop, bought("1001"))
    settled = await receipt(shop, "e-r1")
    assert (settled["outcome"], settled["type"]) == ("recorded", "purchase.refunded.v1")
    assert settled["contact"] == order["contact"]


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"quantity": 3}, "refund-exceeds-order"),
        ({"amount_minor": 2951}, "refund-exceeds-order"),
        ({"currency": "CNY"}, "currency-differs"),
        ({"lines": [{"line_id": "9", "quantity": 1, "amount_minor": 1}]}, "line-unknown"),
    ],
)
async def test_a_refund_that_does_not_fit_is_refused_before_and_after_its_order(
    shop: httpx.AsyncClient, stated: dict[str, Any], reason: str
) -> None:
    (early,) = await deliver(shop, returned("r1", **stated))
    (order,) = await deliver(shop, bought("1001"))
    (late,) = await deliver(shop, returned("r2", **stated))
    assert (early["status"], late["status"], late["reason"]) == ("deferred", "refused", reason)
    for id, type in (("e-r1", "refund.refused.v1"), ("e-r2", "delivery.refused.v1")):
        found = await receipt(shop, id)
        assert (found["outcome"], found["type"], found["reason"]) == ("refused", type, reason)
        assert found["detail"] == late["detail"] == WHAT_TO_DO[reason]
        assert found["contact"] == order["contact"]


def test_every_reason_of_a_refusal_says_what_to_do() -> None:
    documented = re.findall(r"`([a-z-]+)`", DeliveryRefused.__doc__ or "")
    assert set(documented) - {"ignored-duplicate"} == set(WHAT_TO_DO)


async def test_a_refund_counts_once_under_its_own_id(shop: httpx.AsyncClient) -> None:
    items = await deliver(shop, bought("1001"))
    items += await deliver(shop, returned("r1", customer=LI))
    items += await deliver(shop, {**returned("r1", customer=LI), "id": "again"})
    items += await deliver(shop, {**returned("r1", customer=LI, amount_minor=1), "id": "otherwise"})
    assert [(item["status"], item.get("reason")) for item in items] == [
        ("recorded", None),
        ("recorded", None),
        ("duplicate", "ignored-duplicate"),
        ("refused", "refund-already-known"),
    ]


# ---- who is who


async def test_two_batches_with_the_same_new_customer_agree_on_one_contact(shop: httpx.AsyncClient) -> None:
    """One person comes by reference, by phone and by e-mail: so on several partitions at once."""
    for round_ in range(5):
        phone, email = f"+8613800138{round_:03}", f"li{round_}@example.com"
        named = [
            {"phone": phone, "reference": f"C-{round_}", "email": email},
            {"phone": phone, "email": email},
            {"email": email, "phone": phone, "reference": f"D-{round_}"},
            {"phone": phone},
        ]
        batches = [
            [bought(f"{round_}-{one}-{n}", customer=customer) for n, customer in enumerate(named)] for one in range(4)
        ]
        answers = await asyncio.gather(*(deliver(shop, *batch) for batch in batches))
        assert {item["status"] for items in answers for item in items} == {"recorded"}
        assert len({item["contact"] for items in answers for item in items}) == 1


async def test_another_tenant_sees_nothing(stack: Stack, shop: httpx.AsyncClient) -> None:
    (ours,) = await deliver(shop, bought("1001"))
    other = await stack.tenant(new_name(), clock_at=NOW.isoformat())
    missing = await other.get("/v1/events", params={"source": SOURCE, "id": "e-1001"})
    problem(missing, 404, "not-found")
    (early,) = await deliver(other, returned("r9", order_id="1001"))
    assert early["status"] == "deferred"
    (theirs,) = await deliver(other, bought("1001"))
    assert (theirs["status"], theirs["contact"] != ours["contact"]) == ("recorded", True)
    assert (await receipt(shop, "e-1001"))["contact"] == ours["contact"]
    assert (await shop.get("/v1/events", params={"source": SOURCE, "id": "e-r9"})).status_code == 404


# ---- positions


async def test_a_position_of_another_system_or_ahead_of_the_log_is_refused(shop: httpx.AsyncClient) -> None:
    ahead = PositionToken({"door": {0: 10**9}}).encode()
    theirs = PositionToken({"points": {0: 1}}).encode()
    for token in (ahead, theirs, "nonsense"):
        headers = {"Regulars-After": token, "Prefer": "wait=0"}
        params = {"source": SOURCE, "id": "e1"}
        problem(await shop.get("/v1/events", params=params, headers=headers), 400, "bad-position")
        problem(await shop.post("/v1/events", json=bought("1001"), headers=headers), 400, "bad-position")
    missing = await shop.get("/v1/events", params={"source": SOURCE, "id": "e-1001"})
    problem(missing, 404, "not-found")


@pytest.mark.parametrize(
    "params", [{}, {"source": SOURCE}, {"source": "", "id": "x"}, {"source": "s", "id": "i" * 201}]
)
async def test_a_receipt_is_asked_for_by_source_and_id(shop: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert problem(await shop.get("/v1/events", params=params), 422, "invalid-request")["errors"]
