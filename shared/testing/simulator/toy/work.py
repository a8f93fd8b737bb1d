"""What callers ask of the toy workers in one run, drawn from a seed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Final, NamedTuple

from shared.events.catalogue import Data
from shared.events.contacts import TENANT_SUBJECT, AdvanceClock, CreateTenant
from shared.testing.simulator.toy.events import (
    BONUS,
    OWNER,
    Deposit,
    Gift,
    Nickname,
    SetRate,
    Stumble,
    Transfer,
    Withdraw,
)

MARKS: Final = {"acme": "mark-of-acme", "brill": "mark-of-brill", "clockwork": "mark-of-clockwork"}
"""Tenants, each with a text that only its own inputs carry. They use the same contact ids on purpose."""
CLOCKED_TENANT: Final = "clockwork"
"""Runs on a test clock; the others on the log's time."""
CONTACTS: Final = tuple(f"c{number}" for number in range(1, 7))
DAY_SECONDS: Final = 86_400


class Ask(NamedTuple):
    """One request, or with `junk` some bytes that are none."""

    worker: str
    tenant: str
    subject: str
    key: str
    data: Data | None
    junk: bytes = b""


def opening(start: datetime) -> list[Ask]:
    """What comes before all else: the tenant on a test clock, and a rate for everybody."""
    created = CreateTenant(name=MARKS[CLOCKED_TENANT], clock_at=start)
    first = Ask("contacts", CLOCKED_TENANT, TENANT_SUBJECT, "create", created)
    rates = [
        Ask(OWNER, tenant, TENANT_SUBJECT, "rate-0", SetRate(percent=5, effective_from=start + timedelta(days=3650)))
        for tenant in MARKS
    ]
    return [first, *rates]


def work_of(seed: int, count: int, start: datetime) -> list[Ask]:
    """`count` asks in the order in which callers begin them.

    One in ten repeats an earlier key, some of these with another body or of another contact. A nickname is wanted by
    several contacts at once.
    """
    draw = Random(f"{seed}/work")
    clock = _clock(start)
    asks: list[Ask] = []
    for number in range(count):
        if asks and draw.random() < 0.1:
            asks.append(_again(draw, asks))
        else:
            fresh = _fresh(draw, f"k{number}", start, clock)
            asks.append(fresh)
            if isinstance(fresh.data, Nickname):
                rivals = draw.sample(CONTACTS, 3)
                asks += [fresh._replace(key=f"k{number}-{rival}", subject=rival) for rival in rivals]
    return asks[:count]


def _clock(start: datetime) -> Iterator[datetime]:
    while True:
        start += timedelta(hours=8)
        yield start


def _again(draw: Random, asks: list[Ask]) -> Ask:
    earlier = draw.choice(asks[-2:] if draw.random() < 0.6 else asks)
    if draw.random() < 0.3 and earlier.worker == OWNER and earlier.subject != TENANT_SUBJECT:
        return earlier._replace(subject=draw.choice(CONTACTS))
    if draw.random() < 0.2 and isinstance(earlier.data, Withdraw | Deposit):
        return earlier._replace(data=earlier.data.model_copy(update={"amount": earlier.data.amount + 1}))
    return earlier


def _fresh(draw: Random, key: str, start: datetime, clock: Iterator[datetime]) -> Ask:
    tenant = draw.choice(list(MARKS))
    subject = draw.choice(CONTACTS)
    mark = MARKS[tenant]
    match draw.choices(
        ("deposit", "withdraw", "transfer", "nickname", "rate", "gift", "clock", "stumble", "junk"),
        (34, 14, 24, 5, 4, 6, 6, 3, 3),
    )[0]:
        case "deposit":
            holds = (0, 0, 3600, DAY_SECONDS) if tenant == CLOCKED_TENANT else (0, 0, 1, 20)
            held = draw.choice(holds)
            return Ask(OWNER, tenant, subject, key, Deposit(amount=draw.randint(1, 500), hold_seconds=held, note=mark))
        case "withdraw":
            return Ask(OWNER, tenant, subject, key, Withdraw(amount=draw.randint(1, draw.choice((60, 300)))))
        case "transfer":
            amount = draw.randint(1, draw.choice((60, 500)))
            return Ask(OWNER, tenant, subject, key, Transfer(to=draw.choice(CONTACTS), amount=amount))
        case "nickname":
            return Ask(OWNER, tenant, subject, key, Nickname(nickname=f"{mark}-{draw.randint(1, 40)}"))
        case "rate":
            begins = start + timedelta(seconds=draw.randint(0, 60))
            return Ask(OWNER, tenant, TENANT_SUBJECT, key, SetRate(percent=draw.randint(0, 9), effective_from=begins))
        case "gift":
            return Ask(BONUS, tenant, subject, key, Gift(amount=draw.randint(1, 50)))
        case "clock":
            return Ask("contacts", CLOCKED_TENANT, TENANT_SUBJECT, key, AdvanceClock(to=next(clock)))
        case "stumble":
            return Ask(OWNER, tenant, subject, key, Stumble(note=mark))
        case _:
            return Ask(
                OWNER, tenant, subject, key, None, draw.choice((b"", b"{", b"\x00\xff", b'{"specversion":"1.0"}'))
            )
