"""One tenant's import does not delay another's checkout."""

import asyncio
from typing import Annotated

import pytest

from shared.http.admission import Admission, Limits
from shared.http.authentication import requires
from shared.http.credentials import Principal
from shared.http.problems import TooManyRequests
from shared.http.routes import router
from shared.telemetry import Metrics
from tests.http.conftest import ACME, BETA, Build, Clock, Connect


async def test_a_used_up_rate_is_429_with_retry_after_for_that_tenant_only(build: Build, connect: Connect) -> None:
    clock = Clock()
    app = build(limits=Limits(rate_per_second=0.5, burst=3, concurrent=10), now=clock)
    async with connect(app, ACME) as acme, connect(app, BETA) as beta:
        answers = [await acme.get("/v1/things/x") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[3].headers["retry-after"] == "2"
        assert answers[3].json()["type"] == "/problems/too-many-requests"
        assert (await beta.get("/v1/things/x")).status_code == 200
        clock.seconds += 2
        assert (await acme.get("/v1/things/x")).status_code == 200
        assert (await acme.get("/v1/things/x")).status_code == 429


async def test_requests_in_flight_are_bounded_for_each_tenant_and_places_come_back(
    build: Build, connect: Connect
) -> None:
    entered, leave = asyncio.Semaphore(0), asyncio.Event()
    routes = router("/v1/slow")

    @routes.get("")
    async def slow(_: Annotated[Principal, requires("things:read")]) -> None:
        entered.release()
        await leave.wait()

    app = build(limits=Limits(concurrent=2), routers=[routes])
    async with connect(app, ACME) as acme, connect(app, BETA) as beta:
        running = [asyncio.create_task(acme.get("/v1/slow")) for _ in range(2)]
        for _ in running:
            await asyncio.wait_for(entered.acquire(), 5)
        refused = await acme.get("/v1/slow")
        assert refused.status_code == 429
        other = asyncio.create_task(beta.get("/v1/slow"))
        await asyncio.wait_for(entered.acquire(), 5)
        leave.set()
        assert [(await task).status_code for task in (*running, other)] == [200, 200, 200]
        assert (await acme.get("/v1/slow")).status_code == 200


def test_a_place_comes_back_when_the_request_fails() -> None:
    admission = Admission(Limits(concurrent=1), Clock(), Metrics())
    for _ in range(3):
        with pytest.raises(KeyError), admission.admit("acme"):
            raise KeyError
    with admission.admit("acme"), pytest.raises(TooManyRequests), admission.admit("acme"):
        pass


def test_many_tenants_do_not_fill_the_memory() -> None:
    admission = Admission(Limits(), Clock(), Metrics())
    with admission.admit("first"):
        for number in range(20_001):
            with admission.admit(str(number)):
                pass
        assert len(admission._accounts) <= 10_000
        assert "first" in admission._accounts


def test_a_clock_that_stands_still_or_goes_back_gives_nothing_away() -> None:
    clock = Clock()
    admission = Admission(Limits(rate_per_second=1, burst=1), clock, Metrics())
    with admission.admit("acme"):
        pass
    clock.seconds -= 100
    with pytest.raises(TooManyRequests), admission.admit("acme"):
        pass
