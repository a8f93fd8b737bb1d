"""A shop behind the public API: one tenant on a test clock, its events, and the positions it was told."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx

from services.points.programs.sample import SAMPLE_PROGRAM
from shared.http.position import AFTER_HEADER, POSITION_HEADER
from tests.stack import Stack

OPENED: Final = datetime(2026, 1, 5, 12, tzinfo=UTC)
SOURCE: Final = "https://shop.example/pos-7"
WAIT: Final = {"Prefer": "wait=20"}


@dataclass
class Shop:
    """A tenant's client that reads its own writes."""

    name: str
    client: httpx.AsyncClient
    at: datetime = OPENED
    position: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request after all that was told before; underscores in header names are dashes."""
        sent = {**WAIT, **({AFTER_HEADER: self.position} if self.position else {})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.request(method, path, json=body, headers=sent)
        assert answer.status_code < 500, answer.text
        if told := answer.headers.get(POSITION_HEADER):
            self.position = told
        return answer

    async def get(self, path: str) -> Any:
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        answer = await self.ask("POST", path, body, **headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    async def publish(self, document: dict[str, Any] = SAMPLE_PROGRAM, **publishing: Any) -> Any:
        answer = await self.ask("PUT", "/v1/programs/club/draft", document)
        assert answer.status_code == 200, answer.text
        return await self.post("/v1/programs/club/publish", publishing)

    async def send(self, kind: str, happened: dict[str, Any], reference: str, at: datetime | None = None) -> str:
        """Record an event of this customer, decided when it returns; its id."""
        number = next(self._numbers)
        moment = (at or self.at).isoformat()
        event = {
            "specversion": "1.0",
            "id": f"evt-{number}",
            "source": SOURCE,
            "type": kind,
            "time": moment,
            "data": {"customer": {"reference": reference, **happened.pop("customer", {})}, **happened},
        }
        answer = await self.ask("POST", "/v1/events", event, Content_Type="application/cloudevents+json")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "recorded", answer.text
        return f"evt-{number}"

    async def buy(
        self, reference: str, amount_minor: int, order_id: str = "", at: datetime | None = None, **customer: str
    ) -> str:
        """A purchase of one line of two pieces; the event's id."""
        order = order_id or f"o{next(self._numbers)}"
        line = {"line_id": "1", "sku": "CD-1", "quantity": 2, "amount_minor": amount_minor}
        happened = {"channel": "web", "order_id": order, "currency": "USD", "lines": [line], "customer": customer}
        return await self.send("purchase.completed", happened, reference, at)

    async def refund(self, reference: str, order_id: str, quantity: int = 1) -> str:
        line = {"line_id": "1", "quantity": quantity, "amount_minor": 1}
        happened = {
            "channel": "web",
            "order_id": order_id,
            "refund_id": f"r{next(self._numbers)}",
            "currency": "USD",
            "lines": [line],
        }
        return await self.send("purchase.refunded", happened, reference)

    async def contact(self, reference: str) -> str:
        found = await self.post("/v1/members/lookup", {"identity": by_reference(reference)})
        return str(found["contact"])

    async def member(self, contact: str, as_of: datetime | None = None) -> Any:
        query = "" if as_of is None else "?" + str(httpx.QueryParams(as_of=as_of.isoformat()))
        return await self.get(f"/v1/members/{contact}{query}")

    async def available(self, contact: str, wallet: str = "points", as_of: datetime | None = None) -> int:
        wallets = (await self.member(contact, as_of))["wallets"]
        return next((int(each["available"]) for each in wallets if each["wallet"] == wallet), 0)

    async def pass_days(self, days: int) -> None:
        for _ in range(days):
            self.at += timedelta(days=1)
            await self.post("/v1/clock", {"to": self.at.isoformat()})


def by_reference(reference: str) -> dict[str, str]:
    return {"kind": "reference", "value": f"{SOURCE} {reference}"}


async def opened_shop(stack: Stack, name: str, **publishing: Any) -> Shop:
    """A new tenant on a test clock, with the sample program in force."""
    shop = Shop(name, await stack.tenant(name, clock_at=OPENED.isoformat()))
    await shop.publish(**publishing)
    return shop


def refused(answer: httpx.Response, status: int, code: str) -> Any:
    """The problem document of this answer, which must be that one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"/problems/{code}", problem
    assert problem["detail"], problem
    return problem
