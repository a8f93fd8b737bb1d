"""The demo counted again, from the raw file and the rules as docs/demo.md and docs/programs.md publish them.

It imports nothing of Regulars: plain Python over a text file, one member at a time, day by day.

    python tests/recount/recount.py CDNOW_master.txt [seed]
"""

import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

LEVELS = (("member", 0), ("silver", 100), ("gold", 300), ("platinum", 1000))
REVIEW = (7, 1)
WELCOME = 50
MEMBER_DAY = 15


class Order(NamedTuple):
    number: int
    customer: str
    day: date
    pieces: int
    cents: int


@dataclass
class Lot:
    """Points of one award."""

    points: int
    left: int
    lapses_on: date


@dataclass
class Award:
    """What one rule gave for one order: the lot it made, None for status points."""

    points: int
    lot: Lot | None


@dataclass
class Member:
    orders: int = 0
    lots: list[Lot] = field(default_factory=list)
    awards: dict[int, list[Award]] = field(default_factory=dict)
    level: int = 0
    status_of_period: int = 0
    status: int = 0
    issued: int = 0
    redeemed: int = 0
    lapsed: int = 0
    taken_back: int = 0
    status_issued: int = 0

    @property
    def balance(self) -> int:
        return sum(lot.left for lot in self.lots)

    def burn_order(self) -> list[Lot]:
        """First what lapses first, then what was written down first (lots are in that order)."""
        return sorted(self.lots, key=lambda lot: lot.lapses_on)


def read(text: str) -> list[Order]:
    found = []
    for number, line in enumerate(text.splitlines()[1:], 1):
        customer, day, pieces, dollars = line.split()
        found.append(Order(number, customer, date.fromisoformat(day), int(pieces), int(dollars.replace(".", ""))))
    return found


def tenth(orders: list[Order], seed: int) -> list[Order]:
    customers = sorted({order.customer for order in orders})
    kept = set(random.Random(seed).sample(customers, len(customers) // 10))
    return [order for order in orders if order.customer in kept]


def lapses_on(day: date) -> date:
    """Twelve months, to the end of that month: gone on the first of the month after."""
    return date(day.year + 1 + day.month // 12, day.month % 12 + 1, 1)


def earn(member: Member, order: Order) -> None:
    dollars = order.cents // 100
    given = [dollars, dollars if order.day.day == MEMBER_DAY else 0, WELCOME if member.orders == 0 else 0]
    member.orders += 1
    awards = []
    for points in given:
        if points:
            lot = Lot(points, points, lapses_on(order.day))
            member.lots.append(lot)
            awards.append(Award(points, lot))
            member.issued += points
    if dollars:
        awards.append(Award(dollars, None))
    member.awards[order.number] = awards
    member.status += dollars
    member.status_issued += dollars
    member.status_of_period += dollars
    member.level = max(member.level, level_of(member.status_of_period))


def level_of(status: int) -> int:
    return max(at for at, (_, threshold) in enumerate(LEVELS) if threshold <= max(status, 0))


def refund(member: Member, order: Order, on: date) -> None:
    """One piece of the order comes back with its share of each award; what is spent is taken from other lots."""
    for award in member.awards[order.number]:
        points = award.points // order.pieces
        if award.lot is None:
            member.status -= points
            if order.day >= period_start(on):
                member.status_of_period -= points
            continue
        for lot in [award.lot, *member.burn_order()]:
            part = min(points, lot.left)
            lot.left -= part
            points -= part
            member.taken_back += part


def period_start(on: date) -> date:
    review = date(on.year, *REVIEW)
    return review if on >= review else date(on.year - 1, *REVIEW)


def redeem(member: Member, points: int) -> bool:
    if member.balance < points:
        return False
    member.redeemed += points
    for lot in member.burn_order():
        part = min(points, lot.left)
        lot.left -= part
        points -= part
    return True


def begin_day(members: Iterable[Member], day: date) -> None:
    for member in members:
        if day.day == 1:
            for lot in member.lots:
                if lot.lapses_on <= day:
                    member.lapsed += lot.left
                    lot.left = 0
        if (day.month, day.day) == REVIEW:
            member.level = max(member.level - 1, level_of(member.status_of_period))
            member.status_of_period = 0


def count(orders: list[Order]) -> tuple[dict[str, Member], dict[str, int]]:
    """Every member as it stands at the end, and what was sent."""
    members: dict[str, Member] = defaultdict(Member)
    bought: dict[date, list[Order]] = defaultdict(list)
    for order in orders:
        bought[order.day].append(order)
    day, last = min(bought), max(bought)
    sent = {"orders": 0, "refunds": 0, "redeemed": 0, "refused": 0}
    of_month: dict[str, int] = {}
    while day <= last:
        begin_day(members.values(), day)
        if day.day == 1:
            for customer, cents in of_month.items():
                if cents >= 15_000:
                    sent["redeemed" if redeem(members[customer], 200) else "refused"] += 1
            of_month = {}
        for order in bought.get(day - timedelta(days=10), []):
            if order.number % 50 == 0:
                refund(members[order.customer], order, day)
                sent["refunds"] += 1
        for order in bought.get(day, []):
            earn(members[order.customer], order)
            of_month[order.customer] = of_month.get(order.customer, 0) + order.cents
            sent["orders"] += 1
        day += timedelta(days=1)
    return dict(members), sent


def summary(members: dict[str, Member], sent: dict[str, int]) -> dict[str, object]:
    """The figures, under the API's names."""
    everybody = list(members.values())
    per_level = {name: sum(LEVELS[member.level][0] == name for member in everybody) for name, _ in LEVELS}
    status_back = sum(member.status_issued - member.status for member in everybody)
    return {
        "sent": sent,
        "members_per_tier": per_level,
        "wallets": {
            "points": {
                "issued": sum(member.issued for member in everybody),
                "redeemed": sum(member.redeemed for member in everybody),
                "lapsed": sum(member.lapsed for member in everybody),
                "reversed": sum(member.taken_back for member in everybody),
                "adjusted": 0,
                "owed": 0,
                "outstanding": sum(member.balance for member in everybody),
            },
            "status": {
                "issued": sum(member.status_issued for member in everybody),
                "redeemed": 0,
                "lapsed": 0,
                "reversed": status_back,
                "adjusted": 0,
                "owed": 0,
                "outstanding": sum(member.status for member in everybody),
            },
        },
    }


if __name__ == "__main__":
    everything = read(Path(sys.argv[1]).read_text())
    chosen = tenth(everything, int(sys.argv[2])) if len(sys.argv) > 2 else everything
    sys.stdout.write(json.dumps(summary(*count(chosen)), indent=2) + "\n")
