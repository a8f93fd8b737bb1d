"""The points worker as the runtime sees it: each input goes to its noun, each fact to its fold.

Which version of the program applies: an event's own time says which rules earn; `now` says which tiers, redemption and
refund policy hold.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from services.points.ledger import decisions, fold
from services.points.ledger.store import (
    ACCOUNTS,
    LOTS,
    MEMBERS,
    ORDER_AWARDS,
    ORDER_LINES,
    REFUNDS,
    WAITING_REFUNDS,
)
from services.points.ledger.store import TABLES as LEDGER_TABLES
from services.points.programs.publishing import draft, publish, text_of
from services.points.programs.store import (
    IDENTITIES,
    PROGRAM_VERSIONS,
    PROGRAMS,
    PUBLISHED,
    TENANTS,
    IdentityRow,
    ProgramRow,
    ProgramVersionRow,
    PublishedRow,
    TenantRow,
)
from services.points.programs.store import TABLES as PROGRAM_TABLES
from services.points.tiers.domain import placed
from services.points.tiers.store import TABLES as TIER_TABLES
from services.points.tiers.store import TIER_CHANGES, TIERS, TierChangeRow
from shared.events.contacts import TenantDeclared
from shared.events.door import ContactIdentified, CustomRecorded, PurchaseCompleted, PurchaseRefunded
from shared.events.envelope import Event
from shared.events.points import (
    OWNER,
    AdjustPoints,
    DraftProgram,
    Evaluated,
    PointsAdjusted,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    PointsReversed,
    ProgramDeclared,
    ProgramDrafted,
    ProgramPublished,
    PublishProgram,
    RedeemPoints,
    ReversalDeferred,
    RulesEvaluated,
    TierChanged,
)
from shared.runtime.rules import Draft, Input
from shared.runtime.tables import Need, Rows, Table

REQUESTS: Final = frozenset({"program.draft.v1", "program.publish.v1", "points.redeem.v1", "points.adjust.v1"})
READS: Final = frozenset(
    {
        "purchase.completed.v1",
        "purchase.refunded.v1",
        "custom.recorded.v1",
        "contact.identified.v1",
        "tenant.declared.v1",
        "program.declared.v1",
    }
)


class PointsRules:
    """Decisions, folds and timers of points; implements `shared.runtime.rules.Rules`."""

    worker: str = OWNER
    tables: Sequence[Table[Any]] = (*LEDGER_TABLES, *TIER_TABLES, *PROGRAM_TABLES)
    requests: frozenset[str] = REQUESTS
    reads: frozenset[str] = READS
    fold_version: int = 1
    settles: bool = True

    def needs(self, event: Event, partition: int) -> Iterable[Need]:
        tenant, contact = event.tenant, (event.tenant, event.subject)
        match event.data:
            case ContactIdentified(identities=identities):
                for identity in identities:
                    yield Need(IDENTITIES, (tenant, identity.kind, identity.hash, event.subject))
            case DraftProgram() | PublishProgram() | ProgramPublished():
                yield Need(PROGRAMS, (tenant,))
            case (
                PurchaseCompleted(channel=channel, order_id=order_id)
                | PurchaseRefunded(channel=channel, order_id=order_id)
                | Evaluated(channel=channel, order_id=order_id)
                | ReversalDeferred(channel=channel, order_id=order_id)
                | PointsReversed(channel=channel, order_id=order_id)
            ):
                order = (*contact, channel, order_id)
                yield from (Need(ORDER_LINES, order), Need(ORDER_AWARDS, order))
                yield from (Need(REFUNDS, order), Need(WAITING_REFUNDS, order))
            case _:
                pass
        yield from (Need(PROGRAM_VERSIONS, (tenant, partition)), Need(TENANTS, (tenant, partition)))
        yield from (Need(MEMBERS, contact), Need(ACCOUNTS, contact), Need(LOTS, contact), Need(TIERS, contact))

    def absorb(self, rows: Rows, event: Event, partition: int) -> None:
        match event.data:
            case TenantDeclared(zone=zone, currency=currency):
                rows.put(TENANTS, TenantRow(event.tenant, partition, zone, currency))
            case ProgramDeclared() as declared:
                row = ProgramVersionRow(
                    event.tenant,
                    partition,
                    declared.program,
                    declared.version,
                    declared.effective_from,
                    text_of(declared.document),
                    declared.document_hash,
                )
                rows.put(PROGRAM_VERSIONS, row)
            case ContactIdentified(identities=identities):
                for identity in identities:
                    key = (event.tenant, identity.kind, identity.hash, event.subject)
                    if rows.get(IDENTITIES, key) is None:
                        rows.put(IDENTITIES, IdentityRow(*key, identified_at=event.time))
            case PurchaseCompleted() | PurchaseRefunded() | CustomRecorded():
                pass  # decided, not known
            case other:
                raise TypeError(f"points reads no {type(other).__name__}")

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        if item.kind == "timer":
            due_at = self.due_at(rows, item.event.tenant, item.event.subject)
            return () if due_at is None else decisions.decide_due(decisions.Case(rows, item), due_at)
        match item.event.data:
            case DraftProgram() as asked:
                return (Draft(draft(asked), time=item.now),)
            case PublishProgram() as asked:
                return (Draft(publish(rows.all(PROGRAMS, (item.event.tenant,)), asked, item.now), time=item.now),)
            case RedeemPoints() as asked:
                return decisions.decide_redemption(decisions.Case(rows, item), asked)
            case AdjustPoints() as asked:
                return decisions.decide_adjustment(decisions.Case(rows, item), asked)
            case CustomRecorded() as happened:
                return decisions.decide_earning(decisions.Case(rows, item), happened)
            case PurchaseCompleted() | PurchaseRefunded() as order:
                return self._decide_order(rows, item, order)
            case TenantDeclared() | ProgramDeclared() | ContactIdentified():
                return ()
            case other:
                raise TypeError(f"points decides no {type(other).__name__}")

    def _decide_order(self, rows: Rows, item: Input, order: PurchaseCompleted | PurchaseRefunded) -> Sequence[Draft]:
        """Purchases and refunds come from several producers: what came too early is taken after what it waited for."""
        case = decisions.Case(rows, item)
        if isinstance(order, PurchaseCompleted):
            drafts = decisions.decide_earning(case, order)
        else:
            drafts = decisions.decide_refund(case, order)
        if not decisions.waiting(case, order):
            return drafts
        ahead = Rows()
        for table, group in self.needs(item.event, item.partition):
            ahead.loaded(table, [group], rows.all(table, group))
        return decisions.release(decisions.Case(ahead, item), order, drafts, self.evolve)

    def evolve(self, rows: Rows, event: Event) -> None:
        match event.data:
            case ProgramDrafted() as fact:
                self._drafted(rows, event, fact)
            case ProgramPublished() as fact:
                self._published(rows, event, fact)
            case RulesEvaluated() | PointsRedeemed() | PointsExpired() | ReversalDeferred() as fact:
                fold.fold(rows, event, fact)
            case PointsEarned() | PointsAdjusted() | PointsReversed() as fact:
                fold.fold(rows, event, fact)
                self._count(rows, event, fact.qualified)
            case TierChanged() as fact:
                self._tier_changed(rows, event, fact)
            case other:
                raise TypeError(f"points has no fact {type(other).__name__}")

    def letters(self, fact: Event) -> Sequence[Draft]:
        match fact.data:
            case ProgramPublished() as published:
                return (Draft(ProgramDeclared(**published.model_dump(exclude={"by"}))),)
            case _:
                return ()

    def due_at(self, rows: Rows, tenant: str, subject: str) -> datetime | None:
        lots = rows.all(LOTS, (tenant, subject))
        found = [lot.expires_at for lot in lots if lot.remaining > 0 and lot.expires_at is not None]
        tier = rows.get(TIERS, (tenant, subject))
        if tier is not None and tier.review_at is not None:
            found.append(tier.review_at)
        return min(found, default=None)

    def _drafted(self, rows: Rows, event: Event, fact: ProgramDrafted) -> None:
        before = rows.get(PROGRAMS, (event.tenant, fact.program), (event.tenant,))
        rows.put(
            PROGRAMS,
            ProgramRow(
                event.tenant,
                fact.program,
                text_of(fact.document),
                fact.document_hash,
                event.time,
                fact.by,
                versions=0 if before is None else before.versions,
            ),
        )

    def _published(self, rows: Rows, event: Event, fact: ProgramPublished) -> None:
        before = rows.get(PROGRAMS, (event.tenant, fact.program), (event.tenant,))
        if before is None:
            raise ValueError(f"fact {event.id} publishes {fact.program!r}, of which there is no draft")
        rows.put(PROGRAMS, before._replace(versions=fact.version))
        row = PublishedRow(
            event.tenant,
            fact.program,
            fact.version,
            fact.effective_from,
            text_of(fact.document),
            fact.document_hash,
            fact.by,
            event.time,
            event.id,
            event.cause,
        )
        rows.append(PUBLISHED, row)

    def _count(self, rows: Rows, event: Event, qualified: int) -> None:
        tier = rows.get(TIERS, (event.tenant, event.subject))
        if tier is not None and qualified:
            rows.put(TIERS, tier._replace(qualified=tier.qualified + qualified))

    def _tier_changed(self, rows: Rows, event: Event, fact: TierChanged) -> None:
        if event.recorded_at is None:
            raise ValueError(f"fact {event.id} has no recordedtime")
        before = rows.get(TIERS, (event.tenant, event.subject))
        row = placed(before, event.tenant, event.subject, fact, event.time)
        rows.put(TIERS, row)
        rows.append(
            TIER_CHANGES,
            TierChangeRow(
                event.tenant,
                event.subject,
                row.changes,
                fact.tiers,
                fact.program,
                fact.version,
                fact.change,
                fact.from_level,
                fact.to_level,
                fact.qualified,
                fact.reviewed,
                fact.period_started_at,
                fact.review_at,
                event.id,
                event.time,
                event.recorded_at,
                event.cause,
            ),
        )
