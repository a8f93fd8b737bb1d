"""What a refund takes back: exactly what the returned items earned, by the rule version of the purchase.

As a shopkeeper would say it: half of the pieces of a line back, half of what that line earned back. The points are
taken out of the very lots they went into. If those have lapsed in the meantime, nobody has the points any more and
nothing else is taken for them. What is missing because it was spent follows today's `redemption.refunds`:

- `pending-only`: is left at that; other points are not touched.
- `within-balance`: is taken from the member's other points, as far as they reach; the rest is left at that.
- `allow-negative`: is taken from the member's other points; the rest is owed, and paid back by the next points earned.

Taking back in N pieces is taking back at once: each piece takes the share of all pieces so far, less what went before.

A refund may overtake its order, because they come from two producers. It waits, and is taken with the order's purchase,
just after that has earned: what remains is the same whichever came first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import orjson

from services.points.ledger.domain import Fields, InForce
from services.points.ledger.lots import spendable
from services.points.ledger.store import LotRow, OrderAwardRow, OrderLineRow, WaitingRefundRow
from services.points.programs.shares import refund_share
from shared.events.points import FromLot, PointsReversed, Reversed, ReversedLine

WITHIN_BALANCE = "within-balance"


class Refund(NamedTuple):
    """A refund of an order that is known, whether it comes now or has waited for the order."""

    refund_id: str
    lines: Sequence[tuple[str, int]]
    """Line ids, and how many pieces come back."""
    about: Fields
    happened_at: datetime
    waited_since: datetime | None = None


def waited(row: WaitingRefundRow) -> Refund:
    about = {
        "event_source": row.event_source,
        "event_id": row.event_id,
        "event_type": row.event_type,
        "channel": row.channel,
        "order_id": row.order_id,
    }
    lines = [(line_id, quantity) for line_id, quantity in orjson.loads(row.lines)]
    return Refund(row.refund_id, lines, about, row.happened_at, row.waiting_since)


def policy_of(inforce: InForce | None, wallet: str) -> str:
    """The policy for points already spent; a wallet that cannot be redeemed goes down to 0 and no further."""
    redemption = None if inforce is None else inforce.document.redemption
    return redemption.refunds if redemption is not None and redemption.wallet == wallet else WITHIN_BALANCE


def returned(lines: Mapping[str, OrderLineRow], asked: Sequence[tuple[str, int]]) -> tuple[ReversedLine, ...]:
    """How many pieces of each line count as returned: never more than were bought and not yet returned."""
    left = {line.line_id: line.quantity - line.refunded for line in lines.values()}
    counted: list[ReversedLine] = []
    for line_id, pieces in asked:
        quantity = min(pieces, left.get(line_id, 0))
        left[line_id] = left.get(line_id, 0) - quantity
        counted.append(ReversedLine(line_id=line_id, asked=pieces, quantity=quantity))
    return tuple(counted)


class Counting(NamedTuple):
    """The tier period that runs: which wallet counts, and since when."""

    wallet: str
    since: datetime


class Takings:
    """The member's lots while one refund takes from them, award by award."""

    def __init__(self, lots: Sequence[LotRow], now: datetime) -> None:
        self._lots = [lot for lot in lots if lot.remaining > 0]
        self._left = {lot.number: lot.remaining for lot in self._lots}
        self._now = now

    def take(self, award: OrderAwardRow, points: int, policy: str) -> Reversed:
        """Take these points back for this award: from its own lot, then as the policy says."""
        gone = award.expires_at is not None and award.expires_at <= self._now
        taken: list[FromLot] = []
        missing = self._from(award.lot, points, taken)
        if policy != "pending-only" and not gone:
            for lot in spendable(self._lots, award.wallet, self._now):
                missing = self._from(lot.number, missing, taken)
        owes = policy == "allow-negative" and not gone
        return Reversed(
            entry=award.entry,
            rule=award.rule,
            wallet=award.wallet,
            program=award.program,
            version=award.version,
            points=points,
            taken=tuple(taken),
            owed=missing if owes else 0,
            forgiven=0 if owes else missing,
        )

    def _from(self, number: int, points: int, taken: list[FromLot]) -> int:
        part = min(points, self._left.get(number, 0))
        if part > 0:
            self._left[number] -= part
            taken.append(FromLot(lot=number, points=part))
        return points - part


def reverse(
    lots: Sequence[LotRow],
    lines: Sequence[OrderLineRow],
    awards: Sequence[OrderAwardRow],
    refund: Refund,
    inforce: InForce | None,
    counting: Counting | None,
    now: datetime,
) -> PointsReversed:
    """Decide a refund that was not decided before. What was earned in the running tier period also leaves its count."""
    by_id = {line.line_id: line for line in lines}
    counted = returned(by_id, refund.lines)
    pieces: dict[str, int] = {}
    for line in counted:
        pieces[line.line_id] = pieces.get(line.line_id, 0) + line.quantity
    takings, reversals, qualified = Takings(lots, now), [], 0
    for award in awards:
        bought = by_id.get(award.line_id)
        if bought is None or not pieces.get(award.line_id):
            continue
        points = refund_share(award.points, bought.quantity, bought.refunded, pieces[award.line_id])
        if points == 0:
            continue
        reversals.append(takings.take(award, points, policy_of(inforce, award.wallet)))
        if counting is not None and award.wallet == counting.wallet and award.recorded_at >= counting.since:
            qualified -= points
    redemption = None if inforce is None else inforce.document.redemption
    return PointsReversed(
        **refund.about,
        refund_id=refund.refund_id,
        reason=_reason(awards, pieces),
        policy=WITHIN_BALANCE if redemption is None else redemption.refunds,
        lines=counted,
        reversals=tuple(reversals),
        qualified=qualified,
        waited_since=refund.waited_since,
    )


def _reason(awards: Sequence[OrderAwardRow], pieces: Mapping[str, int]) -> str:
    if not any(pieces.values()):
        return "nothing-left"
    return "reversed" if awards else "nothing-earned"
