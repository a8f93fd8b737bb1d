"""What strangers send to the points API on a real stack: every answer names the fault, and none is a fault of ours."""

import json
import string
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.points.programs.sample import SAMPLE_PROGRAM
from tests.points.api_shop import Shop, opened_shop, refused
from tests.stack import Stack


@pytest.fixture(scope="module")
async def shop(stack: Stack) -> Shop:
    return await opened_shop(stack, "acme")


@pytest.fixture(scope="module")
async def contact(shop: Shop) -> str:
    await shop.buy("li", 40_000)
    return await shop.contact("li")


async def raw(shop: Shop, method: str, path: str, content: bytes, kind: str = "application/json") -> httpx.Response:
    return await shop.client.request(method, path, content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"points": 100.0}, "body.points"),
        ({"points": 100.5}, "body.points"),
        ({"points": "100"}, "body.points"),
        ({"points": True}, "body.points"),
        ({"points": None}, "body.points"),
        ({"points": [100]}, "body.points"),
        ({"points": 0}, "body.points"),
        ({"points": -100}, "body.points"),
        ({"points": 10**15 + 1}, "body.points"),
        ({"points": 2**63}, "body.points"),
        ({"points": 10**30}, "body.points"),
        ({}, "body.points"),
        ({"points": 100, "pionts": 1}, "body.pionts"),
        ({"points": 100, "wallet": 7}, "body.wallet"),
        ({"points": 100, "wallet": "x" * 501}, "body.wallet"),
        ({"points": 100, "reference": "x" * 501}, "body.reference"),
        ({"points": 100, "contact": 7}, "body.contact"),
        ({"points": 100, "contact": ""}, "body.contact"),
        ({"points": 100, "contact": "x" * 201}, "body.contact"),
        ({"points": 100, "contact": None}, "body"),
        ({"points": 100, "identity": {"kind": "email", "value": "a@b.cc"}}, "body"),
    ],
)
async def test_a_redemption_that_is_malformed_names_the_field(
    shop: Shop, contact: str, body: dict[str, Any], field: str
) -> None:
    answer = await shop.ask("POST", "/v1/redemptions", {"contact": contact, **body})
    assert [each["field"] for each in refused(answer, 422, "invalid-request")["errors"]] == [field]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid-request"),
        (b"null", 422, "invalid-request"),
        (b"[]", 422, "invalid-request"),
        (b'"points"', 422, "invalid-request"),
        (b'{"points": 100', 422, "malformed-json"),
        (b'{"points": NaN}', 422, "malformed-json"),
        (b'\xff\xfe{"points": 100}', 422, "malformed-json"),
        (b'{"contact": "a\\u0000b", "points": 100}', 422, "invalid-request"),
        (b'{"contact": "\\ud800", "points": 100}', 422, "malformed-json"),
        (b"[" * 100_000, 422, "malformed-json"),
        (b'{"reference": "' + b"x" * 600_000 + b'"}', 413, "body-too-large"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/redemptions", "/v1/adjustments", "/v1/members/lookup"])
async def test_bytes_that_are_no_request(shop: Shop, path: str, content: bytes, status: int, code: str) -> None:
    refused(await raw(shop, "POST", path, content), status, code)


async def test_a_body_that_is_not_declared_as_json(shop: Shop) -> None:
    refused(
        await raw(shop, "POST", "/v1/redemptions", b"points=100", "application/x-www-form-urlencoded"), 415, "not-json"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/totals?as_off=2026-01-01T00:00:00Z",
        "/v1/tiers?level=gold",
        "/v1/programs?page=2",
        "/v1/members/x/ledger?limit=10&offset=20",
        "/v1/explain/events/x?rules=dollar",
    ],
)
async def test_an_unknown_query_parameter_is_refused_by_name(shop: Shop, path: str) -> None:
    name = path.partition("?")[2].split("&")[-1].partition("=")[0]
    problem = refused(await shop.ask("GET", path), 422, "invalid-request")
    assert [each["field"] for each in problem["errors"]] == [f"query.{name}"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("as_of=yesterday", "invalid-request"),
        ("as_of=2026-01-01T00:00:00", "invalid-request"),
        ("as_of=1767225600", "invalid-request"),
        ("as_of=0001-01-01T00:00:00%2B14:00", "invalid-request"),
        ("known_at=9999-12-31T23:59:59-14:00", "invalid-request"),
        ("limit=0", "invalid-request"),
        ("limit=201", "invalid-request"),
        ("limit=many", "invalid-request"),
        ("cursor=nonsense", "bad-cursor"),
        ("cursor=WyJsb3RzIiwxXQ", "bad-cursor"),
        ("wallet=" + "x" * 101, "invalid-request"),
        ("wallet=%00", "invalid-request"),
    ],
)
async def test_a_query_that_cannot_be_meant(shop: Shop, contact: str, query: str, code: str) -> None:
    refused(await shop.ask("GET", f"/v1/members/{contact}/ledger?{query}"), 422, code)


async def test_the_edges_of_time_are_answered(shop: Shop, contact: str) -> None:
    for at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        assert (await shop.ask("GET", f"/v1/members/{contact}?as_of={at}")).status_code == 200
        assert (await shop.ask("GET", f"/v1/totals?as_of={at}&known_at={at}")).status_code == 200


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
async def test_an_idempotency_key_that_is_none(shop: Shop, contact: str, key: str) -> None:
    sent = {b"Idempotency-Key": key.encode("latin-1")}
    answer = await shop.client.post("/v1/redemptions", json={"contact": contact, "points": 100}, headers=sent)
    refused(answer, 422, "bad-idempotency-key")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"name": "x", "wallets": []},
        {**SAMPLE_PROGRAM, "extra": 1},
        {**SAMPLE_PROGRAM, "redemption": {"wallet": "points", "minor_per_point": 1.0}},
        {**SAMPLE_PROGRAM, "redemption": {"wallet": "points", "minor_per_point": 10**40}},
        {**SAMPLE_PROGRAM, "rules": [{**SAMPLE_PROGRAM["rules"][0], "when": "(" * 1_900}]},
        {**SAMPLE_PROGRAM, "rules": [{**SAMPLE_PROGRAM["rules"][0], "when": "'a'.matches('(a+)+')"}]},
    ],
)
async def test_a_document_that_is_none_is_refused_before_it_is_in_the_log(shop: Shop, document: Any) -> None:
    problem = refused(await shop.ask("PUT", "/v1/programs/club/draft", document), 422, "program-invalid")
    assert all(set(each) == {"path", "code", "detail"} for each in problem["problems"])


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable + "é龍", max_size=20)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_NAMES = st.sampled_from(["contact", "identity", "points", "wallet", "reason", "reference", "by", "kind", "value"])
_BODIES = st.dictionaries(_NAMES, _JSON, max_size=6) | _JSON
_ADDRESSES = st.sampled_from(
    [
        ("POST", "/v1/redemptions"),
        ("POST", "/v1/adjustments"),
        ("POST", "/v1/members/lookup"),
        ("PUT", "/v1/programs/club/draft"),
        ("POST", "/v1/programs/club/publish"),
    ]
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(address=_ADDRESSES, body=_BODIES)
async def test_whatever_json_is_sent_the_fault_is_the_senders(shop: Shop, address: tuple[str, str], body: Any) -> None:
    method, path = address
    answer = await raw(shop, method, path, json.dumps(body).encode())
    assert answer.status_code in (200, 404, 409, 422), answer.text
    if answer.status_code != 200:
        assert answer.headers["content-type"] == "application/problem+json"


async def test_after_all_that_nothing_moved(shop: Shop, contact: str) -> None:
    assert await shop.available(contact) == 450
    totals = await shop.get("/v1/totals")
    assert (totals["wallets"][0]["outstanding"], totals["balanced"]) == (450, True)


async def test_every_route_documents_what_it_answers(shop: Shop) -> None:
    paths = (await shop.get("/openapi.json"))["paths"]
    ours = ("programs", "members", "redemptions", "adjustments", "explain", "totals", "tiers")
    found = {
        (method, path): set(operation["responses"])
        for path, operations in paths.items()
        for method, operation in operations.items()
        if path.startswith(tuple(f"/v1/{name}" for name in ours))
    }
    assert len(found) == 19
    for (method, path), statuses in found.items():
        assert {"401", "403", "503", "400", "422"} <= statuses, (method, path)
        if method in ("post", "put") and path != "/v1/members/lookup":
            assert {"202", "409"} <= statuses, (method, path)
