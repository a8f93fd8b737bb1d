"""The demo's purchases: CDNOW's customers of early 1997 until June 1998, and what the demo adds to them.

The file comes with the Python package `lifetimes` (`datasets/CDNOW_master.txt`) and is read from there, nothing else of
that package is used. Described in Fader and Hardie, "Forecasting repeat sales at CDNOW" (2001),
https://www.brucehardie.com/notes/026/. The rules by which refunds and redemptions are added are published in
`docs/demo.md`, for who wants to count for himself.
"""

import importlib.util
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

PACKAGE: Final = "lifetimes"
FILE: Final = "datasets/CDNOW_master.txt"

SOURCE: Final = "https://cdnow.example/shop"
CHANNEL: Final = "web"
CURRENCY: Final = "USD"
ZONE: Final = "America/New_York"
LINE_ID: Final = "1"

REFUND_EVERY: Final = 50
"""Of the order whose number is divisible by this, one piece goes back."""
REFUND_AFTER: Final = timedelta(days=10)
REDEEM_FROM_MINOR: Final = 150_00
"""Who bought for this much in a month asks to redeem on the first of the next."""
REDEEM_POINTS: Final = 200

REFUNDED_AT: Final = time(16, tzinfo=UTC)
BOUGHT_AT: Final = time(17, tzinfo=UTC)
"""Noon or one o'clock in New York, so that the file's day is the day there."""
CLOCK_AT: Final = time(23, tzinfo=UTC)
"""Where the tenant's clock stands on each day: what happened on it lies behind."""


class FileMissing(Exception):
    """The purchases are not installed; the message says what to do."""


class Order(NamedTuple):
    """One line of the file: an order of one line. `number` counts the file's lines from 1."""

    number: int
    customer: str
    day: date
    quantity: int
    amount_minor: int


class Redemption(NamedTuple):
    """A member who asks to redeem; whether there are enough points is the ledger's business."""

    customer: str
    month: str
    """The month whose purchases were the reason, as 1997-02."""


class Day(NamedTuple):
    """What happens on a day, in this order."""

    day: date
    redemptions: Sequence[Redemption]
    refunds: Sequence[Order]
    orders: Sequence[Order]


def read_orders() -> list[Order]:
    """All 69,659 lines of the file. Raises FileMissing."""
    found = importlib.util.find_spec(PACKAGE)
    places = [] if found is None else list(found.submodule_search_locations or ())
    path = Path(*places[:1], FILE)
    if not places or not path.is_file():
        raise FileMissing(f"the purchases come with the Python package {PACKAGE}: run `uv sync`, or pip install it")
    return parse_orders(path.read_text("ascii"))


def parse_orders(text: str) -> list[Order]:
    """The file's text: a line of headings, then customer, day as YYYYMMDD, number of CDs, dollars with two decimals."""
    orders = []
    for number, line in enumerate(text.splitlines()[1:], 1):
        customer, day, quantity, dollars = line.split()
        orders.append(Order(number, customer, date.fromisoformat(day), int(quantity), _minor(dollars)))
    return orders


def _minor(dollars: str) -> int:
    """Cents, exactly: 11.77 is 1177, and no float is ever made of it."""
    whole, _, cents = dollars.partition(".")
    if len(cents) != 2:
        raise ValueError(f"{dollars!r} has not two decimals")
    return int(whole) * 100 + int(cents)


def tenth(orders: Sequence[Order], seed: int) -> list[Order]:
    """The orders of a random tenth of the customers, the same for the same seed; they keep their numbers."""
    customers = sorted({order.customer for order in orders})
    kept = set(random.Random(seed).sample(customers, len(customers) // 10))
    return [order for order in orders if order.customer in kept]


def days(orders: Iterable[Order]) -> list[Day]:
    """Day by day from the first order to the last; refunds that would come later are left out."""
    bought: dict[date, list[Order]] = defaultdict(list)
    back: dict[date, list[Order]] = defaultdict(list)
    spent: dict[tuple[int, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for order in orders:
        bought[order.day].append(order)
        if order.number % REFUND_EVERY == 0:
            back[order.day + REFUND_AFTER].append(order)
        spent[(order.day.year, order.day.month)][order.customer] += order.amount_minor
    first, last = min(bought), max(bought)
    found = []
    for offset in range((last - first).days + 1):
        day = first + timedelta(days=offset)
        before = day - timedelta(days=1)
        asking = spent.get((before.year, before.month), {}) if day.day == 1 else {}
        redemptions = [
            Redemption(customer, f"{before:%Y-%m}")
            for customer, amount_minor in sorted(asking.items())
            if amount_minor >= REDEEM_FROM_MINOR
        ]
        found.append(Day(day, redemptions, back[day], bought[day]))
    return found


def clock_of(day: date) -> datetime:
    return datetime.combine(day, CLOCK_AT)


def purchase(order: Order) -> dict[str, Any]:
    """The CloudEvent that reports the order."""
    line = {"line_id": LINE_ID, "sku": "CD", "quantity": order.quantity, "amount_minor": order.amount_minor}
    data = {
        "customer": {"reference": order.customer},
        "channel": CHANNEL,
        "order_id": str(order.number),
        "currency": CURRENCY,
        "lines": [line],
    }
    return _event("purchase.completed", f"order-{order.number}", datetime.combine(order.day, BOUGHT_AT), data)


def refund(order: Order) -> dict[str, Any]:
    """The CloudEvent that reports one piece of the order gone back."""
    line = {"line_id": LINE_ID, "quantity": 1, "amount_minor": order.amount_minor // order.quantity}
    data = {
        "customer": {"reference": order.customer},
        "channel": CHANNEL,
        "order_id": str(order.number),
        "refund_id": "1",
        "currency": CURRENCY,
        "lines": [line],
    }
    at = datetime.combine(order.day + REFUND_AFTER, REFUNDED_AT)
    return _event("purchase.refunded", f"refund-{order.number}", at, data)


def _event(kind: str, identifier: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
    stated = {"specversion": "1.0", "id": identifier, "source": SOURCE, "type": kind}
    return {**stated, "time": at.isoformat(), "data": data}


def redemption(asked: Redemption) -> dict[str, Any]:
    """The body of `POST /v1/redemptions`."""
    identity = {"kind": "reference", "value": f"{SOURCE} {asked.customer}"}
    return {"identity": identity, "wallet": "points", "points": REDEEM_POINTS, "reference": f"month {asked.month}"}
