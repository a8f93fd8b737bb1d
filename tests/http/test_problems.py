"""Every error is an RFC 9457 problem with a stable type, and says what to do."""

import httpx
import pytest

from shared.http.problems import MEANINGS, MEDIA_TYPE, Problem
from tests.http.conftest import ACME, Build, Connect

GOOD = {"name": "a", "amount_minor": 1}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    body: dict[str, object] = answer.json()
    assert body["type"] == f"/problems/{code}"
    assert body["status"] == status
    assert body["detail"]
    assert body["correlation_id"] == answer.headers["x-correlation-id"]
    return body


async def test_a_refusal_by_a_rule_is_409_with_the_rules_reason_and_its_facts(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/things", json={**GOOD, "name": "forbidden"})
    assert problem(answer, 409, "not-enough-points")["available"] == 120


async def test_each_wrong_field_is_named_and_what_was_sent_is_not_repeated(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/things", json={"name": "", "amount_minor": 1.5, "lines": [1]})
    errors = problem(answer, 422, "invalid-request")["errors"]
    assert isinstance(errors, list)
    assert [error["field"] for error in errors] == ["body.name", "body.amount_minor", "body.lines.0"]
    assert all(set(error) == {"field", "message"} for error in errors)


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"name": "\\ud800"}', b"NaN", b"[" * 2000, b'"a" "b"'])
async def test_what_is_not_json_is_named_so(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/v1/things", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422, "malformed-json")


@pytest.mark.parametrize("body", ["[]", '"text"', "1", "null", '{"name": "a", "amount_minor": 1e99}'])
async def test_json_of_another_shape_is_invalid(client: httpx.AsyncClient, body: str) -> None:
    answer = await client.post("/v1/things", content=body, headers={"Content-Type": "application/json"})
    problem(answer, 422, "invalid-request")


async def test_an_empty_body_is_invalid(client: httpx.AsyncClient) -> None:
    problem(await client.post("/v1/things"), 422, "invalid-request")


@pytest.mark.parametrize("body", [rb'{"name": "a\u0000"}', rb'{"a\u0000": 1}', rb'[["\u0000"]]'])
async def test_a_nul_in_any_text_is_refused_before_a_store_meets_it(client: httpx.AsyncClient, body: bytes) -> None:
    for address in ("/v1/things", "/v1/things/raw"):
        answer = await client.post(address, content=body, headers={"Content-Type": "application/json"})
        assert "NUL" in str(problem(answer, 422, "invalid-request")["detail"])


async def test_text_that_only_speaks_of_a_nul_is_fine(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/things", json={**GOOD, "name": "\\u0000"})
    assert answer.json()["received"] == "\\u0000"


@pytest.mark.parametrize("address", ["/v1/things/a%00b", "/v1/things?cursor=%00"])
async def test_a_nul_in_the_address_is_refused(client: httpx.AsyncClient, address: str) -> None:
    problem(await client.get(address), 422, "invalid-request")


async def test_an_unknown_address_is_404_and_a_wrong_method_405_with_allow(client: httpx.AsyncClient) -> None:
    problem(await client.get("/nowhere"), 404, "not-found")
    problem(await client.get("/v1/things/"), 404, "not-found")
    answer = await client.delete("/v1/things")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ""},
        {"Content-Type": "application/json; charset=gbk"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_only_json_in_utf8_is_taken(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for address in ("/v1/things", "/v1/things/raw"):
        problem(await client.post(address, content=b'{"a":1}', headers=headers), 415, "not-json")


@pytest.mark.parametrize("kind", ["application/cloudevents+json", "application/json; charset=UTF-8"])
async def test_json_by_another_name_is_json(client: httpx.AsyncClient, kind: str) -> None:
    answer = await client.post("/v1/things/raw", content=b'{"a":1}', headers={"Content-Type": kind})
    assert answer.json()["received"] == {"a": 1}


async def test_a_body_over_the_limit_is_413_whether_its_size_is_announced_or_not(client: httpx.AsyncClient) -> None:
    async def pieces() -> object:
        for _ in range(600):
            yield b" " * 1024

    headers = {"Content-Type": "application/json"}
    problem(await client.post("/v1/things", content=b" " * (512 * 1024 + 1), headers=headers), 413, "body-too-large")
    problem(await client.post("/v1/things", content=pieces(), headers=headers), 413, "body-too-large")  # type: ignore[arg-type]


async def test_an_endpoint_may_have_a_limit_of_its_own(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    fits = b'"' + b"x" * 998 + b'"'
    assert (await client.post("/v1/things/raw", content=fits, headers=headers)).status_code == 200
    problem(await client.post("/v1/things/raw", content=fits + b" ", headers=headers), 413, "body-too-large")


async def test_a_fault_of_ours_is_500_and_shows_nothing_of_the_inside(build: Build, connect: Connect) -> None:
    async with connect(build(), ACME) as client:
        answer = await client.post("/v1/things", json={**GOOD, "name": "broken"})
    problem(answer, 500, "internal-error")
    assert "li@example.com" not in answer.text
    assert "KeyError" not in answer.text


def test_every_problem_has_a_code_of_its_own_stands_in_the_tree_and_has_a_meaning() -> None:
    kinds, waiting = [], [Problem]
    while waiting:
        kind = waiting.pop()
        kinds.append(kind)
        waiting.extend(kind.__subclasses__())
    ours = [kind for kind in kinds if kind.__module__ == "shared.http.problems"]
    for kind in ours[1:]:
        assert kind.__name__ in (Problem.__doc__ or ""), f"draw {kind.__name__} into the tree in Problem's docstring"
        assert kind.status in MEANINGS
    codes = [kind.code for kind in ours if "code" in vars(kind)]
    assert len(codes) == len(set(codes))
