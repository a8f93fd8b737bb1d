"""A shop on the public API: a tenant on real time with the sample program, and CDNOW's customers buying at once."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import httpx
import orjson

from bench.load import opened_client, posted, send_all, succeeded
from bench.measures import BenchWrong
from regulars.cdnow import CURRENCY, SOURCE, ZONE, Order, purchase
from regulars.client import Regulars
from regulars.replay import key_works, publish_program
from shared.http.position import AFTER_HEADER, POSITION_HEADER, PositionToken

TENANT: Final = "bench"
BATCH: Final = 500
AT_ONCE: Final = 4
"""Batches of the shop that are under way at once."""
WAIT_SECONDS: Final = 60
CATCH_UP_SECONDS_MAX: Final = 600.0
BATCH_TYPE: Final = "application/cloudevents-batch+json"
GIVEN_POINTS: Final = 1_000_000
REDEEMED_POINTS: Final = 100


class Shop:
    """What the bench does as a tenant. `http` carries its key."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def buy(self, bodies: Sequence[bytes]) -> tuple[float, float]:
        """Send batches of events; seconds until all are in the log, and until points has applied the last one.

        How far points must be is asked of the door: the last batch, sent once more, is answered when the door has
        decided all that came before, with a position of the stream that includes it.
        """
        position = PositionToken()

        def answered(answer: httpx.Response) -> None:
            nonlocal position
            position = position.merge(PositionToken.decode(answer.headers[POSITION_HEADER]))
            refused = [item for item in answer.json()["items"] if item["status"] not in ("accepted", "duplicate")]
            if refused:
                raise BenchWrong(f"the door answered {refused[0]}")

        began = time.perf_counter()
        await send_all(self._http, "/v1/events", bodies, AT_ONCE, {"Content-Type": BATCH_TYPE}, answered)
        accepted = time.perf_counter() - began
        stream = await self._decided(bodies[-1], position)
        await self._ask("GET", "/v1/programs", {AFTER_HEADER: stream.encode()})
        return accepted, time.perf_counter() - began

    async def _decided(self, last: bytes, position: PositionToken) -> PositionToken:
        headers = {"Content-Type": BATCH_TYPE, AFTER_HEADER: position.encode()}
        answer = await self._ask("POST", "/v1/events", headers, last)
        return PositionToken.decode(answer.headers[POSITION_HEADER])

    async def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> httpx.Response:
        """Ask again while the service has not reached the position: one wait is a minute at the most."""
        deadline = time.monotonic() + CATCH_UP_SECONDS_MAX
        while True:
            wanted = {**headers, "Prefer": f"wait={WAIT_SECONDS}"}
            answer = await self._http.request(method, path, headers=wanted, content=body)
            if answer.status_code == 200 or time.monotonic() > deadline:
                return succeeded(answer)
            if answer.status_code not in (202, 503):
                raise BenchWrong(f"{path}: {answer.status_code} {answer.text[:500]}")

    async def give(self, customers: Sequence[str]) -> None:
        """Give these members points, so that they can redeem all day."""
        for customer in customers:
            body = {**_whom(customer), "wallet": "points", "points": GIVEN_POINTS, "reason": "bench"}
            succeeded(await self._http.post("/v1/adjustments", json=body, headers={"Prefer": "wait=10"}))

    async def redeem(self, body: bytes, key: str) -> None:
        """One redemption, decided when it returns. Raises BenchWrong for anything else."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "Prefer": f"wait={WAIT_SECONDS}"}
        answer = await posted(self._http, "/v1/redemptions", body, headers)
        if answer.status_code != 201:
            raise BenchWrong(f"a redemption was answered {answer.status_code} {answer.text[:500]}")


def redemption_body(customer: str) -> bytes:
    return orjson.dumps({**_whom(customer), "wallet": "points", "points": REDEEMED_POINTS})


def _whom(customer: str) -> dict[str, Any]:
    return {"identity": {"kind": "reference", "value": f"{SOURCE} {customer}"}}


def events_of(orders: Sequence[Order], at: datetime) -> list[dict[str, Any]]:
    """The orders' events, all as of `at`."""
    return [{**purchase(order), "time": at.isoformat()} for order in orders]


def batches_of(events: Sequence[dict[str, Any]]) -> list[bytes]:
    return [orjson.dumps(events[start : start + BATCH]) for start in range(0, len(events), BATCH)]


@asynccontextmanager
async def opened_shop(url: str, admin_key: str) -> AsyncIterator[Shop]:
    """Create the tenant, publish the sample program, and come in with the tenant's key."""
    async with Regulars(url, admin_key) as operator:
        made = await operator.post(
            "/v1/tenants", {"tenant": TENANT, "name": "Bench", "zone": ZONE, "currency": CURRENCY}
        )
    key = str(made["api_key"])
    async with Regulars(url, key) as client:
        await key_works(client)
        await publish_program(client)
    async with opened_client(url, {"Authorization": f"Bearer {key}"}) as http:
        yield Shop(http)
