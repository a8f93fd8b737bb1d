"""From a member's rows and one input to the facts that follow. The rules themselves are in `domain` and `refunds`."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import orjson

from services.points.ledger.domain import Fields, Holdings, InForce, adjust, earn, lapse, lapsed_at_birth, redeem
from services.points.ledger.refunds import Counting, Refund, reverse, waited
from services.points.ledger.store import (
    ACCOUNTS,
    LOTS,
    MEMBERS,
    ORDER_AWARDS,
    ORDER_LINES,
    REFUNDS,
    WAITING_REFUNDS,
    WaitingRefundRow,
)
from services.points.programs.domain import MemberFacts, happened_from, version_at
from services.points.programs.evaluate import Award, Evaluation, compiled_from, evaluate
from services.points.programs.store import PROGRAM_VERSIONS, TENANTS, ProgramVersionRow
from services.points.tiers.domain import after_points, review, setting_of
from services.points.tiers.store import TIERS, TierRow
from shared.events import catalogue
from shared.events.door import CustomRecorded, PurchaseCompleted, PurchaseRefunded
from shared.events.envelope import Event, event_id
from shared.events.points import (
    AdjustPoints,
    BoughtLine,
    PointsEarned,
    PointsReversed,
    RedeemPoints,
    ReturnedLine,
    ReversalDeferred,
    RuleOutcome,
    RulesEvaluated,
)
from shared.log.port import BATCH_BYTES_MAX
from shared.runtime.rules import Draft, Input, Refused
from shared.runtime.tables import Key, Rows

FACTS_BYTES_MAX: Final = BATCH_BYTES_MAX - 50_000
"""What the facts about one event may measure, so that with their envelopes they stay within what the log takes."""

ENVELOPE_BYTES: Final = 2_000
"""What one fact's envelope and key measure at most, in round figures."""


class Case:
    """One input and the rows it may look at."""

    def __init__(self, rows: Rows, item: Input) -> None:
        self.rows, self.item, self.event, self.now = rows, item, item.event, item.now
        self.contact: Key = (item.event.tenant, item.event.subject)
        self._copy: Key = (item.event.tenant, item.partition)
        self._versions: list[ProgramVersionRow] | None = None
        self.happened_at = min(item.event.time, item.now)
        """The event's own time; a sender's clock that is ahead is not believed."""

    def in_force(self, when: datetime) -> InForce | None:
        """The version of the tenant's program that applies at `when`; None as well while the tenant is not known."""
        if self._versions is None:
            self._versions = self.rows.all(PROGRAM_VERSIONS, self._copy)
        found = version_at(self._versions, when)
        tenant = self.rows.get(TENANTS, self._copy)
        if found is None or tenant is None:
            return None
        return InForce(found.program, found.version, compiled_from(found.document), tenant.zone, tenant.currency)

    def why_no_rules(self) -> str:
        """The reason when no version is in force.

        Whoever holds a credential was answered after every partition had been told of the tenant, so its events and
        programs stand behind that: `tenant-unknown` shows a stream that was not written so, and nothing is guessed.
        """
        return "no-program" if self.rows.get(TENANTS, self._copy) is not None else "tenant-unknown"

    def held(self) -> Holdings:
        member = self.rows.get(MEMBERS, self.contact)
        accounts = {account.wallet: account for account in self.rows.all(ACCOUNTS, self.contact)}
        lots = [lot for lot in self.rows.all(LOTS, self.contact) if lot.remaining > 0]
        return Holdings(0 if member is None else member.entries, accounts, lots)

    def tier(self) -> TierRow | None:
        return self.rows.get(TIERS, self.contact)

    def facts_before(self, held: Holdings) -> MemberFacts:
        """What a rule may know of the member just before the event."""
        member, tier = self.rows.get(MEMBERS, self.contact), self.tier()
        return MemberFacts(
            tier="" if tier is None else tier.level,
            balances={wallet: account.available for wallet, account in held.accounts.items()},
            purchases_before=0 if member is None else member.purchases,
        )


def decide_earning(case: Case, data: PurchaseCompleted | CustomRecorded) -> list[Draft]:
    """Put an event to the rules in force at its time; what they say is recorded whether or not they give points.

    An order that is known never earns twice: its second report is an amendment, and says so.
    """
    about = _about(case.event, data)
    lines: tuple[BoughtLine, ...] = ()
    if isinstance(data, PurchaseCompleted):
        if case.rows.all(ORDER_LINES, (*case.contact, data.channel, data.order_id)):
            return _evaluated(case, about, None, "order-already-known")
        lines = _bought(data)
    held, rules = case.held(), case.in_force(case.event.time)
    if rules is None:
        return _evaluated(case, about, None, case.why_no_rules(), lines=lines) + _tier_drafts(case, 0)
    happened = happened_from(case.event, case.facts_before(held), zone=rules.zone, currency=rules.currency)
    said = evaluate(rules.compiled, happened)
    if not _bounded(held, said.awards):
        return _evaluated(case, about, rules, "balance-too-large", lines=lines)
    setting = setting_of(case.in_force(case.now))
    wallet = "" if setting is None else setting.tiers.wallet
    qualified = sum(award.points for award in said.awards if award.wallet == wallet)
    evaluated = _evaluation(about, rules, "evaluated", said, lines)
    if said.awards:
        drafts = _earned(case, earn(held, evaluated, rules, said.awards, qualified, case.now))
    else:
        drafts = [Draft(RulesEvaluated(**evaluated), time=case.happened_at)]
    if _too_large(drafts):
        return _evaluated(case, about, rules, "too-large", lines=lines)
    return drafts + _tier_drafts(case, qualified)


def decide_refund(case: Case, data: PurchaseRefunded) -> list[Draft]:
    """Take back what the returned items earned; of an order that is not known yet, once it is.

    A second report of a refund changes nothing, and says so.
    """
    order = (*case.contact, data.channel, data.order_id)
    about = _about(case.event, data)
    key = (*order, data.refund_id)
    if case.rows.get(REFUNDS, key, order) is not None or case.rows.get(WAITING_REFUNDS, key, order) is not None:
        return _evaluated(case, about, None, "refund-already-known")
    if not case.rows.all(ORDER_LINES, order):
        lines = tuple(ReturnedLine(line_id=line.line_id, quantity=line.quantity) for line in data.lines)
        fact = ReversalDeferred(**about, refund_id=data.refund_id, lines=lines)
        return [Draft(fact, time=case.happened_at)]
    asked = [(line.line_id, line.quantity) for line in data.lines]
    return [_take_back(case, order, Refund(data.refund_id, asked, about, case.happened_at))]


def waiting(case: Case, data: PurchaseCompleted | PurchaseRefunded) -> list[WaitingRefundRow]:
    """The refunds that wait for this order, in the order in which they were recorded."""
    rows = case.rows.all(WAITING_REFUNDS, (*case.contact, data.channel, data.order_id))
    return sorted((row for row in rows if not row.released_by), key=lambda row: row.number)


def release(
    ahead: Case,
    data: PurchaseCompleted | PurchaseRefunded,
    drafts: Sequence[Draft],
    evolve: Callable[[Rows, Event], None],
) -> list[Draft]:
    """The drafts, and after them the refunds that waited for the order, if the order is known by then.

    `ahead` looks at rows of its own, into which the drafts are folded here, so that each refund sees what comes before
    it. Refunds that cannot be written down in the same go wait on, until another event names the order.
    """
    order = (*ahead.contact, data.channel, data.order_id)
    taken: list[Draft] = []
    size = 0
    for draft in drafts:
        size += _append(ahead, taken, draft, evolve)
    if not ahead.rows.all(ORDER_LINES, order):
        return taken
    for row in waiting(ahead, data):
        draft = _take_back(ahead, order, waited(row))
        if size + _measured(draft) > FACTS_BYTES_MAX:
            break
        size += _append(ahead, taken, draft, evolve)
    return taken


def _append(ahead: Case, taken: list[Draft], draft: Draft, evolve: Callable[[Rows, Event], None]) -> int:
    """Take the draft and fold it, as the fact that it will be; returns what it measures in bytes."""
    event, item = ahead.event, ahead.item
    fact = Event(
        id=event_id(item.cause, len(taken)),
        source="",
        type=catalogue.type_of(draft.data).name,
        tenant=event.tenant,
        subject=event.subject,
        time=draft.time or event.time,
        data=draft.data,
        cause=item.cause,
        recorded_at=ahead.now,
    )
    evolve(ahead.rows, fact)
    taken.append(draft)
    return _measured(draft)


def _take_back(case: Case, order: Key, refund: Refund) -> Draft:
    tier = case.tier()
    fact = reverse(
        case.held().lots,
        case.rows.all(ORDER_LINES, order),
        case.rows.all(ORDER_AWARDS, order),
        refund,
        case.in_force(case.now),
        None if tier is None or tier.review_at is None else Counting(tier.wallet, tier.period_started_at),
        case.now,
    )
    if _too_large([Draft(fact)]):
        fact = fact.model_copy(update={"reason": "too-large", "lines": (), "reversals": (), "qualified": 0})
    return Draft(fact, time=refund.happened_at)


def decide_redemption(case: Case, asked: RedeemPoints) -> list[Draft]:
    return [Draft(redeem(case.held(), _must(case), asked, case.now), time=case.now)]


def decide_adjustment(case: Case, asked: AdjustPoints) -> list[Draft]:
    rules, tier = _must(case), case.tier()
    setting = setting_of(rules)
    counts = setting is not None and setting.tiers.wallet == asked.wallet
    running = tier is not None and tier.review_at is not None
    qualified = asked.points if counts and (asked.points > 0 or running) else 0
    fact = adjust(case.held(), rules, asked, qualified, case.now)
    return [Draft(fact, time=case.now), *(_tier_drafts(case, qualified) if counts else ())]


def decide_due(case: Case, due_at: datetime) -> list[Draft]:
    """All that falls due at that instant: lots lapse first, then the tier is reviewed."""
    drafts: list[Draft] = []
    if (expired := lapse(case.held().lots, due_at)) is not None:
        drafts.append(Draft(expired, time=due_at))
    tier = case.tier()
    if tier is not None and tier.review_at is not None and tier.review_at <= due_at:
        drafts.append(Draft(review(tier, setting_of(case.in_force(due_at)), due_at), time=due_at))
    return drafts


def _must(case: Case) -> InForce:
    rules = case.in_force(case.now)
    if rules is None:
        if case.why_no_rules() == "tenant-unknown":
            raise Refused("tenant-unknown", "the tenant is not known here yet; ask again under a new key")
        raise Refused("no-program", "no program is in force; publish one first")
    return rules


def _about(event: Event, data: PurchaseCompleted | PurchaseRefunded | CustomRecorded) -> Fields:
    """The fields of `CausedByEvent`."""
    about = {"event_source": event.source, "event_id": event.id, "event_type": event.type}
    if not isinstance(data, CustomRecorded):
        about |= {"channel": data.channel, "order_id": data.order_id}
    return about


def _bought(purchase: PurchaseCompleted) -> tuple[BoughtLine, ...]:
    """The pieces of each line; lines that share an id count together, because a refund cannot tell them apart."""
    pieces: dict[str, int] = {}
    for line in purchase.lines:
        pieces[line.line_id] = pieces.get(line.line_id, 0) + line.quantity
    return tuple(BoughtLine(line_id=line_id, quantity=quantity) for line_id, quantity in pieces.items())


def _evaluated(
    case: Case, about: Fields, rules: InForce | None, reason: str, lines: tuple[BoughtLine, ...] = ()
) -> list[Draft]:
    """No rule was asked, or nothing may come of it."""
    return [Draft(RulesEvaluated(**_evaluation(about, rules, reason, None, lines)), time=case.happened_at)]


def _evaluation(
    about: Fields, rules: InForce | None, reason: str, said: Evaluation | None, lines: tuple[BoughtLine, ...]
) -> Fields:
    """The fields of `Evaluated`."""
    results = () if said is None else said.results
    return {
        **about,
        "program": "" if rules is None else rules.program,
        "version": 0 if rules is None else rules.version,
        "reason": reason,
        "lines": lines,
        "results": tuple(
            RuleOutcome(rule=each.rule, fired=each.fired, reason=each.reason, inputs=each.inputs) for each in results
        ),
    }


def _earned(case: Case, earned: PointsEarned) -> list[Draft]:
    gone = lapsed_at_birth(earned, case.now)
    drafts = [Draft(earned, time=case.happened_at)]
    return drafts if gone is None else [*drafts, Draft(gone, time=case.now)]


def _tier_drafts(case: Case, added: int) -> list[Draft]:
    change = after_points(case.tier(), setting_of(case.in_force(case.now)), added, case.now)
    return [] if change is None else [Draft(change, time=case.now)]


def _bounded(held: Holdings, awards: tuple[Award, ...]) -> bool:
    added: dict[str, int] = {}
    for award in awards:
        added[award.wallet] = added.get(award.wallet, 0) + award.points
    return all(held.balance_is_bounded(wallet, points) for wallet, points in added.items())


def _too_large(drafts: Sequence[Draft]) -> bool:
    """Whether the facts cannot be written down in one go; measured only when they list much."""
    if sum(_listed(draft.data) for draft in drafts) < 500:
        return False
    return sum(len(orjson.dumps(draft.data.model_dump(mode="json"))) for draft in drafts) > FACTS_BYTES_MAX


def _measured(draft: Draft) -> int:
    """Bytes of the fact and its envelope."""
    return len(orjson.dumps(draft.data.model_dump(mode="json"))) + ENVELOPE_BYTES


def _listed(fact: Any) -> int:
    """How many things the fact lists, roughly: none of them is longer than 1,500 bytes."""
    match fact:
        case RulesEvaluated():
            return len(fact.lines) + 5 * len(fact.results)
        case PointsEarned():
            return len(fact.lines) + 5 * len(fact.results) + len(fact.awards)
        case PointsReversed():
            return len(fact.lines) + sum(1 + len(each.taken) for each in fact.reversals)
        case _:
            return 0
