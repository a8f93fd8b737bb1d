"""Lots: points that were earned together and lapse together.

The burn order, as a shopkeeper would say it: first the points that lapse first; of those that lapse together, the ones
earned first; of those earned together, the ones written down first. Points that never lapse go last. A lot is gone at
the very instant it lapses: at 00:00:00 there is nothing left of it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from services.points.ledger.store import LotRow
from shared.events.points import FromLot

NEVER: Final = datetime.max.replace(tzinfo=UTC)


def lapsed(lot: LotRow, at: datetime) -> bool:
    """Whether the lot can no longer be spent at that instant, be its expiry written down yet or not."""
    return lot.expires_at is not None and lot.expires_at <= at


def spendable(lots: Iterable[LotRow], wallet: str, at: datetime) -> list[LotRow]:
    """The wallet's lots that a redemption at that instant may draw on, in burn order."""
    found = [lot for lot in lots if lot.wallet == wallet and lot.remaining > 0 and not lapsed(lot, at)]
    return sorted(found, key=lambda lot: (lot.expires_at or NEVER, lot.earned_at, lot.number))


def available(lots: Iterable[LotRow], wallet: str, at: datetime) -> int:
    """The points that a redemption at that instant could spend."""
    return sum(lot.remaining for lot in spendable(lots, wallet, at))


def draw(lots: Sequence[LotRow], points: int) -> tuple[FromLot, ...]:
    """Take up to `points` from the lots in the order given; less only when they hold less."""
    drawn: list[FromLot] = []
    for lot in lots:
        if points <= 0:
            break
        part = min(points, lot.remaining)
        drawn.append(FromLot(lot=lot.number, points=part))
        points -= part
    return tuple(drawn)
