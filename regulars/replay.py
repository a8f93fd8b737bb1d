"""Replays orders through the public HTTP API, day by day on a tenant with a test clock, and reads what came of them.

The figures depend on the orders alone, not on batch size, speed or hour: before the clock moves, the door has decided
what was sent that day, and before anything is sent, the clock has come through everywhere.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final

from regulars.cdnow import (
    CURRENCY,
    SOURCE,
    ZONE,
    Day,
    Order,
    Redemption,
    clock_of,
    purchase,
    redemption,
    refund,
)
from regulars.client import Denied, Refused, Regulars
from services.points.programs.sample import SAMPLE_PROGRAM

TENANT: Final = "demo"
PROGRAM: Final = "club"
TENANTS_MAX: Final = 1_000
REDEEMING_AT_ONCE: Final = 32
KEY_SECONDS_MAX: Final = 10.0
KEY_AGAIN_SECONDS: Final = 0.05


class ReplayWrong(Exception):
    """The API did not do with an event what it must; the message names both."""


@dataclass
class Done:
    """What was sent, and how it was answered."""

    orders: int = 0
    refunds: int = 0
    redeemed: int = 0
    refused: int = 0


@dataclass
class Figures:
    """What came of it, as the API says."""

    members_per_tier: dict[str, int]
    wallets: dict[str, dict[str, int]]
    """By wallet: issued, redeemed, lapsed, reversed, adjusted, outstanding."""
    postings_sum: int
    balanced: bool
    sent: dict[str, int] = field(default_factory=dict)


async def found_tenant(operator: Regulars, first: Day) -> tuple[str, str]:
    """Create a tenant on a test clock that stands on the eve of the first day; its name and its API key.

    Raises ProblemError.
    """
    body = {
        "name": "Record shop",
        "zone": ZONE,
        "currency": CURRENCY,
        "clock_at": clock_of(first.day - timedelta(days=1)).isoformat(),
    }
    for number in range(1, TENANTS_MAX):
        name = TENANT if number == 1 else f"{TENANT}-{number}"
        try:
            made = await operator.post("/v1/tenants", {"tenant": name, **body}, key=f"{name}-{secrets.token_hex(8)}")
        except Refused as refused:
            if refused.code != "tenant-exists":
                raise
        else:
            return name, str(made["api_key"])
    raise ReplayWrong(f"{TENANTS_MAX} demo tenants are there already: start with an empty database")


async def key_works(client: Regulars) -> None:
    """Wait until a new API key is known. Raises Denied after KEY_SECONDS_MAX."""
    deadline = asyncio.get_running_loop().time() + KEY_SECONDS_MAX
    while True:
        try:
            await client.get("/v1/tenants/current")
            return
        except Denied:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(KEY_AGAIN_SECONDS)


async def publish_program(client: Regulars) -> int:
    """Draft and publish the sample program; its version."""
    await client.put(f"/v1/programs/{PROGRAM}/draft", SAMPLE_PROGRAM)
    published = await client.post(f"/v1/programs/{PROGRAM}/publish", {})
    return int(published["version"])


async def replay(
    client: Regulars, days: Sequence[Day], batch: int, progress: Callable[[Day], None] = lambda _: None
) -> Done:
    """Send day by day: the clock, then redemptions, then refunds and orders in batches of `batch` events.

    Raises ProblemError, ReplayWrong.
    """
    done = Done()
    for day in days:
        await client.step_clock(clock_of(day.day))
        await _redeem(client, day.redemptions, done)
        events = [*map(refund, day.refunds), *map(purchase, day.orders)]
        for at in range(0, len(events), batch):
            sent = events[at : at + batch]
            _check(sent, await client.record(sent))
            await client.arrive()
        done.orders += len(day.orders)
        done.refunds += len(day.refunds)
        progress(day)
    await client.settle()
    return done


def _check(sent: Sequence[Mapping[str, Any]], answered: Sequence[Mapping[str, Any]]) -> None:
    for event, answer in zip(sent, answered, strict=True):
        if answer["status"] not in ("recorded", "accepted"):
            raise ReplayWrong(f"{event['id']} was answered {answer}")


async def _redeem(client: Regulars, asked: Sequence[Redemption], done: Done) -> None:
    """Some at a time: each is a member's own, so their order does not matter."""
    places = asyncio.Semaphore(REDEEMING_AT_ONCE)

    async def one(member: Redemption) -> bool:
        async with places:
            try:
                key = f"{member.customer}-{member.month}"
                await client.post("/v1/redemptions", redemption(member), key=key)
            except Refused as refused:
                if refused.code != "not-enough-points":
                    raise
                return False
            return True

    answers = await asyncio.gather(*map(one, asked))
    done.redeemed += sum(answers)
    done.refused += len(answers) - sum(answers)


async def figures(client: Regulars, done: Done | None = None) -> Figures:
    """What the API says of the whole tenant."""
    tiers = await client.get("/v1/tiers")
    totals = await client.get("/v1/totals")
    wallets = {
        str(one["wallet"]): {name: one[name] for name in WALLET_FIGURES if name in one} for one in totals["wallets"]
    }
    return Figures(
        members_per_tier={str(one["level"]): one["members"] for one in tiers["levels"]},
        wallets=wallets,
        postings_sum=totals["postings_sum"],
        balanced=totals["balanced"],
        sent={} if done is None else asdict(done),
    )


WALLET_FIGURES: Final = ("issued", "redeemed", "lapsed", "reversed", "adjusted", "owed", "outstanding")


async def contact_of(client: Regulars, customer: str) -> str:
    """The contact id of a customer of the file."""
    identity = {"kind": "reference", "value": f"{SOURCE} {customer}"}
    found = await client.post("/v1/members/lookup", {"identity": identity})
    return str(found["contact"])


def most_loyal(days: Sequence[Day]) -> str:
    """The customer with the most orders, the lowest number of several: the one whose ledger is shown."""
    orders: dict[str, int] = {}
    for order in _all_orders(days):
        orders[order.customer] = orders.get(order.customer, 0) + 1
    return min(orders, key=lambda customer: (-orders[customer], customer))


def _all_orders(days: Sequence[Day]) -> list[Order]:
    return [order for day in days for order in day.orders]
