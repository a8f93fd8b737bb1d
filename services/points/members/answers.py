"""What callers are told of a member: balances, tier, ledger lines, lots."""

from datetime import datetime

from pydantic import BaseModel, Field

from services.points.ledger.fold import AVAILABLE
from services.points.ledger.store import EntryRow, LotRow


class Lapsing(BaseModel):
    """Points that lapse together, first of all."""

    points: int
    at: datetime


class WalletAnswer(BaseModel):
    """One wallet of a member."""

    wallet: str
    available: int = Field(description="What a redemption at `at` could spend.")
    owed: int = Field(description="Points taken back that were spent already; the next earned pay them first.")
    expiring_next: Lapsing | None = Field(description="Null: nothing in it lapses.")


class NextLevel(BaseModel):
    """The level above, and how far it is."""

    level: str
    name: str
    missing: int = Field(description="Qualifying points still to earn in this period.")


class TierAnswer(BaseModel):
    """Where a member stands in the tiers."""

    level: str
    name: str = Field(description="As the program in force calls it; empty when it has no such level any more.")
    qualified: int | None = Field(
        description="Qualifying points of the running period; null for a past instant: the count is not kept by time."
    )
    next: NextLevel | None = Field(description="Null at the top, and for a past instant.")
    review_at: datetime | None


class MemberAnswer(BaseModel):
    """A member at an instant."""

    contact: str
    at: datetime = Field(description="The instant that is shown: `as_of`, or the tenant's now.")
    wallets: list[WalletAnswer]
    tier: TierAnswer | None = Field(description="Null: in no tiers.")


class ContactAnswer(BaseModel):
    """The contact that an identity belongs to."""

    contact: str


class LotAnswer(BaseModel):
    """Points that were earned together and lapse together."""

    lot: str = Field(description="The id of the ledger entry that made it; /v1/explain/entries takes it.")
    wallet: str
    earned: int
    remaining: int
    earned_at: datetime
    expires_at: datetime | None
    program: str
    version: int
    rule: str
    standing: bool = Field(description="It gathers all points of a qualifying wallet that never lapse.")


class EntryAnswer(BaseModel):
    """One posting of the double-entry ledger: `points` went from the account `source` to `destination`."""

    entry: str
    number: int = Field(description="Counts the member's entries from 1.")
    wallet: str
    points: int
    change: int = Field(description="What it did to the points available: `points`, less, or nothing.")
    source: str
    destination: str
    lot: str | None
    program: str
    version: int
    rule: str
    line_id: str
    channel: str
    order_id: str
    event_source: str
    event_id: str = Field(description="The sender's event behind it; empty for a request or for time that passed.")
    fact: str = Field(description="The id of the event on the stream that decided it.")
    fact_type: str
    reference: str
    by: str
    effective_at: datetime
    recorded_at: datetime
    cause: str


def entry_id(contact: str, number: int) -> str:
    return f"{contact}:{number}"


def entry_parts(entry: str) -> tuple[str, int] | None:
    """Contact and number of an entry's id; None: no entry can have it."""
    contact, _, digits = entry.rpartition(":")
    if not contact or len(contact) > 200 or not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return None
    return contact, int(digits)


def entry_answer(row: EntryRow) -> EntryAnswer:
    change = row.points * ((row.destination == AVAILABLE) - (row.source == AVAILABLE))
    return EntryAnswer(
        entry=entry_id(row.contact, row.number),
        number=row.number,
        wallet=row.wallet,
        points=row.points,
        change=change,
        source=row.source,
        destination=row.destination,
        lot=entry_id(row.contact, row.lot) if row.lot else None,
        program=row.program,
        version=row.version,
        rule=row.rule,
        line_id=row.line_id,
        channel=row.channel,
        order_id=row.order_id,
        event_source=row.event_source,
        event_id=row.event_id,
        fact=row.fact_id,
        fact_type=row.fact_type,
        reference=row.reference,
        by=row.by,
        effective_at=row.effective_at,
        recorded_at=row.recorded_at,
        cause=row.cause,
    )


def lot_answer(row: LotRow) -> LotAnswer:
    return LotAnswer(
        lot=entry_id(row.contact, row.number),
        wallet=row.wallet,
        earned=row.earned,
        remaining=row.remaining,
        earned_at=row.earned_at,
        expires_at=row.expires_at,
        program=row.program,
        version=row.version,
        rule=row.rule,
        standing=row.standing,
    )
