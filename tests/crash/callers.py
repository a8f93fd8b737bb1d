"""The load of a round: callers who buy, return, redeem, adjust and repeat themselves, each for one tenant over HTTP.

A caller repeats what got no definite answer, under the same name, until it gets one; it writes down what it was told.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, NamedTuple

import httpx

from services.points.programs.sample import SAMPLE_PROGRAM
from shared.http.position import AFTER_HEADER, POSITION_HEADER
from tests.crash.notes import Answer, Body, Defect, EventNote, Named, Notebook, RequestNote
from tests.crash.waiting import passed

TENANT: Final = "acme"
PROGRAM: Final = "main"
SHOPS: Final = ("https://shop-1.example", "https://shop-2.example")
CUSTOMERS: Final = 24
WAIT_SECONDS: Final = 2
TIMEOUT_SECONDS: Final = 8.0
AGAIN_SECONDS: Final = 0.1
BEFORE_GIVING_UP_SECONDS: Final = 60.0
"""However long faults last, a caller gets its answer within this time."""
UNDECIDED: Final = frozenset({202, 429, 500, 502, 503, 504})
FIRST_POINTS: Final = 100_000


class Line:
    """One tenant's way to the API. `definite` repeats until it knows."""

    def __init__(self, url: str, key: str, notebook: Notebook) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self.notebook = notebook
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS)
        self._never = asyncio.Event()

    async def close(self) -> None:
        await self._http.aclose()

    async def definite(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str = "",
        wait: int = WAIT_SECONDS,
        enough: int = 0,
        not_yet: int = 0,
        after: str = "",
    ) -> Answer:
        """Ask until there is an answer that is no fault and no delay; `enough`: a status that also is one; `not_yet`:
        one that is not.

        Raises Defect when there is none in BEFORE_GIVING_UP_SECONDS.
        """
        headers = {"Prefer": f"wait={wait}"}
        headers |= {"Idempotency-Key": key} if key else {}
        headers |= {AFTER_HEADER: after} if after else {}
        last = ""
        deadline = asyncio.get_running_loop().time() + BEFORE_GIVING_UP_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            try:
                answer = await self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                last = repr(error)
            else:
                status = answer.status_code
                if status == enough or (status not in UNDECIDED and status != not_yet):
                    return Answer(status, answer.json(), answer.headers.get(POSITION_HEADER, ""))
                last = f"{answer.status_code} {answer.text[:200]}"
            self.notebook.unknown += 1
            await passed(AGAIN_SECONDS, self._never)
        raise Defect(f"{method} {path} has no definite answer after {BEFORE_GIVING_UP_SECONDS:.0f} s: {last}")


class Order(NamedTuple):
    """What a shop knows of an order; `cents` of the whole line, `refunds` asked for so far."""

    customer: int
    order_id: str
    cents: int
    quantity: int
    refunds: int


def event(source: str, event_id: str, kind: str, customer: int, **said: Any) -> Body:
    """A CloudEvent of a shop. Each shop has a number of its own for a customer, and all know the same e-mail."""
    known_as = {"reference": f"{SHOPS.index(source)}-{customer}", "email": f"c{customer}@example.com"}
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": kind,
        "time": datetime.now(UTC).isoformat(),
        "data": {"customer": known_as, **said},
    }


async def open_tenant(url: str, operator_key: str, notebook: Notebook) -> tuple[Line, list[str]]:
    """A tenant with a published program and CUSTOMERS with points; how to call it, and its contacts."""
    operator = Line(url, operator_key, notebook)
    body = {"tenant": TENANT, "name": "Acme", "zone": "UTC", "currency": "USD"}
    created = await operator.definite("POST", "/v1/tenants", body, key="create-acme", wait=20)
    await operator.close()
    line = Line(url, expect(created, 201)["api_key"], notebook)
    # Services hear of a new key by the stream.
    expect(await line.definite("GET", "/v1/tenants/current", not_yet=401), 200)
    expect(await line.definite("PUT", f"/v1/programs/{PROGRAM}/draft", SAMPLE_PROGRAM, key="draft", wait=20), 200)
    expect(await line.definite("POST", f"/v1/programs/{PROGRAM}/publish", {}, key="publish", wait=20), 200)
    contacts = await asyncio.gather(*(_join(line, nth) for nth in range(CUSTOMERS)))
    return line, list(contacts)


async def _join(line: Line, nth: int) -> str:
    """A customer's first event, and points to spend."""
    first = event(SHOPS[0], f"join-{nth}", "custom.recorded", nth, name="member.joined", fields={"nth": nth})
    note = line.notebook.events[first["source"], first["id"]] = EventNote([first])
    told = await line.definite("POST", "/v1/events", first, wait=20)
    note.told.append(told)
    contact = str(expect(told, 200)["contact"])
    gift = {"contact": contact, "wallet": "points", "points": FIRST_POINTS, "reason": "a start", "by": "the round"}
    asked = line.notebook.requests[f"gift-{nth}"] = RequestNote("points", "/v1/adjustments", gift)
    asked.told.append(await line.definite("POST", asked.path, gift, key=f"gift-{nth}", after=told.position))
    expect(asked.told[-1], 201)
    return contact


def expect(answer: Answer, status: int) -> Body:
    """The answer's body. Raises Defect for another status."""
    if answer.status != status:
        raise Defect(f"expected {status}, was told {answer.status}: {answer.body}")
    return answer.body


class Caller:
    """One shop's till: one thing after the other, drawn from a seed."""

    def __init__(self, line: Line, contacts: list[str], number: int, draw: Random) -> None:
        self._line, self._contacts, self._number, self._draw = line, contacts, number, draw
        self._notebook = line.notebook
        self._source = SHOPS[number % len(SHOPS)]
        self._count = 0
        self._sent: list[Named] = []
        self._bought: list[Order] = []

    async def call(self, over: asyncio.Event) -> None:
        """Until it is over; what was begun is brought to its end."""
        deeds = (
            (self._buy, 34),
            (self._send_again, 10),
            (self._contradict, 6),
            (self._report_twice, 6),
            (self._give_back, 12),
            (self._visit, 8),
            (self._redeem, 14),
            (self._adjust, 6),
            (self._reuse_key, 2),
            (self._issue_key, 5),
        )
        doing, weights = [deed for deed, _ in deeds], [weight for _, weight in deeds]
        while not over.is_set():
            self._count += 1
            await self._draw.choices(doing, weights)[0]()

    async def _buy(self) -> None:
        bought = self._order()
        await self._deliver(self._purchase("buy", bought))
        self._bought.append(bought)

    def _order(self) -> Order:
        quantity = self._draw.randint(1, 3)
        return Order(self._customer(), self._name("order"), self._draw.randint(100, 5_000) * quantity, quantity, 0)

    def _customer(self) -> int:
        """Two thirds joined before; of the others, both shops may meet one for the first time at once."""
        return self._draw.randrange(CUSTOMERS * 3 // 2)

    def _purchase(self, what: str, bought: Order, more_cents: int = 0) -> Body:
        line = {"line_id": "1", "sku": "CD-1", "quantity": bought.quantity, "amount_minor": bought.cents + more_cents}
        said = {"channel": "web", "order_id": bought.order_id, "currency": "USD", "lines": [line]}
        return event(self._source, self._name(what), "purchase.completed", bought.customer, **said)

    async def _send_again(self) -> None:
        if self._sent:
            named = self._draw.choice(self._sent)
            await self._deliver(self._notebook.events[named].contents[0])

    async def _contradict(self) -> None:
        """The same source and id with another body: refused for ever."""
        if self._sent:
            named = self._draw.choice(self._sent)
            first = self._notebook.events[named].contents[0]
            other = {**first, "data": {**first["data"], "store": self._name("elsewhere")}}
            if "fields" in first["data"]:
                other = {**first, "data": {**first["data"], "fields": {"other": self._count}}}
            await self._deliver(other)

    async def _report_twice(self) -> None:
        """An order that is known, under another id: never earned twice."""
        if self._bought:
            again = self._purchase("again", self._draw.choice(self._bought), self._draw.choice((0, 100)))
            await self._deliver(again)

    async def _give_back(self) -> None:
        """One piece of an order; now and then the refund comes before its order."""
        if self._draw.random() < 0.3:
            bought = self._order()
            await self._refund(bought)
            await self._deliver(self._purchase("late", bought))
            self._bought.append(bought._replace(refunds=1))
        elif self._bought:
            at = self._draw.randrange(len(self._bought))
            bought = self._bought[at]
            if bought.refunds < bought.quantity:
                self._bought[at] = bought._replace(refunds=bought.refunds + 1)
                await self._refund(bought)

    async def _refund(self, bought: Order) -> None:
        line = {"line_id": "1", "quantity": 1, "amount_minor": bought.cents // bought.quantity}
        refund_id = f"r{bought.refunds}"
        said = {
            "channel": "web",
            "order_id": bought.order_id,
            "refund_id": refund_id,
            "currency": "USD",
            "lines": [line],
        }
        await self._deliver(event(self._source, self._name("back"), "purchase.refunded", bought.customer, **said))

    async def _visit(self) -> None:
        said: Body = {"name": "store.visited", "fields": {"minutes": self._draw.randint(1, 60)}}
        await self._deliver(event(self._source, self._name("visit"), "custom.recorded", self._customer(), **said))

    async def _deliver(self, sent: Body) -> None:
        """Send an event until it is acknowledged; half the time also wait for what became of it."""
        named = (sent["source"], sent["id"])
        note = self._notebook.events.setdefault(named, EventNote([sent]))
        if sent not in note.contents:
            note.contents.append(sent)
        wait = self._draw.choice((0, WAIT_SECONDS))
        told = await self._line.definite("POST", "/v1/events", sent, wait=wait, enough=202)
        if told.status not in (200, 202):
            raise Defect(f"{named} was refused with {told.status}: {told.body}")
        note.told.append(replace(told, content=note.contents.index(sent)))
        if named not in self._sent:
            self._sent.append(named)

    async def _redeem(self) -> None:
        body = {"contact": self._draw.choice(self._contacts), "wallet": "points", "points": 100}
        await self._ask("/v1/redemptions", body)

    async def _adjust(self) -> None:
        points = self._draw.choice((-250, -30, 40, 500))
        contact = self._draw.choice(self._contacts)
        body = {"contact": contact, "wallet": "points", "points": points, "reason": "a round", "by": "the round"}
        await self._ask("/v1/adjustments", body)

    async def _issue_key(self) -> None:
        await self._ask("/v1/credentials", {"name": self._name("till"), "scopes": ["points:read"]}, "contacts")

    async def _ask(self, path: str, body: Body, worker: str = "points") -> None:
        """Ask until it is decided; now and then twice at the same time, or once more afterwards."""
        key = self._name("key")
        note = self._notebook.requests[key] = RequestNote(worker, path, body)
        at_once = 2 if self._draw.random() < 0.2 else 1
        note.told += await asyncio.gather(*(self._line.definite("POST", path, body, key=key) for _ in range(at_once)))
        if self._draw.random() < 0.2:
            note.told.append(await self._line.definite("POST", path, body, key=key))
        if len(note.decided) != len(note.told):
            raise Defect(f"{path} {key}: {note.told}")

    async def _reuse_key(self) -> None:
        """A key that was used with another body is refused with 422 and changes nothing."""
        used = [key for key, note in self._notebook.requests.items() if note.decided and note.worker == "points"]
        key = self._draw.choice(used)
        note = self._notebook.requests[key]
        answer = await self._line.definite("POST", note.path, {**note.body, "points": 700}, key=key)
        expect(answer, 422)
        self._notebook.reused += 1

    def _name(self, what: str) -> str:
        return f"{what}-{self._number}-{self._count}"
