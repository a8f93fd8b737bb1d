"""How the facts of points change rows: from what a fact says and the member's own rows alone, so no rule is needed."""

from datetime import datetime
from typing import Any, Final, assert_never

import orjson

from services.points.ledger.store import (
    ACCOUNTS,
    EVALUATIONS,
    LEDGER_ENTRIES,
    LOTS,
    MEMBERS,
    ORDER_AWARDS,
    ORDER_LINES,
    REFUNDS,
    WAITING_REFUNDS,
    AccountRow,
    EntryRow,
    EvaluationRow,
    LotRow,
    MemberRow,
    OrderAwardRow,
    OrderLineRow,
    RefundRow,
    WaitingRefundRow,
)
from shared.events.envelope import Event
from shared.events.points import (
    CausedByEvent,
    Evaluated,
    PointsAdjusted,
    PointsEarned,
    PointsExpired,
    PointsRedeemed,
    PointsReversed,
    ReversalDeferred,
    RulesEvaluated,
)
from shared.runtime.tables import Rows

AVAILABLE: Final = "member:available"
OWED: Final = "member:owed"
ISSUED: Final = "program:issued"
REDEEMED: Final = "program:redeemed"
EXPIRED: Final = "program:expired"
ADJUSTED: Final = "program:adjusted"
REVERSED: Final = "program:reversed"

SIGNS: Final = {AVAILABLE: 1, OWED: -1, ISSUED: -1, REDEEMED: 1, EXPIRED: 1, ADJUSTED: -1, REVERSED: 1}
"""The accounts in the order of `AccountRow`'s columns, and the sign with which points that arrive change them."""
PLACES: Final = {account: place for place, account in enumerate(SIGNS)}


class Book:
    """The postings of one fact on its member's rows: written down in memory, put into the rows by `close`."""

    def __init__(self, rows: Rows, event: Event) -> None:
        if event.recorded_at is None:
            raise ValueError(f"fact {event.id} has no recordedtime")
        self.rows, self.event, self.recorded_at = rows, event, event.recorded_at
        self.tenant, self.contact = event.tenant, event.subject
        found = rows.get(MEMBERS, (self.tenant, self.contact))
        self.member = found or MemberRow(self.tenant, self.contact, 0, 0, 0)
        self._entries = self.member.entries
        self._accounts: dict[str, list[int]] = {}
        self._lots: dict[int, LotRow] = {}
        self._remaining: dict[int, int] = {}
        about = event.data
        self._order = getattr(about, "channel", ""), getattr(about, "order_id", "")
        self._origin = getattr(about, "event_source", ""), getattr(about, "event_id", "")

    def post(
        self,
        wallet: str,
        source: str,
        destination: str,
        points: int,
        lot: int,
        rule: tuple[str, int, str],
        *,
        line_id: str = "",
        reference: str = "",
        by: str = "",
        effective_at: datetime | None = None,
    ) -> int:
        """Write one entry and change both accounts and the lot; returns the entry's number.

        `rule` is program, version and rule; the time is the fact's unless given.
        """
        self._entries += 1
        columns = self._account(wallet)
        columns[PLACES[source]] -= SIGNS[source] * points
        columns[PLACES[destination]] += SIGNS[destination] * points
        if destination == AVAILABLE:
            self._fill(lot, points)
        elif source == AVAILABLE:
            self._fill(lot, -points)
        entry = EntryRow(
            self.tenant,
            self.contact,
            self._entries,
            wallet,
            source,
            destination,
            points,
            lot,
            *rule,
            line_id,
            *self._order,
            *self._origin,
            self.event.id,
            self.event.type,
            reference,
            by,
            effective_at or self.event.time,
            self.recorded_at,
            self.event.cause,
        )
        self.rows.append(LEDGER_ENTRIES, entry)
        return self._entries

    def open_lot(
        self, number: int, wallet: str, points: int, rule: tuple[str, int, str], standing: bool, ends: datetime | None
    ) -> None:
        """Make the lot, still empty, or let a standing one grow."""
        found = self._lot(number)
        if found is None:
            program, version, code = ("", 0, "") if standing else rule
            found = LotRow(
                self.tenant,
                self.contact,
                number,
                wallet,
                standing,
                program,
                version,
                code,
                earned=0,
                remaining=0,
                earned_at=self.event.time,
                expires_at=ends,
            )
        self._lots[number] = found._replace(earned=found.earned + points)

    def close(self) -> None:
        """Put what the fact changed."""
        if self._entries != self.member.entries:
            self.member = self.member._replace(entries=self._entries)
        self.rows.put(MEMBERS, self.member)
        for wallet, columns in self._accounts.items():
            self.rows.put(ACCOUNTS, AccountRow(self.tenant, self.contact, wallet, *columns))
        for number, remaining in self._remaining.items():
            self.rows.put(LOTS, self._lots[number]._replace(remaining=remaining))

    def _account(self, wallet: str) -> list[int]:
        columns = self._accounts.get(wallet)
        if columns is None:
            key = (self.tenant, self.contact, wallet)
            found = self.rows.get(ACCOUNTS, key, key[:2]) or AccountRow(*key)
            columns = self._accounts[wallet] = list(found[3:])
        return columns

    def _lot(self, number: int) -> LotRow | None:
        if number not in self._lots:
            key = (self.tenant, self.contact, number)
            found = self.rows.get(LOTS, key, key[:2])
            if found is None:
                return None
            self._lots[number] = found
        return self._lots[number]

    def _fill(self, number: int, points: int) -> None:
        lot = self._lot(number)
        remaining = points + (self._remaining.get(number, 0 if lot is None else lot.remaining))
        if lot is None or remaining < 0:
            raise ValueError(f"fact {self.event.id} takes {points} from lot {number}, which does not hold them")
        self._remaining[number] = remaining


LedgerFact = (
    RulesEvaluated | PointsEarned | PointsRedeemed | PointsExpired | PointsAdjusted | ReversalDeferred | PointsReversed
)


def fold(rows: Rows, event: Event, fact: LedgerFact) -> None:
    """Change the member's rows as the fact says; `fact` is the event's data."""
    book = Book(rows, event)
    match fact:
        case RulesEvaluated():
            _evaluated(book, fact)
        case PointsEarned():
            _evaluated(book, fact)
            _earned(book, fact)
        case PointsRedeemed():
            _redeemed(book, fact)
        case PointsExpired():
            _expired(book, fact)
        case PointsAdjusted():
            _adjusted(book, fact)
        case ReversalDeferred():
            _deferred(book, fact)
        case PointsReversed():
            _reversed(book, fact)
        case _:
            assert_never(fact)
    book.close()


def _evaluated(book: Book, fact: Evaluated) -> None:
    results = [outcome.model_dump(mode="json") for outcome in fact.results]
    _explain(book, fact, fact.program, fact.version, fact.reason, results)
    if fact.lines:
        book.member = book.member._replace(purchases=book.member.purchases + 1)
    for line in fact.lines:
        row = OrderLineRow(
            book.tenant, book.contact, fact.channel, fact.order_id, line.line_id, line.quantity, refunded=0
        )
        book.rows.put(ORDER_LINES, row)


def _explain(
    book: Book, about: CausedByEvent, program: str, version: int, reason: str, results: list[dict[str, Any]]
) -> None:
    """Keep what was said of an event, so that it can be told why something did or did not happen."""
    number = book.member.evaluations + 1
    book.member = book.member._replace(evaluations=number)
    row = EvaluationRow(
        book.tenant,
        book.contact,
        number,
        about.event_source,
        about.event_id,
        about.event_type,
        about.channel,
        about.order_id,
        program,
        version,
        reason,
        orjson.dumps(results, option=orjson.OPT_SORT_KEYS).decode(),
        book.event.id,
        book.event.time,
        book.recorded_at,
        book.event.cause,
    )
    book.rows.append(EVALUATIONS, row)


def _earned(book: Book, fact: PointsEarned) -> None:
    for award in fact.awards:
        rule = (fact.program, fact.version, award.rule)
        book.open_lot(award.lot, award.wallet, award.points, rule, award.standing, award.expires_at)
        entry = book.post(award.wallet, ISSUED, AVAILABLE, award.points, award.lot, rule, line_id=award.line_id)
        if award.repaid:
            book.post(award.wallet, AVAILABLE, OWED, award.repaid, award.lot, rule, line_id=award.line_id)
        if not fact.order_id:
            continue
        row = OrderAwardRow(
            book.tenant,
            book.contact,
            fact.channel,
            fact.order_id,
            entry,
            award.line_id,
            award.wallet,
            *rule,
            points=award.points,
            reversed=0,
            lot=award.lot,
            expires_at=award.expires_at,
            recorded_at=book.recorded_at,
        )
        book.rows.put(ORDER_AWARDS, row)


def _redeemed(book: Book, fact: PointsRedeemed) -> None:
    rule = (fact.program, fact.version, "")
    for part in fact.lots:
        book.post(fact.wallet, AVAILABLE, REDEEMED, part.points, part.lot, rule, reference=fact.reference)


def _expired(book: Book, fact: PointsExpired) -> None:
    for group in fact.lapsed:
        rule = (group.program, group.version, group.rule)
        for part in group.lots:
            book.post(group.wallet, AVAILABLE, EXPIRED, part.points, part.lot, rule, effective_at=group.expires_at)


def _adjusted(book: Book, fact: PointsAdjusted) -> None:
    rule = (fact.program, fact.version, "")
    if fact.points < 0:
        for part in fact.lots:
            book.post(fact.wallet, AVAILABLE, ADJUSTED, part.points, part.lot, rule, reference=fact.reason, by=fact.by)
        return
    lot = fact.lots[0].lot
    book.open_lot(lot, fact.wallet, fact.points, rule, fact.standing, fact.expires_at)
    book.post(fact.wallet, ADJUSTED, AVAILABLE, fact.points, lot, rule, reference=fact.reason, by=fact.by)
    if fact.repaid:
        book.post(fact.wallet, AVAILABLE, OWED, fact.repaid, lot, rule, reference=fact.reason, by=fact.by)


def _deferred(book: Book, fact: ReversalDeferred) -> None:
    _explain(book, fact, "", 0, "order-awaited", [])
    row = WaitingRefundRow(
        book.tenant,
        book.contact,
        fact.channel,
        fact.order_id,
        fact.refund_id,
        book.member.evaluations,
        orjson.dumps([(line.line_id, line.quantity) for line in fact.lines]).decode(),
        fact.event_source,
        fact.event_id,
        fact.event_type,
        happened_at=book.event.time,
        waiting_since=book.recorded_at,
        fact_id=book.event.id,
        released_by="",
    )
    book.rows.put(WAITING_REFUNDS, row)


def _reversed(book: Book, fact: PointsReversed) -> None:
    order = (book.tenant, book.contact, fact.channel, fact.order_id)
    for line in fact.lines:
        row = book.rows.get(ORDER_LINES, (*order, line.line_id), order)
        if row is not None and line.quantity:
            book.rows.put(ORDER_LINES, row._replace(refunded=row.refunded + line.quantity))
    for item in fact.reversals:
        award = book.rows.get(ORDER_AWARDS, (*order, item.entry), order)
        if award is None:
            raise ValueError(f"fact {book.event.id} reverses entry {item.entry}, which is none of the order's")
        book.rows.put(ORDER_AWARDS, award._replace(reversed=award.reversed + item.points))
        rule = (item.program, item.version, item.rule)
        for part in item.taken:
            book.post(
                item.wallet,
                AVAILABLE,
                REVERSED,
                part.points,
                part.lot,
                rule,
                line_id=award.line_id,
                reference=fact.refund_id,
            )
        if item.owed:
            book.post(item.wallet, OWED, REVERSED, item.owed, 0, rule, line_id=award.line_id, reference=fact.refund_id)
    told = [
        item.model_dump(mode="json", include={"rule", "entry", "points", "owed", "forgiven"}) for item in fact.reversals
    ]
    _explain(book, fact, "", 0, fact.reason, told)
    book.rows.put(REFUNDS, RefundRow(*order, fact.refund_id, fact.reason, book.event.id))
    waiting = book.rows.get(WAITING_REFUNDS, (*order, fact.refund_id), order)
    if waiting is not None:
        book.rows.put(WAITING_REFUNDS, waiting._replace(released_by=book.event.id))
