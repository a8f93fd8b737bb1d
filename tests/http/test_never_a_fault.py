"""Whatever bytes arrive, the answer is one we meant to give: never a 500."""

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from shared.http import tokens
from shared.http.problems import MEDIA_TYPE
from tests.http.conftest import ACME, Build, Connect

HEADERS = ["Authorization", "Content-Length", "Content-Type", "Content-Encoding", "Idempotency-Key", "Prefer"]
HEADERS += ["Regulars-After", "X-Correlation-Id", "traceparent", "Accept", "Cookie"]
VALUES = some.binary(max_size=40) | some.sampled_from(
    [
        b"application/json",
        b"application/json; charset=",
        b"Bearer " + ACME.encode(),
        b"wait=",
        b"\xb2",
        b"9" * 30,
        b"-1",
    ]
)
SENT = some.lists(some.tuples(some.sampled_from(HEADERS).map(str.encode), VALUES), max_size=6)
PARTS = some.binary(max_size=12).map(lambda raw: "".join(f"%{byte:02X}" for byte in raw))
QUERIES = PARTS | some.sampled_from(["limit=", "cursor=", "limit=1&cursor="]).flatmap(lambda at: PARTS.map(at.__add__))
BODIES = some.binary(max_size=60) | some.sampled_from([b'{"name": "a", "amount_minor": %d}' % 10**n for n in range(25)])


METHODS = some.sampled_from(["GET", "POST", "BREW"])
REQUESTS = some.tuples(METHODS, SENT, PARTS, QUERIES, BODIES)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REQUESTS, some.booleans())
async def test_no_request_is_a_fault(
    build: Build, connect: Connect, request_parts: tuple[str, list[tuple[bytes, bytes]], str, str, bytes], key: bool
) -> None:
    method, headers, part, query, body = request_parts
    typed: list[tuple[bytes, bytes]] = [(b"Content-Type", b"application/json"), *headers]
    async with connect(build(), ACME if key else "") as client:
        for address in (f"/v1/things?{query}", f"/v1/things/{part}?{query}", "/v1/things/raw"):
            answer = await client.request(method, f"http://things{address}", headers=typed, content=body)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == MEDIA_TYPE


async def test_an_announced_size_that_is_no_number_is_passed_over(client: httpx.AsyncClient) -> None:
    for announced in (b"\xb2", b"-1", b"", b"9" * 30):
        headers = [(b"Content-Type", b"application/json"), (b"Content-Length", announced)]
        answer = await client.post("/v1/things/raw", content=b"{}", headers=headers)
        assert answer.status_code == (413 if announced[:1] == b"9" else 200)


async def test_a_forged_cursor_of_any_shape_is_422(client: httpx.AsyncClient) -> None:
    shapes: list[object] = [[], {}, None, "things", ["things"], ["things", None], ["things", ["a"]], ["things", "a", 1]]
    for forged in shapes:
        answer = await client.get("/v1/things", params={"cursor": tokens.encode(forged)})
        assert answer.status_code == 422
