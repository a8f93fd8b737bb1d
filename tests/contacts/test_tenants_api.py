"""Tenants, API keys and test clocks through HTTP, on a real database, log and workers."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.contacts.tenants.api import SCOPES
from services.contacts.tenants.domain import STEP_MAX
from shared.http.position import PositionToken
from shared.log.port import PARTITIONS
from tests.contacts.door_driver import NOW
from tests.contacts.test_door_delivery import bought
from tests.stack import ADMIN_KEY, Stack

AT_ONCE = {"Prefer": "wait=0"}
SETTINGS = {"name": "Acme 界", "zone": "Asia/Shanghai", "currency": "CNY"}


def new_name() -> str:
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
async def shop(stack: Stack) -> httpx.AsyncClient:
    """A new tenant on a test clock that stands at NOW, with its first API key."""
    return await stack.tenant(new_name(), clock_at=NOW.isoformat())


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found: dict[str, Any] = answer.json()
    assert (found["type"], bool(found["detail"])) == (f"/problems/{code}", True), found
    return found


def covers_all_partitions(answer: httpx.Response) -> bool:
    position = PositionToken.decode(answer.headers["Regulars-Position"])
    return sorted(position.events) == list(range(PARTITIONS)) and all(position.events.values())


# ---- tenants


async def test_the_operator_creates_a_tenant_and_its_first_key_works_at_once(stack: Stack) -> None:
    tenant = new_name()
    answer = await stack.operator.post("/v1/tenants", json={"tenant": tenant, **SETTINGS})
    created = answer.json()
    assert answer.status_code == 201
    assert created == {
        "tenant": tenant,
        **SETTINGS,
        "clock_at": None,
        "credential_id": created["credential_id"],
        "scopes": list(SCOPES),
        "api_key": created["api_key"],
    }
    assert created["api_key"].startswith("rk_live_")
    assert covers_all_partitions(answer)
    ours = stack.as_key(created["api_key"])
    found = await ours.get("/v1/tenants/current")
    assert found.json() == {"tenant": tenant, **SETTINGS, "clock_at": None}
    now = (await ours.get("/v1/clock")).json()
    assert now["test_clock"] is False
    assert abs(datetime.fromisoformat(now["at"]) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_repeated_it_is_the_same_tenant_and_the_key_is_not_shown_again(stack: Stack) -> None:
    body, key = {"tenant": new_name(), **SETTINGS}, {"Idempotency-Key": uuid4().hex}
    first = await stack.operator.post("/v1/tenants", json=body, headers=key)
    again = await stack.operator.post("/v1/tenants", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, {**first.json(), "api_key": None})
    ours = stack.as_key(first.json()["api_key"])
    assert len((await ours.get("/v1/credentials")).json()["items"]) == 1
    other = await stack.operator.post("/v1/tenants", json={**body, "name": "Other"}, headers=key)
    problem(other, 422, "idempotency-key-reused")
    problem(await stack.operator.post("/v1/tenants", json=body), 409, "tenant-exists")


async def test_a_tenant_whose_answer_was_lost_is_created_by_repeating(stack: Stack) -> None:
    """Without a wait, each of the two requests that creating takes may be left undecided, and is taken up again."""
    body = {"tenant": new_name(), **SETTINGS}
    still = await stack.operator.post("/v1/tenants", json=body, headers=AT_ONCE)
    assert (still.status_code, still.headers["Location"]) == (202, "/v1/tenants")
    key = {"Idempotency-Key": still.headers["Idempotency-Key"]}
    answer = await stack.operator.post("/v1/tenants", json=body, headers=key)
    assert answer.status_code == 201
    ours = stack.as_key(answer.json()["api_key"])
    assert (await ours.get("/v1/tenants/current")).json()["name"] == SETTINGS["name"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"zone": "Shanghai"}, "zone-unknown"),
        ({"currency": "ABC"}, "currency-unknown"),
        ({"clock_at": "1969-12-31T00:00:00Z"}, "clock-out-of-range"),
    ],
)
async def test_a_tenant_that_a_rule_forbids_is_refused(stack: Stack, changed: dict[str, str], code: str) -> None:
    answer = await stack.operator.post("/v1/tenants", json={"tenant": new_name(), **SETTINGS, **changed})
    assert problem(answer, 409, code)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tenant": "Acme"}, "body.tenant"),
        ({"tenant": "a/b"}, "body.tenant"),
        ({"tenant": "a" * 64}, "body.tenant"),
        ({"name": ""}, "body.name"),
        ({"name": 7}, "body.name"),
        ({"currency": "cny"}, "body.currency"),
        ({"timezone": "UTC"}, "body.timezone"),
        ({"clock_at": "2026-01-02T00:00:00"}, "body.clock_at"),
        ({"clock_at": 1767312000}, "body.clock_at"),
    ],
)
async def test_a_malformed_tenant_is_told_its_fields(stack: Stack, changed: dict[str, Any], field: str) -> None:
    answer = await stack.operator.post("/v1/tenants", json={"tenant": "fine", **SETTINGS, **changed})
    assert [error["field"] for error in problem(answer, 422, "invalid-request")["errors"]] == [field]


async def test_only_the_operator_creates_tenants_and_the_operator_is_no_tenant(
    stack: Stack, shop: httpx.AsyncClient
) -> None:
    body = {"tenant": new_name(), **SETTINGS}
    assert problem(await shop.post("/v1/tenants", json=body), 403, "missing-scope")["scope"] == "operator"
    problem(
        await shop.post("/v1/tenants/other/credentials", json={"name": "x", "scopes": ["events:read"]}),
        403,
        "missing-scope",
    )
    problem(await stack.client.post("/v1/tenants", json=body), 401, "unauthenticated")
    for path in ("/v1/tenants/current", "/v1/clock", "/v1/credentials"):
        problem(await stack.operator.get(path), 403, "missing-scope")


# ---- API keys


async def test_a_second_key_lives_beside_the_first_and_a_revoked_one_ends(
    stack: Stack, shop: httpx.AsyncClient
) -> None:
    issued = await shop.post("/v1/credentials", json={"name": "till 3", "scopes": ["tenants:read", "tenants:read"]})
    assert (issued.status_code, issued.json()["scopes"], covers_all_partitions(issued)) == (201, ["tenants:read"], True)
    till = stack.as_key(issued.json()["api_key"])
    assert (await till.get("/v1/tenants/current")).status_code == 200
    assert (await shop.get("/v1/tenants/current")).status_code == 200
    path = f"/v1/credentials/{issued.json()['credential_id']}"
    revoked = await shop.delete(path)
    assert revoked.json() == {
        "credential_id": issued.json()["credential_id"],
        "name": "till 3",
        "scopes": ["tenants:read"],
        "revoked": True,
    }
    problem(await till.get("/v1/tenants/current"), 401, "unauthenticated")
    assert (await shop.get("/v1/tenants/current")).status_code == 200
    problem(await shop.delete(path), 409, "credential-already-revoked")
    problem(await shop.delete("/v1/credentials/nobody"), 409, "credential-unknown")


async def test_a_key_is_issued_once_and_shown_once(shop: httpx.AsyncClient) -> None:
    asked, key = {"name": "till", "scopes": ["events:write"]}, {"Idempotency-Key": uuid4().hex}
    first = await shop.post("/v1/credentials", json=asked, headers=key)
    again = await shop.post("/v1/credentials", json=asked, headers=key)
    assert again.json() == {**first.json(), "api_key": None}
    problem(await shop.post("/v1/credentials", json={**asked, "name": "x"}, headers=key), 422, "idempotency-key-reused")
    path = f"/v1/credentials/{first.json()['credential_id']}"
    problem(await shop.delete(path, headers=key), 422, "idempotency-key-reused")
    repeated = {"Idempotency-Key": uuid4().hex}
    answers = [await shop.delete(path, headers=repeated) for _ in range(2)]
    assert answers[0].json() == answers[1].json()


async def test_keys_are_listed_page_by_page_without_what_opens_the_door(shop: httpx.AsyncClient) -> None:
    for number in range(4):
        await shop.post("/v1/credentials", json={"name": f"till {number}", "scopes": ["events:write"]})
    seen, cursor = [], None
    while True:
        page = (await shop.get("/v1/credentials", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        seen += page["items"]
        assert len(page["items"]) <= 2
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(item["name"] for item in seen) == ["first", "till 0", "till 1", "till 2", "till 3"]
    assert {frozenset(item) for item in seen} == {frozenset({"credential_id", "name", "scopes", "revoked"})}
    problem(await shop.get("/v1/credentials", params={"cursor": "x"}), 422, "bad-cursor")


async def test_a_key_issues_at_most_what_it_may_do_itself(stack: Stack, shop: httpx.AsyncClient) -> None:
    issued = await shop.post("/v1/credentials", json={"name": "keys", "scopes": ["credentials:write"]})
    narrow = stack.as_key(issued.json()["api_key"])
    answer = await narrow.post("/v1/credentials", json={"name": "more", "scopes": ["points:write"]})
    assert problem(answer, 403, "missing-scope")["scope"] == "points:write"
    unknown = await narrow.post("/v1/credentials", json={"name": "x", "scopes": ["credentials:write", "points:wirte"]})
    assert problem(unknown, 422, "invalid-request")["errors"][0]["field"] == "body.scopes.1"
    problem(await narrow.get("/v1/tenants/current"), 403, "missing-scope")
    problem(await narrow.post("/v1/clock", json={"to": NOW.isoformat()}), 403, "missing-scope")


async def test_the_operator_issues_a_key_for_a_tenant_that_lost_its_own(stack: Stack, shop: httpx.AsyncClient) -> None:
    tenant = (await shop.get("/v1/tenants/current")).json()["tenant"]
    asked = {"name": "again", "scopes": ["tenants:read"]}
    issued = await stack.operator.post(f"/v1/tenants/{tenant}/credentials", json=asked)
    found = await stack.as_key(issued.json()["api_key"]).get("/v1/tenants/current")
    assert found.json()["tenant"] == tenant
    problem(await stack.operator.post("/v1/tenants/nobody/credentials", json=asked), 409, "tenant-unknown")
    problem(await stack.operator.post("/v1/tenants/No/credentials", json=asked), 422, "invalid-request")


async def test_another_tenants_keys_are_neither_seen_nor_revoked(stack: Stack, shop: httpx.AsyncClient) -> None:
    other = await stack.tenant(new_name())
    (theirs,) = (await other.get("/v1/credentials")).json()["items"]
    (ours,) = (await shop.get("/v1/credentials")).json()["items"]
    assert theirs["credential_id"] != ours["credential_id"]
    problem(await shop.delete(f"/v1/credentials/{theirs['credential_id']}"), 409, "credential-unknown")
    assert (await other.get("/v1/tenants/current")).status_code == 200


async def test_a_key_of_no_system_is_refused(stack: Stack) -> None:
    for key in ("rk_live_", "rk_live_x" * 30, "x", ADMIN_KEY + "x"):
        problem(await stack.as_key(key).get("/v1/tenants/current"), 401, "unauthenticated")


# ---- the clock


async def test_advancing_a_test_clock_tells_every_partition_of_every_worker(
    stack: Stack, shop: httpx.AsyncClient
) -> None:
    to = NOW + STEP_MAX
    answer = await shop.post("/v1/clock", json={"to": to.isoformat()})
    assert (answer.status_code, answer.json()) == (200, {"at": "2026-01-03T12:00:00Z", "test_clock": True})
    assert covers_all_partitions(answer)
    after = {"Regulars-After": answer.headers["Regulars-Position"]}
    assert (await shop.get("/v1/clock", headers=after)).json()["at"] == "2026-01-03T12:00:00Z"
    tenant = (await shop.get("/v1/tenants/current", headers=after)).json()
    assert tenant["clock_at"] == "2026-01-03T12:00:00Z"
    ends = PositionToken.decode(answer.headers["Regulars-Position"]).events
    for worker in ("door", "contacts"):
        front, pool = stack.access["contacts"].fronts[worker], stack.access["contacts"].pools[worker]
        assert await front.wait(inbox={}, events=ends, wait_seconds=20)
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("select set_config('regulars.tenant', $1, true)", tenant["tenant"])
            rows = await connection.fetch("select partition, at from clocks where tenant = $1", tenant["tenant"])
        assert {row["partition"]: row["at"] for row in rows} == dict.fromkeys(range(PARTITIONS), to)


async def test_events_follow_the_clock_at_once(shop: httpx.AsyncClient) -> None:
    """The clock that an event's time is checked against is from memory; nobody is refused for what it missed."""
    tomorrow = {**bought(), "id": "e2", "time": (NOW + STEP_MAX).isoformat()}
    assert (await shop.post("/v1/events", json=bought())).status_code == 200
    problem(await shop.post("/v1/events", json=tomorrow), 422, "time-in-future")
    await shop.post("/v1/clock", json={"to": (NOW + STEP_MAX).isoformat()})
    assert (await shop.post("/v1/events", json=tomorrow)).status_code == 200


@pytest.mark.parametrize(
    ("to", "code"),
    [
        (NOW, "clock-not-forward"),
        (NOW - timedelta(seconds=1), "clock-not-forward"),
        (NOW + STEP_MAX + timedelta(microseconds=1), "clock-step-too-long"),
    ],
)
async def test_a_clock_moves_forward_and_a_day_at_most(shop: httpx.AsyncClient, to: datetime, code: str) -> None:
    refused = problem(await shop.post("/v1/clock", json={"to": to.isoformat()}), 409, code)
    assert datetime.fromisoformat(refused["clock"]) == NOW
    assert (await shop.get("/v1/clock")).json()["at"] == "2026-01-02T12:00:00Z"


async def test_real_time_cannot_be_moved(stack: Stack) -> None:
    shop = await stack.tenant(new_name())
    problem(await shop.post("/v1/clock", json={"to": NOW.isoformat()}), 409, "no-test-clock")


async def test_a_clock_moves_once_however_often_it_is_asked(shop: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    body = {"to": (NOW + timedelta(hours=1)).isoformat()}
    answers = [await shop.post("/v1/clock", json=body, headers=key) for _ in range(3)]
    assert {answer.text for answer in answers} == {'{"at":"2026-01-02T13:00:00Z","test_clock":true}'}
    still = await shop.post("/v1/clock", json={"to": (NOW + timedelta(hours=2)).isoformat()}, headers=AT_ONCE)
    assert (still.status_code, still.headers["Location"]) == (202, "/v1/clock")
    after = {"Regulars-After": still.headers["Regulars-Position"]}
    assert (await shop.get("/v1/clock", headers=after)).json()["at"] == "2026-01-02T14:00:00Z"


@pytest.mark.parametrize("body", [{}, {"to": 1}, {"to": "2026-01-02"}, {"to": "2026-01-02T12:00:00"}, {"to": None}, []])
async def test_a_time_without_a_zone_is_no_time(shop: httpx.AsyncClient, body: object) -> None:
    problem(await shop.post("/v1/clock", json=body), 422, "invalid-request")


async def test_positions_of_other_workers_are_refused(shop: httpx.AsyncClient) -> None:
    theirs = {"Regulars-After": PositionToken({"door": {0: 1}}).encode()}
    problem(await shop.get("/v1/tenants/current", headers=theirs), 400, "bad-position")
    problem(await shop.post("/v1/clock", json={"to": NOW.isoformat()}, headers=theirs), 400, "bad-position")
