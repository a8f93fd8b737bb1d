"""What callers are told of requests that were decided, of explanations and of totals."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import orjson
from pydantic import BaseModel, Field

from services.points.ledger.read_store import ExplainedEntry, LedgerProof, ProgramTotals
from services.points.ledger.store import EvaluationRow
from services.points.members.answers import EntryAnswer, LotAnswer, entry_answer, entry_id, lot_answer
from services.points.programs.store import PublishedRow
from shared.events.points import FromLot, PointsAdjusted, PointsRedeemed
from shared.http.asking import Answered

REFUND: Final = "purchase.refunded.v1"


class LotPart(BaseModel):
    """Points of one lot."""

    lot: str
    points: int


class RedemptionAnswer(BaseModel):
    """Points that were spent."""

    redemption: str = Field(description="Its id: that of the event on the stream.")
    contact: str
    wallet: str
    points: int
    worth_minor: int = Field(description="What they pay, in the currency's minor unit.")
    currency: str
    reference: str
    lots: list[LotPart] = Field(description="Where they came from, in burn order.")
    balance_after: int = Field(description="What was left to spend just after it.")


class AdjustmentAnswer(BaseModel):
    """Points that were given or taken by hand."""

    adjustment: str = Field(description="Its id: that of the event on the stream.")
    contact: str
    wallet: str
    points: int
    reason: str
    by: str
    lots: list[LotPart] = Field(description="The lot that was made, or those that were drawn on.")
    repaid: int = Field(description="The part that at once paid back what the member owed.")
    expires_at: datetime | None


class RuleAnswer(BaseModel):
    """What one rule said of an event."""

    rule: str
    fired: bool
    reason: str = Field(description="`fired`, or a stable code that says why not.")
    inputs: dict[str, Any] = Field(description="The values it used.")


class ReversalAnswer(BaseModel):
    """What one award of the order gave back for a refund."""

    rule: str
    entry: str = Field(description="The ledger line of the award.")
    points: int
    owed: int = Field(description="Of them, spent already and owed now.")
    forgiven: int = Field(description="Of them, spent or lapsed already and left at that.")


class EvaluationAnswer(BaseModel):
    """What was made of one event."""

    event_source: str
    event_id: str
    event_type: str
    channel: str
    order_id: str
    contact: str
    program: str = Field(description="Empty for a refund: each award goes back by the version that gave it.")
    version: int
    reason: str = Field(description="`evaluated`, `reversed`, or why nothing was asked or taken back.")
    rules: list[RuleAnswer] = Field(description="What each rule in force said; empty for a refund.")
    reversals: list[ReversalAnswer] = Field(description="What a refund took back, award by award.")
    effective_at: datetime
    recorded_at: datetime
    cause: str


class ExplainedEvent(BaseModel):
    """Every time points was asked about this event; several senders may use one id."""

    items: list[EvaluationAnswer]


class ExplainedRule(BaseModel):
    """The rule behind a line, as it was, and the values it used."""

    rule: str
    program: str
    version: int
    definition: dict[str, Any] | None = Field(description="As published; null when no rule made the line.")
    inputs: dict[str, Any]


class ExplainedLine(BaseModel):
    """Why a ledger line is there, and what became of its points."""

    entry: EntryAnswer
    rule: ExplainedRule
    event: EvaluationAnswer | None = Field(description="What happened, and what every rule said; null for a request.")
    lot: LotAnswer | None
    lot_entries: list[EntryAnswer] = Field(description="All that happened to the lot, from the line that made it.")
    complete: bool = Field(description="False: the lot has more entries than are shown.")


class TotalsOfWallet(BaseModel):
    """Sums over all members: outstanding - owed = issued - redeemed - lapsed + adjusted - reversed."""

    wallet: str
    members: int
    issued: int
    redeemed: int
    lapsed: int
    adjusted: int
    reversed: int
    owed: int
    outstanding: int


class TotalsAnswer(BaseModel):
    """The books of a tenant at an instant."""

    at: datetime
    wallets: list[TotalsOfWallet]
    postings_sum: int = Field(description="All accounts added up: 0, or the books are wrong.")
    balanced: bool = Field(
        description="In every wallet the postings sum to 0, and balances = their postings = their open lots."
    )


def redemption_answer(answer: Answered) -> RedemptionAnswer:
    fact = PointsRedeemed.model_validate(answer.data)
    return RedemptionAnswer(
        redemption=answer.event_id,
        contact=answer.subject,
        wallet=fact.wallet,
        points=fact.points,
        worth_minor=fact.worth_minor,
        currency=fact.currency,
        reference=fact.reference,
        lots=_parts(answer.subject, fact.lots),
        balance_after=fact.available,
    )


def adjustment_answer(answer: Answered) -> AdjustmentAnswer:
    fact = PointsAdjusted.model_validate(answer.data)
    return AdjustmentAnswer(
        adjustment=answer.event_id,
        contact=answer.subject,
        wallet=fact.wallet,
        points=fact.points,
        reason=fact.reason,
        by=fact.by,
        lots=_parts(answer.subject, fact.lots),
        repaid=fact.repaid,
        expires_at=fact.expires_at,
    )


def _parts(contact: str, lots: Sequence[FromLot]) -> list[LotPart]:
    return [LotPart(lot=entry_id(contact, part.lot), points=part.points) for part in lots]


def evaluation_answer(row: EvaluationRow, rule: str | None = None) -> EvaluationAnswer:
    """`rule`: of the rules, only that one."""
    said = [each for each in orjson.loads(row.results) if rule is None or each["rule"] == rule]
    refund = row.event_type == REFUND
    return EvaluationAnswer(
        event_source=row.event_source,
        event_id=row.event_id,
        event_type=row.event_type,
        channel=row.channel,
        order_id=row.order_id,
        contact=row.contact,
        program=row.program,
        version=row.version,
        reason=row.reason,
        rules=[] if refund else [RuleAnswer.model_validate(each) for each in said],
        reversals=[_reversal(row.contact, each) for each in said] if refund else [],
        effective_at=row.effective_at,
        recorded_at=row.recorded_at,
        cause=row.cause,
    )


def _reversal(contact: str, said: dict[str, Any]) -> ReversalAnswer:
    return ReversalAnswer.model_validate({**said, "entry": entry_id(contact, said["entry"])})


def explained_line(found: ExplainedEntry, version: PublishedRow | None, most: int) -> ExplainedLine:
    """`version` is the entry's; `most` the number of entries that were asked for, one more than are shown."""
    entry = found.entry
    event = None if found.evaluation is None else evaluation_answer(found.evaluation)
    said = [] if event is None else [each.inputs for each in event.rules if each.rule == entry.rule]
    rules = [] if version is None else orjson.loads(version.document)["rules"]
    shown = found.lot_entries[: most - 1]
    return ExplainedLine(
        entry=entry_answer(entry),
        rule=ExplainedRule(
            rule=entry.rule,
            program=entry.program,
            version=entry.version,
            definition=next((each for each in rules if each["code"] == entry.rule), None),
            inputs=said[0] if said else {},
        ),
        event=event,
        lot=None if found.lot is None else lot_answer(found.lot),
        lot_entries=[entry_answer(row) for row in shown],
        complete=len(shown) == len(found.lot_entries),
    )


def totals_answer(at: datetime, rows: Sequence[ProgramTotals], proof: Sequence[LedgerProof]) -> TotalsAnswer:
    """`proof` is of the whole ledger as it stands, whatever instant is shown."""
    sums = [
        row.outstanding - row.owed - row.issued + row.redeemed + row.lapsed - row.adjusted + row.reversed
        for row in rows
    ]
    return TotalsAnswer(
        at=at,
        wallets=[TotalsOfWallet(**row._asdict()) for row in rows],
        postings_sum=sum(sums) + sum(each.all_accounts for each in proof),
        balanced=not any(sums) and all(each.holds for each in proof),
    )
