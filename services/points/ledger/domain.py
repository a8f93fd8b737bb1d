"""What a member does with points: earn, redeem, be adjusted, let lapse. Pure; refunds are in `refunds.py`.

A decision is a fact that says all that follows from it: which lots are made or drawn on, what is paid back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from services.points.ledger.lots import draw, spendable
from services.points.ledger.store import AccountRow, LotRow
from services.points.programs.dates import expires_at
from services.points.programs.document import ProgramDocument, Wallet
from services.points.programs.evaluate import Award, CompiledProgram
from shared.events.catalogue import POINTS_MAX
from shared.events.points import (
    AdjustPoints,
    Earned,
    FromLot,
    Lapsed,
    PointsAdjusted,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    RedeemPoints,
)
from shared.runtime.rules import Refused

Fields = dict[str, Any]
"""Of a fact: those of `CausedByEvent`, which say what received event and order it is about, or of `Evaluated`."""


class InForce(NamedTuple):
    """The version of a program that applies, and where its tenant is."""

    program: str
    version: int
    compiled: CompiledProgram
    zone: str
    currency: str

    @property
    def document(self) -> ProgramDocument:
        return self.compiled.document


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a member holds, settled up to the decision's time."""

    entries: int
    """The last number used in the member's ledger."""
    accounts: Mapping[str, AccountRow]
    lots: Sequence[LotRow]

    def balance_is_bounded(self, wallet: str, added: int) -> bool:
        """Whether all that was ever given stays within 64 bits, in every sum, after adding this."""
        account = self.accounts.get(wallet)
        return added + (0 if account is None else account.issued + abs(account.adjusted)) <= POINTS_MAX

    def owed(self, wallet: str) -> int:
        account = self.accounts.get(wallet)
        return 0 if account is None else account.owed


def gathers(wallet: Wallet, lapses_at: datetime | None) -> bool:
    """Whether points join the wallet's standing lot: they only count and never lapse, so none needs telling apart."""
    return wallet.kind == "qualifying" and lapses_at is None


def earn(
    held: Holdings, evaluated: Fields, inforce: InForce, awards: Sequence[Award], qualified: int, now: datetime
) -> PointsEarned:
    """One lot per award. Points that are owed are paid back first, unless the new ones have lapsed already."""
    number = held.entries
    owed = {award.wallet: held.owed(award.wallet) for award in awards}
    standing = {lot.wallet: lot.number for lot in held.lots if lot.standing and lot.remaining > 0}
    earned: list[Earned] = []
    for award in awards:
        number += 1
        wallet = inforce.document.wallet(award.wallet)
        joins = wallet is not None and gathers(wallet, award.expires_at)
        gone = award.expires_at is not None and award.expires_at <= now
        repaid = 0 if gone else min(owed[award.wallet], award.points)
        owed[award.wallet] -= repaid
        earned.append(
            Earned(
                rule=award.rule,
                wallet=award.wallet,
                points=award.points,
                line_id=award.line_id,
                expires_at=award.expires_at,
                lot=standing.setdefault(award.wallet, number) if joins else number,
                standing=joins,
                repaid=repaid,
            )
        )
        number += repaid > 0
    return PointsEarned(**evaluated, awards=tuple(earned), qualified=qualified)


def lapsed_at_birth(earned: PointsEarned, now: datetime) -> PointsExpired | None:
    """What an event brought so late that its points would have lapsed by now."""
    return _expired(
        ((award.wallet, earned.program, earned.version, award.rule, award.expires_at), award.lot, award.points)
        for award in earned.awards
        if award.expires_at is not None and award.expires_at <= now
    )


def lapse(lots: Sequence[LotRow], at: datetime) -> PointsExpired | None:
    """What is left in the lots that lapse at that instant."""
    return _expired(
        ((lot.wallet, lot.program, lot.version, lot.rule, lot.expires_at), lot.number, lot.remaining)
        for lot in sorted(lots, key=lambda lot: lot.number)
        if lot.remaining > 0 and lot.expires_at is not None and lot.expires_at <= at
    )


def _expired(parts: Iterable[tuple[tuple[str, str, int, str, datetime], int, int]]) -> PointsExpired | None:
    """The fact of these (wallet, program, version, rule, instant), lots and points; None when there are none."""
    groups: dict[tuple[str, str, int, str, datetime], list[FromLot]] = {}
    for group, lot, points in parts:
        groups.setdefault(group, []).append(FromLot(lot=lot, points=points))
    if not groups:
        return None
    return PointsExpired(
        lapsed=tuple(
            Lapsed(wallet=wallet, program=program, version=version, rule=rule, expires_at=instant, lots=tuple(lots))
            for (wallet, program, version, rule, instant), lots in groups.items()
        )
    )


def redeem(held: Holdings, inforce: InForce, asked: RedeemPoints, now: datetime) -> PointsRedeemed:
    """Spend points, all or nothing, in burn order. Raises Refused."""
    redemption = inforce.document.redemption
    if redemption is None:
        raise Refused("redemption-closed", "the program has no redemption; publish a version that has one")
    wallet = asked.wallet or redemption.wallet
    if inforce.document.wallet(wallet) is None:
        raise unknown_wallet(inforce, wallet)
    if wallet != redemption.wallet:
        raise Refused("wallet-not-redeemable", f"points of {wallet} only count; redeem from {redemption.wallet}")
    if asked.points <= 0:
        raise Refused("points-not-positive", "ask for a number of points above 0")
    if asked.points < redemption.minimum_points:
        raise Refused(
            "below-minimum",
            f"redeem at least {redemption.minimum_points} points",
            minimum_points=redemption.minimum_points,
        )
    if asked.points % redemption.step_points:
        raise Refused(
            "not-a-step",
            f"redeem points in steps of {redemption.step_points}",
            step_points=redemption.step_points,
        )
    if asked.points * redemption.minor_per_point > POINTS_MAX:
        raise Refused("too-many-points", f"{asked.points} points are worth more than one redemption can pay")
    lots = spendable(held.lots, wallet, now)
    left = enough(lots, asked.points) - asked.points
    return PointsRedeemed(
        program=inforce.program,
        version=inforce.version,
        wallet=wallet,
        points=asked.points,
        worth_minor=asked.points * redemption.minor_per_point,
        currency=inforce.currency,
        reference=asked.reference,
        lots=draw(lots, asked.points),
        available=left,
    )


def adjust(held: Holdings, inforce: InForce, asked: AdjustPoints, qualified: int, now: datetime) -> PointsAdjusted:
    """Give or take points by hand; never more than there are. Raises Refused."""
    wallet = inforce.document.wallet(asked.wallet)
    if wallet is None:
        raise unknown_wallet(inforce, asked.wallet)
    if asked.points == 0:
        raise Refused("points-zero", "give a number of points above 0, or take one below 0")
    if not asked.reason.strip():
        raise Refused("reason-missing", "say why the points are adjusted")
    common = {
        **asked.model_dump(),
        "program": inforce.program,
        "version": inforce.version,
        "qualified": qualified,
    }
    if asked.points < 0:
        lots = spendable(held.lots, asked.wallet, now)
        enough(lots, -asked.points)
        return PointsAdjusted(**common, lots=draw(lots, -asked.points))
    if not held.balance_is_bounded(asked.wallet, asked.points):
        raise Refused("balance-too-large", f"a member can be given at most {POINTS_MAX} points of a wallet")
    lapses_at = expires_at(wallet.expiry, now, inforce.zone)
    if lapses_at is not None and lapses_at <= now:
        raise Refused(
            "already-lapsed", f"points of {wallet.code} given now would have lapsed at {lapses_at.isoformat()}"
        )
    standing = gathers(wallet, lapses_at)
    open_lots = [lot.number for lot in held.lots if lot.standing and lot.wallet == wallet.code and lot.remaining > 0]
    number = open_lots[0] if standing and open_lots else held.entries + 1
    return PointsAdjusted(
        **common,
        expires_at=lapses_at,
        standing=standing,
        lots=(FromLot(lot=number, points=asked.points),),
        repaid=min(held.owed(wallet.code), asked.points),
    )


def enough(lots: Sequence[LotRow], points: int) -> int:
    """The points in these lots; raises Refused when they are fewer than asked."""
    available = sum(lot.remaining for lot in lots)
    if available < points:
        raise Refused(
            "not-enough-points", f"{available} points are available, {points} asked", available=available, asked=points
        )
    return available


def unknown_wallet(inforce: InForce, wallet: str) -> Refused:
    codes = [each.code for each in inforce.document.wallets]
    return Refused("unknown-wallet", f"the program has no wallet {wallet!r}; it has {', '.join(codes)}", wallets=codes)
