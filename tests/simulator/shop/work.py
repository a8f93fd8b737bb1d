"""What senders deliver to the door and callers ask of contacts and points in one run, drawn from a seed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, NamedTuple

from shared.events.catalogue import Data
from shared.events.contacts import AdvanceClock, CreateTenant, IssueCredential
from shared.events.points import AdjustPoints, DraftProgram, PublishProgram, RedeemPoints

MARKS: Final = {"acme": "mark-of-acme", "clockwork": "mark-of-clockwork"}
"""Tenants, each with a text that only its own inputs carry. They use the same references and orders on purpose."""
CLOCKED_TENANT: Final = "clockwork"
PRIVATE: Final = "private"
"""Stands in every e-mail address, and so nowhere but in inboxes."""
PHONE: Final = "+86138"
PEOPLE: Final = 6
SOURCE: Final = "https://shop.example/pos-7"
VISIT: Final = "com.example.visit"
LAPSE_DAYS: Final = 3
SOON_SECONDS: Final = 90
"""Points may lapse this long after the run began, while it goes on."""
CLOCK_STEP: Final = timedelta(hours=8)


class Deliver(NamedTuple):
    """A CloudEvent as its sender sends it."""

    tenant: str
    event: dict[str, Any]


class Junk(NamedTuple):
    """Bytes in the door's inbox that are no delivery."""

    tenant: str
    value: bytes


class Request(NamedTuple):
    """A request about the tenant as a whole, or of a member whom the caller picks when it asks."""

    tenant: str
    worker: str
    key: str
    data: Data


class Again(NamedTuple):
    """An earlier request once more, perhaps of another member."""

    other_member: bool


Act = Deliver | Junk | Request | Again


def opening(start: datetime) -> list[Act]:
    """What comes before all else: tenants, API keys, a program in force."""
    acts: list[Act] = []
    for tenant, mark in MARKS.items():
        clock_at = start if tenant == CLOCKED_TENANT else None
        acts.append(Request(tenant, "contacts", "create", CreateTenant(name=mark, zone="UTC", clock_at=clock_at)))
        acts.append(Request(tenant, "contacts", "first", credential(tenant, "c0")))
        acts.append(Request(tenant, "points", "draft-0", DraftProgram(document=program(tenant, 100))))
        begins = start - timedelta(days=30)
        acts.append(Request(tenant, "points", "publish-0", PublishProgram(effective_from=begins)))
    return acts


def credential(tenant: str, name: str) -> IssueCredential:
    """Its name carries the tenant's mark."""
    given = f"{tenant}/{name}".encode().hex().ljust(64, "0")[:64]
    return IssueCredential(credential_id=name, secret_hash=given, scopes=("points:read",), name=MARKS[tenant])


def program(tenant: str, per_minor: int) -> dict[str, Any]:
    """Points lapse after LAPSE_DAYS, tiers are reviewed on the third of January, a refund may leave a debt."""
    expiry = {"kind": "rolling", "days": LAPSE_DAYS}
    visited = {"kind": "fixed", "wallet": "points", "points": 3}
    per_amount = {"kind": "per_amount", "points": 1, "per_minor": per_minor}
    levels = [{"code": f"level_{n}", "name": f"{n}", "threshold": n} for n in (0, 50, 200)]
    bought = "purchase.completed"
    return {
        "name": MARKS[tenant],
        "wallets": [
            {"code": "points", "kind": "redeemable", "name": "Points", "expiry": expiry},
            {"code": "status", "kind": "qualifying", "name": "Status"},
        ],
        "rules": [
            {"code": "base", "name": "Base", "on": bought, "effect": {**per_amount, "wallet": "points"}},
            {"code": "status", "name": "Status", "on": bought, "effect": {**per_amount, "wallet": "status"}},
            {
                "code": "welcome",
                "name": "Welcome",
                "on": bought,
                "when": "member.purchases_before == 0",
                "effect": {"kind": "fixed", "wallet": "points", "points": 20},
            },
            {
                "code": "visit",
                "name": "Visit",
                "on": VISIT,
                "effect": visited,
            },
        ],
        "tiers": {
            "code": "club",
            "wallet": "status",
            "levels": levels,
            "review": {"kind": "yearly", "month": 1, "day": 3, "downgrade": "step"},
        },
        "redemption": {"wallet": "points", "minor_per_point": 1, "refunds": "allow-negative"},
    }


def work_of(seed: int, count: int, start: datetime) -> list[Act]:
    """`count` acts in the order in which callers begin them."""
    drawn = Drawn(Random(f"{seed}/shop"), start)
    return [drawn.act(number) for number in range(count)]


class Drawn:
    """Draws acts; remembers what was delivered and ordered."""

    def __init__(self, draw: Random, start: datetime) -> None:
        self._draw, self._start = draw, start
        self._orders: dict[str, list[str]] = {tenant: [] for tenant in MARKS}
        self._delivered: list[Deliver] = []
        self._clock = self._steps()

    def _steps(self) -> Iterator[datetime]:
        at = self._start
        while True:
            at += CLOCK_STEP
            yield at

    def act(self, number: int) -> Act:
        draw, tenant = self._draw, self._draw.choice(list(MARKS))
        kinds = ("purchase", "refund", "visit", "repeat", "conflict", "redeem", "adjust", "again", "clock", "program")
        match draw.choices((*kinds, "key", "junk"), (30, 12, 6, 8, 4, 16, 5, 6, 8, 2, 1, 2))[0]:
            case "purchase":
                return self._send(tenant, f"e{number}", "purchase.completed", self._purchase(tenant))
            case "refund" if self._orders[tenant]:
                return self._send(tenant, f"e{number}", "purchase.refunded", self._refund(tenant, number))
            case "visit":
                return self._send(tenant, f"e{number}", VISIT, {"store": MARKS[tenant]})
            case "repeat" if self._delivered:
                return draw.choice(self._delivered[-6:] if draw.random() < 0.5 else self._delivered)
            case "conflict" if self._delivered:
                return self._conflict(f"e{number}")
            case "adjust":
                points = draw.choice((draw.randint(1, 40), -draw.randint(1, 40)))
                adjust = AdjustPoints(wallet="points", points=points, reason=MARKS[tenant], by="li")
                return Request(tenant, "points", f"k{number}", adjust)
            case "again":
                return Again(draw.random() < 0.5)
            case "clock":
                return Request(CLOCKED_TENANT, "contacts", f"k{number}", AdvanceClock(to=next(self._clock)))
            case "program":
                if draw.random() < 0.5:
                    return Request(tenant, "points", f"k{number}", PublishProgram())
                document = program(tenant, draw.choice((50, 100, 200)))
                return Request(tenant, "points", f"k{number}", DraftProgram(document=document))
            case "key":
                return Request(tenant, "contacts", f"k{number}", credential(tenant, f"c{number}"))
            case "junk":
                return Junk(tenant, draw.choice((b"", b"{", b"\x00\xff", b'{"specversion":"1.0"}')))
            case _:
                redeem = RedeemPoints(points=draw.randint(1, 30), reference=MARKS[tenant])
                return Request(tenant, "points", f"k{number}", redeem)

    def _send(self, tenant: str, name: str, event_type: str, data: dict[str, Any]) -> Deliver:
        event = {
            "specversion": "1.0",
            "id": name,
            "source": SOURCE,
            "type": event_type,
            "time": self._time().isoformat(),
            "data": {"customer": self._customer(tenant), **data},
        }
        self._delivered.append(Deliver(tenant, event))
        return self._delivered[-1]

    def _time(self) -> datetime:
        """Now, late, or so late that the points lapse during the run or have lapsed already."""
        lapses_soon = timedelta(days=LAPSE_DAYS) - timedelta(seconds=self._draw.randint(1, SOON_SECONDS))
        late = (timedelta(0), timedelta(0), timedelta(days=1), lapses_soon, timedelta(days=LAPSE_DAYS + 1))
        return self._start - self._draw.choice(late)

    def _customer(self, tenant: str) -> dict[str, str]:
        """Somebody, named by some of what is known of them: the same person comes in at several partitions."""
        person = self._draw.randint(1, PEOPLE)
        known = {
            "reference": f"P{person}",
            "phone": f"{PHONE}00{list(MARKS).index(tenant)}00{person}{person}",
            "email": f"{PRIVATE}-{person}@{tenant}.example.com",
        }
        names = self._draw.choice(
            (("reference",), ("phone",), ("reference", "phone"), ("phone", "email"), tuple(known))
        )
        return {name: known[name] for name in names}

    def _purchase(self, tenant: str) -> dict[str, Any]:
        """A new order; one in eight is the second report of an earlier one under another id."""
        orders = self._orders[tenant]
        if orders and self._draw.random() < 1 / 8:
            order = self._draw.choice(orders)
        else:
            order = f"o{len(orders)}"
            orders.append(order)
        lines = [self._line(tenant, nth) for nth in range(self._draw.randint(1, 3))]
        return {"channel": "web", "order_id": order, "currency": "USD", "lines": lines}

    def _line(self, tenant: str, nth: int) -> dict[str, Any]:
        amount = 100 * self._draw.randint(1, 60)
        return {"line_id": f"{nth}", "sku": MARKS[tenant], "quantity": self._draw.randint(1, 3), "amount_minor": amount}

    def _refund(self, tenant: str, number: int) -> dict[str, Any]:
        """Of an order that was sent, or of one that comes only later, or never."""
        orders = self._orders[tenant]
        later = f"o{len(orders) + self._draw.randint(0, 2)}"
        order = self._draw.choice((orders[-1], self._draw.choice(orders), later))
        line = {"line_id": "0", "quantity": 1, "amount_minor": self._draw.randint(1, 200)}
        refund = self._draw.choice((f"r{number}", "r"))
        return {"channel": "web", "order_id": order, "refund_id": refund, "currency": "USD", "lines": [line]}

    def _conflict(self, name: str) -> Deliver:
        """Another body under a known id, or a known body under another id."""
        earlier = self._draw.choice(self._delivered)
        if self._draw.random() < 0.5:
            return earlier._replace(event={**earlier.event, "id": name})
        customer = self._customer(earlier.tenant)
        return earlier._replace(event={**earlier.event, "data": {**earlier.event["data"], "customer": customer}})
