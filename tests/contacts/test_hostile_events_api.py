"""Bad input at the door through HTTP: each its named problem, never a fault, and nothing of it is kept."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contacts.door.problems import Code
from shared.http.problems import ProblemDocument
from shared.http.routes import BODY_BYTES_MAX
from tests.contacts.door_driver import NOW, SOURCE
from tests.contacts.test_door_delivery import HOSTILE, bought
from tests.stack import Stack

STATUSES = {202, 400, 404, 413, 415, 422}


@pytest.fixture(scope="module")
async def shop(stack: Stack) -> httpx.AsyncClient:
    """One tenant for all bad input, on a test clock that stands at NOW."""
    client = await stack.tenant("hostile", clock_at=NOW.isoformat())
    client.headers["Prefer"] = "wait=0"
    answer = await client.post("/v1/events", json=bought())
    assert answer.status_code == 202
    return client


def sendable(event: object) -> bool:
    """Whether JSON can say it at all: a body with NaN or an object of Python's is no JSON as a whole."""
    try:
        json.dumps(event, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


CASES = [(name, event, code, at) for name, event, code, at in HOSTILE if sendable(event)]


async def test_every_problem_of_an_event_has_its_type_and_says_what_to_do(shop: httpx.AsyncClient) -> None:
    structured = {"Content-Type": "application/cloudevents+json"}
    for name, event, code, at in CASES:
        answer = await shop.post("/v1/events", content=json.dumps(event), headers=structured)
        found = ProblemDocument.model_validate(answer.json())
        assert answer.status_code == (413 if code is Code.BODY_TOO_LARGE else 422), name
        assert found.type == f"/problems/{code}", name
        assert found.detail[0].isupper(), name
        assert [error.field for error in found.errors] == ([f"body.{at}"] if at else []), name
        assert found.correlation_id, name


async def test_each_item_of_a_batch_has_its_own_problem(shop: httpx.AsyncClient) -> None:
    events = [event for _, event, _, _ in CASES]
    answer = await shop.post("/v1/events", content=json.dumps([*events, bought()]), headers=BATCH)
    *invalid, valid = answer.json()["items"]
    assert [item["type"] for item in invalid] == [f"/problems/{code}" for _, _, code, _ in CASES]
    assert (answer.status_code, valid["status"]) == (202, "accepted")


BATCH = {"Content-Type": "application/cloudevents-batch+json"}
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
TWICE = json.dumps(bought())[:-1] + ', "id": "e2"}'


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"", STRUCTURED, 422, "malformed-json"),
        (b"{", STRUCTURED, 422, "malformed-json"),
        (b'{"a": NaN}', STRUCTURED, 422, "malformed-json"),
        (b'"\xff"', STRUCTURED, 422, "malformed-json"),
        (b"[" * 100_000, STRUCTURED, 422, "malformed-json"),
        (b"[]", STRUCTURED, 422, "field-malformed"),
        (b"{}", BATCH, 422, "field-malformed"),
        (TWICE.encode(), STRUCTURED, 422, "name-repeated"),
        (b"{}", {"Content-Type": "text/xml"}, 415, "not-json"),
        (b"{}", {}, 415, "not-json"),
        (b"{}", {**STRUCTURED, "Content-Encoding": "gzip"}, 415, "not-json"),
        (b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "not-json"),
        (b" " * (8 * 1024 * 1024 + 1), BATCH, 413, "body-too-large"),
    ],
)
async def test_a_body_that_cannot_be_read_has_its_problem(
    shop: httpx.AsyncClient, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    answer = await shop.post("/v1/events", content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{code}")


async def test_a_header_sent_twice_is_a_problem_of_binary_mode(shop: httpx.AsyncClient) -> None:
    names = ("specversion", "id", "source", "type", "time")
    headers = [(f"ce-{name}", bought()[name]) for name in names]
    answer = await shop.post("/v1/events", json=bought()["data"], headers=[*headers, ("ce-id", "e2")])
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/attribute-repeated")
    assert answer.json()["errors"][0]["field"] == "header.ce-id"


async def test_nul_in_the_address_and_bad_headers_are_refused(shop: httpx.AsyncClient) -> None:
    assert (await shop.get("/v1/events?source=a%00&id=1")).status_code == 422
    assert (await shop.get("/v1/events?source=%FF%FE&id=1")).status_code == 404
    answer = await shop.post("/v1/events", json=bought(), headers={"Prefer": "wait=soon, wait=99999999999"})
    assert answer.status_code == 202


async def test_keys_are_asked_for_and_their_scopes_hold(stack: Stack, shop: httpx.AsyncClient) -> None:
    params = {"source": SOURCE, "id": "e1"}
    assert (await stack.client.post("/v1/events", json=bought())).status_code == 401
    assert (await stack.client.get("/v1/events", params=params)).status_code == 401
    assert (await stack.operator.post("/v1/events", json=bought())).status_code == 403
    asked = {"name": "till", "scopes": ["events:write"]}
    issued = await shop.post("/v1/credentials", json=asked, headers={"Prefer": "wait=20"})
    till = stack.as_key(issued.json()["api_key"])
    assert (await till.post("/v1/events", json=bought())).status_code == 200
    answer = await till.get("/v1/events", params=params)
    assert (answer.status_code, answer.json()["scope"]) == (403, "events:read")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [*bought(), "subject", "data_base64", "datacontenttype", "customer", "lines", "currency", "order_id", "channel"]
)


def broken(changes: dict[str, Any], inside: bool) -> dict[str, Any]:
    """A purchase with some of it replaced, around its data or in it."""
    event = bought()
    return {**event, "data": {**event["data"], **changes}} if inside else {**event, **changes}


@settings(max_examples=150, deadline=None)
@given(event=JSON | st.builds(broken, st.dictionaries(NAMES, JSON, max_size=4), st.booleans()))
async def test_whatever_is_sent_is_taken_or_named(shop: httpx.AsyncClient, event: object) -> None:
    answer = await shop.post("/v1/events", content=json.dumps(event), headers={"Content-Type": "application/json"})
    assert answer.status_code in STATUSES, answer.text
    if answer.status_code != 202:
        ProblemDocument.model_validate(answer.json())


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(JSON | st.builds(broken, st.dictionaries(NAMES, JSON, max_size=3), st.booleans()), max_size=6),
    wait=st.sampled_from(["wait=0", "wait=20"]),
)
async def test_whatever_is_in_a_batch_every_item_has_its_answer(
    shop: httpx.AsyncClient, events: list[object], wait: str
) -> None:
    answer = await shop.post("/v1/events", content=json.dumps(events), headers=BATCH | {"Prefer": wait})
    assert answer.status_code in (200, 202), answer.text
    items = answer.json()["items"]
    assert [item["index"] for item in items] == list(range(len(events)))
    for item in items:
        assert ("receipt" in item) == (item["status"] != "invalid")
        assert item["status"] != "parked"


@settings(max_examples=60, deadline=None)
@given(body=st.binary(max_size=60), kind=st.sampled_from(["application/json", *STRUCTURED.values(), *BATCH.values()]))
async def test_whatever_bytes_come_there_is_no_fault(shop: httpx.AsyncClient, body: bytes, kind: str) -> None:
    answer = await shop.post("/v1/events", content=body, headers={"Content-Type": kind})
    assert answer.status_code in STATUSES


def test_the_table_of_bad_input_covers_the_codes() -> None:
    elsewhere = {"malformed-json", "name-repeated", "attribute-repeated", "too-many-events"}
    assert {code.value for _, _, code, _ in CASES} | elsewhere == {code.value for code in Code}
    assert BODY_BYTES_MAX < 8 * 1024 * 1024
