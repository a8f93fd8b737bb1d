"""The client: reads its own writes, names problems, repeats what may be repeated, and nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import pytest

from regulars.client import ATTEMPTS_MAX, Denied, Malformed, Missing, Refused, Regulars, TryLater, Unfinished
from shared.http.position import PositionToken

Answer = Callable[[httpx.Request], httpx.Response]
EVENT = {"source": "https://shop", "id": "1"}


def client(answer: Answer) -> Regulars:
    return Regulars("http://regulars", "rk_live_x", transport=httpx.MockTransport(answer))


def token(**offsets: int) -> str:
    return PositionToken({}, {int(name[1:]): offset for name, offset in offsets.items()}).encode()


def after(request: httpx.Request) -> PositionToken:
    return PositionToken.decode(request.headers["Regulars-After"])


async def test_every_position_answered_goes_with_what_is_asked_next() -> None:
    seen: list[httpx.Request] = []
    answers = iter([token(p1=5), token(p1=4, p2=9), ""])

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        headers = {"Regulars-Position": position} if (position := next(answers)) else {}
        return httpx.Response(200, json={"at": "x"}, headers=headers)

    async with client(answer) as one:
        for path in ("/a", "/b", "/c"):
            await one.get(path)
    assert "Regulars-After" not in seen[0].headers
    assert after(seen[1]) == PositionToken({}, {1: 5})
    assert after(seen[2]) == PositionToken({}, {1: 5, 2: 9})
    assert seen[0].headers["Authorization"] == "Bearer rk_live_x"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, Denied), (403, Denied), (404, Missing), (409, Refused), (422, Malformed), (400, Malformed)],
)
async def test_a_problem_becomes_an_exception_with_its_type_and_facts(status: int, kind: type[Exception]) -> None:
    body = {"type": "/problems/not-enough-points", "detail": "120 are available", "available": 120}

    async with client(lambda _: httpx.Response(status, json=body)) as one:
        with pytest.raises(kind, match="120 are available") as caught:
            await one.post("/v1/redemptions", {"points": 500})
    problem = caught.value
    assert (problem.code, problem.facts["available"]) == ("not-enough-points", 120)  # type: ignore[attr-defined]


async def test_an_answer_of_a_proxy_is_a_problem_too() -> None:
    async with client(lambda _: httpx.Response(418, text="<html>no</html>")) as one:
        with pytest.raises(Exception, match="418 about:blank: <html>no"):
            await one.get("/a")


async def test_a_write_is_repeated_with_its_key_until_it_is_answered() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("the connection broke", request=request)
        if len(keys) == 2:
            return httpx.Response(503, json={"type": "/problems/unavailable"}, headers={"Retry-After": "0"})
        return httpx.Response(201, json={"done": True})

    async with client(answer) as one:
        assert await one.post("/v1/redemptions", {}) == {"done": True}
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_a_service_that_stays_unavailable_is_not_asked_for_ever() -> None:
    asked = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(503, json={"type": "/problems/unavailable"}, headers={"Retry-After": "0"})

    async with client(answer) as one:
        with pytest.raises(TryLater):
            await one.get("/a")
    assert asked == 6


async def test_an_undecided_request_says_where_to_ask() -> None:
    async with client(lambda _: httpx.Response(202, headers={"Location": "/v1/redemptions/k"})) as one:
        with pytest.raises(Unfinished, match="/v1/redemptions/k"):
            await one.post("/v1/redemptions", {})


async def test_events_kept_without_waiting_are_awaited_at_the_door_before_the_next_read() -> None:
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path))
        if request.method == "POST":
            items = [{"index": 0, "status": "accepted"}, {"index": 1, "status": "invalid"}]
            return httpx.Response(202, json={"items": items}, headers={"Regulars-Position": token(p1=1)})
        return httpx.Response(200, json={}, headers={"Regulars-Position": token(p3=7)})

    async with client(answer) as one:
        await one.record([EVENT, {**EVENT, "id": "2"}], wait_seconds=0)
        await one.get("/v1/totals")
        await one.get("/v1/totals")
        assert one.position == PositionToken({}, {1: 1, 3: 7})
    assert seen == [("POST", "/v1/events"), ("GET", "/v1/events"), ("GET", "/v1/totals"), ("GET", "/v1/totals")]


async def test_events_that_are_decided_need_no_further_question() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        return httpx.Response(200, json={"items": [{"index": 0, "status": "recorded"}]})

    async with client(answer) as one:
        assert await one.record([EVENT]) == [{"index": 0, "status": "recorded"}]
        await one.arrive()
    assert seen == ["POST"]


class Shop:
    """Answers like a tenant on a test clock, whose services are at rest three reads after each step."""

    def __init__(self, at: datetime) -> None:
        self.at, self.steps, self.offset, self.reads = at, list[datetime](), 0, 0
        self._causes: Iterator[int] = iter(())

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = (request.method, request.url.path)
        if path == ("GET", "/v1/clock"):
            return httpx.Response(200, json={"at": self.at.isoformat()})
        if path == ("POST", "/v1/clock"):
            self.at = datetime.fromisoformat(orjson.loads(request.content)["to"])
            self.steps.append(self.at)
            self._causes = iter((1, 1, 1))
            return httpx.Response(200, json={"at": self.at.isoformat()}, headers={"Regulars-Position": self.moved(1)})
        self.reads += 1
        return httpx.Response(200, json={}, headers={"Regulars-Position": self.moved(next(self._causes, 0))})

    def moved(self, by: int) -> str:
        self.offset += by
        return token(p0=self.offset)


async def test_a_clock_advances_a_day_at_most_at_a_time_and_each_step_settles() -> None:
    start = datetime(2026, 1, 1, 12, tzinfo=UTC)
    shop = Shop(start)
    async with client(shop) as one:
        assert await one.advance_clock(start + timedelta(days=2, hours=5)) == start + timedelta(days=2, hours=5)
    assert [step - start for step in shop.steps] == [timedelta(days=1), timedelta(days=2), timedelta(days=2, hours=5)]
    assert shop.reads == 3 * 6, "two rounds change, a third does not"


async def test_a_clock_that_is_there_already_is_not_moved() -> None:
    shop = Shop(datetime(2026, 1, 2, tzinfo=UTC))
    async with client(shop) as one:
        assert await one.advance_clock(datetime(2026, 1, 1, tzinfo=UTC)) == shop.at
    assert shop.steps == []


@pytest.mark.slow
async def test_an_answer_that_is_no_http_is_a_broken_connection_and_is_asked_again() -> None:
    asked = 0

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(b"what?\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server, Regulars(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "rk_live_x") as one:
        with pytest.raises(httpx.RemoteProtocolError):
            await one.get("/v1/totals")
    assert asked == ATTEMPTS_MAX
