"""What operators see: health, metrics, logs, correlation, and the document that clients are generated from."""

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.http.health import health_routes
from shared.http.problems import MEDIA_TYPE
from shared.telemetry import Metrics, log_to
from tests.http.conftest import ACME, Build, Connect

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def lines() -> Iterator[Any]:
    """Reads the JSON log lines written since the test began."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    log_to(stream, "things")
    logging.getLogger("httpx").setLevel("WARNING")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


async def test_a_sent_correlation_id_comes_back_and_a_bad_or_missing_one_is_replaced(client: httpx.AsyncClient) -> None:
    answer = await client.get("/livez", headers={"X-Correlation-Id": "till-7/42"})
    assert answer.headers["x-correlation-id"] == "till-7/42"
    for sent in ({}, {"X-Correlation-Id": "a b"}, {"X-Correlation-Id": "x" * 129}):
        answer = await client.get("/nowhere", headers=sent)
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-correlation-id"])


async def test_the_trace_id_is_the_correlation_id_when_none_was_sent(client: httpx.AsyncClient) -> None:
    answer = await client.get("/livez", headers={"traceparent": TRACE})
    assert answer.headers["x-correlation-id"] == TRACE[3:35]
    for bad in ("00-" + "0" * 32 + TRACE[35:], "junk", TRACE.upper()):
        answer = await client.get("/livez", headers={"traceparent": bad})
        assert answer.headers["x-correlation-id"] not in bad


async def test_a_request_is_one_log_line_with_the_route_and_without_what_was_sent(
    build: Build, connect: Connect, lines: Any
) -> None:
    async with connect(build(), ACME) as client:
        await client.get("/v1/things/li@example.com?cursor=secret", headers={"X-Correlation-Id": "c-1"})
    (line,) = lines()
    assert line.pop("milliseconds") >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "regulars.http",
        "service": "things",
        "message": "answered",
        "correlation_id": "c-1",
        "method": "GET",
        "route": "/v1/things/{name}",
        "status": 200,
        "tenant": "acme",
        "credential_id": "c_1",
    }


async def test_a_fault_is_logged_once_with_its_frames_and_without_what_it_quotes(
    build: Build, connect: Connect, lines: Any
) -> None:
    async with connect(build(), ACME) as client:
        answer = await client.post("/v1/things", json={"name": "broken", "amount_minor": 1})
    fault, answered = lines()
    assert fault["level"] == "error"
    assert fault["fault"]["type"] == "builtins.KeyError"
    assert fault["correlation_id"] == answered["correlation_id"] == answer.json()["correlation_id"]
    assert any("create" in frame for frame in fault["fault"]["frames"])
    assert "li@example.com" not in json.dumps(fault)


async def test_metrics_count_requests_by_route_template_and_keep_their_number_bounded(
    build: Build, connect: Connect
) -> None:
    async with connect(build(), ACME) as client:
        for address in ("/v1/things/a", "/v1/things/b", "/x1", "/x2"):
            await client.get(address)
        await client.request("BREW", "/x3")
        text = (await client.get("/metrics")).text
    assert 'regulars_http_requests_total{method="GET",route="/v1/things/{name}",status="200"} 2.0' in text
    assert 'regulars_http_requests_total{method="GET",route="(none)",status="404"} 2.0' in text
    assert 'method="(other)"' in text
    assert "BREW" not in text
    assert "regulars_http_requests_in_flight 1.0" in text


async def test_livez_answers_whatever_the_checks_say_and_readyz_says_which_failed(
    build: Build, connect: Connect
) -> None:
    async def fine() -> str:
        return ""

    async def wrong() -> str:
        return "3 partitions lag"

    async def broken() -> str:
        raise OSError("li@example.com refused")

    metrics = Metrics()
    app = build(checks={"database": fine, "lag": wrong, "log": broken}, metrics=metrics)
    async with connect(app, "") as client:
        assert (await client.get("/livez")).json() == {"status": "live"}
        answer = await client.get("/readyz")
        exposition = (await client.get("/metrics")).text
    assert answer.status_code == 503
    assert answer.headers["content-type"] == MEDIA_TYPE
    body = answer.json()
    assert body["type"] == "/problems/not-ready"
    assert body["checks"] == {"database": "ok", "lag": "3 partitions lag", "log": "failed with OSError"}
    assert "log" in body["detail"]
    assert 'regulars_ready{check="database"} 1.0' in exposition
    assert 'regulars_ready{check="log"} 0.0' in exposition


async def test_readyz_is_200_when_all_is_well_and_does_not_hang_on_a_check_that_does(
    build: Build, connect: Connect
) -> None:
    async def fine() -> str:
        return ""

    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    async with connect(build(checks={"database": fine}), "") as client:
        assert (await client.get("/readyz")).json() == {"status": "ready", "checks": {"database": "ok"}}
    routes = health_routes({"log": hangs}, Metrics(), seconds_max=0.01)
    (ready,) = [route for route in routes.routes if getattr(route, "path", "") == "/readyz"]
    with pytest.raises(Exception, match="Look after: log") as raised:
        await ready.endpoint()  # type: ignore[attr-defined]
    assert raised.value.facts == {"checks": {"log": "no answer within 0.01 s"}}  # type: ignore[attr-defined]


async def test_the_document_names_every_problem_and_the_key_with_its_scopes(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    create = document["paths"]["/v1/things"]["post"]
    assert set(create["responses"]) == {"201", *map(str, (400, 401, 403, 409, 413, 415, 422, 429, 500, 503))}
    for status, told in create["responses"].items():
        assert told["description"]
        if int(status) >= 400:
            assert told["content"] == {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert create["security"] == [{"apiKey": ["things:write"]}]
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    assert "HTTPValidationError" not in json.dumps(document)
    named = {parameter["name"].lower() for parameter in create["parameters"]}
    assert {"idempotency-key", "prefer", "regulars-after"} <= named
    assert "404" in document["paths"]["/v1/things/{name}"]["get"]["responses"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


def test_a_router_that_reads_bodies_unbounded_is_refused(build: Build) -> None:
    from fastapi import APIRouter

    routes = APIRouter()

    @routes.post("/v1/unsafe")
    async def unsafe() -> None: ...

    with pytest.raises(ValueError, match="/v1/unsafe is not of"):
        build(routers=[routes])
