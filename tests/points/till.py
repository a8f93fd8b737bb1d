"""A tiny shop: feeds inputs through the real turn over rows in memory, and folds the facts again from nothing."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.rules import PointsRules
from shared.events import catalogue
from shared.events.contacts import TENANT_SUBJECT, TenantDeclared
from shared.events.door import CustomRecorded, Line, PurchaseCompleted, PurchaseRefunded, RefundedLine
from shared.events.envelope import Event, decode
from shared.events.points import AdjustPoints, DraftProgram, PublishProgram, RedeemPoints
from shared.runtime.accept import Work, timers
from shared.runtime.fold import fold_other, fold_own, is_own_fact, needs_of
from shared.runtime.state import TABLES as RUNTIME_TABLES
from shared.runtime.store import Due, Position
from shared.runtime.tables import Key, Rows, Table
from shared.runtime.turn import Context, Turn, seal_nothing

TENANT: Final = "acme"
OPENED: Final = datetime(2025, 12, 1, tzinfo=UTC)


class Tables:
    """Committed rows by table; loads leave out what the real load queries leave out."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Key, Any]] = {table.name: {} for table in (*PointsRules.tables, *RUNTIME_TABLES)}

    def load(self, rows: Rows, wanted: dict[Table[Any], set[Key]]) -> None:
        for table, groups in wanted.items():
            found = [row for row in self.rows[table.name].values() if table.group_of(row) in groups]
            rows.loaded(table, groups, [row for row in found if table.alive is None or table.alive(row)])

    def save(self, rows: Rows) -> None:
        for table, changed in rows.changes():
            for row in changed:
                key = table.key_of(row)
                assert not (table.append_only and key in self.rows[table.name]), (table.name, key)
                self.rows[table.name][key] = row

    def of(self, table: Table[Any], contact: str) -> list[Any]:
        return [row for key, row in sorted(self.rows[table.name].items()) if key[1] == contact]


class Till:
    """One tenant on one partition. Times are given as days after OPENED, or as instants."""

    def __init__(self, program: dict[str, Any] | None = None, *, zone: str = "UTC", currency: str = "USD") -> None:
        self.rules = PointsRules()
        self.context = Context(self.rules, seal_nothing, lambda _tenant, _subject, text: text, partitions=1)
        self.tables, self.position, self.stream, self.inputs = Tables(), Position(0), list[Event](), 0
        self.now = OPENED
        self.happen(TenantDeclared(name="Acme", zone=zone, currency=currency), TENANT_SUBJECT, producer="contacts.0")
        if program is not None:
            self.publish(program)

    def publish(self, program: dict[str, Any], effective_from: datetime | None = None) -> list[Event]:
        self.ask(DraftProgram(document=program, by="li"), TENANT_SUBJECT)
        return self.ask(PublishProgram(effective_from=effective_from, by="li"), TENANT_SUBJECT)

    def buy(
        self,
        contact: str,
        bought: int | Sequence[Line],
        order_id: str = "",
        at: datetime | None = None,
    ) -> list[Event]:
        """`bought`: the lines, or what one line of one piece costs."""
        return self.feed([self.purchase_work(contact, bought, order_id, at)])

    def purchase_work(
        self, contact: str, bought: int | Sequence[Line], order_id: str = "", at: datetime | None = None
    ) -> Work:
        lines = (
            (Line(line_id="1", sku="CD", quantity=1, amount_minor=bought),)
            if isinstance(bought, int)
            else tuple(bought)
        )
        order = order_id or f"o{self.inputs}"
        return self._heard(PurchaseCompleted(channel="web", order_id=order, currency="USD", lines=lines), contact, at)

    def refund(
        self,
        contact: str,
        order_id: str,
        refund_id: str = "r1",
        at: datetime | None = None,
        pieces: dict[str, int] | None = None,
    ) -> list[Event]:
        """`pieces`: how many come back by line id; one of line 1 unless given."""
        return self.feed([self.refund_work(contact, order_id, refund_id, at, pieces)])

    def refund_work(
        self,
        contact: str,
        order_id: str,
        refund_id: str = "r1",
        at: datetime | None = None,
        pieces: dict[str, int] | None = None,
    ) -> Work:
        items = tuple(
            RefundedLine(line_id=line_id, quantity=n, amount_minor=1) for line_id, n in (pieces or {"1": 1}).items()
        )
        data = PurchaseRefunded(channel="web", order_id=order_id, refund_id=refund_id, currency="USD", lines=items)
        return self._heard(data, contact, at)

    def visit(
        self, contact: str, name: str = "store.visited", at: datetime | None = None, **fields: Any
    ) -> list[Event]:
        return self.happen(CustomRecorded(name=name, fields=fields), contact, at)

    def redeem(self, contact: str, points: int, wallet: str = "") -> Event:
        return self.ask(RedeemPoints(wallet=wallet, points=points, reference="till 7"), contact)[-1]

    def adjust(self, contact: str, points: int, wallet: str = "points", reason: str = "goodwill") -> Event:
        return self.ask(AdjustPoints(wallet=wallet, points=points, reason=reason, by="li"), contact)[0]

    def happen(self, data: Any, contact: str, at: datetime | None = None, producer: str = "door.0") -> list[Event]:
        """An event of the stream, decided now; `at` is its own time."""
        return self.feed([self._heard(data, contact, at, producer)])

    def _heard(self, data: Any, contact: str, at: datetime | None = None, producer: str = "door.0") -> Work:
        event = self._event(data, contact, at or self.now, producer)
        self.stream.append(event)
        return Work("event", event, f"regulars.events/0/{self.inputs}", self.now)

    def ask(self, data: Any, contact: str) -> list[Event]:
        event = self._event(data, contact, self.now, "")
        return self.feed([Work("request", event, f"regulars.inbox.points.1/0/{self.inputs}", self.now)])

    def pass_time(self, to: datetime | timedelta, *, run_timers: bool = True) -> list[Event]:
        """Move the clock; without timers, what falls due waits for the next input of its contact."""
        self.now = self.now + to if isinstance(to, timedelta) else to
        facts: list[Event] = []
        while run_timers and (due := self._due()):
            facts += self.feed(timers(due))
        return facts

    def _due(self) -> list[Due]:
        rows = self.tables.rows["subjects"].values()
        due = [Due(row.tenant, row.subject, row.due_at) for row in rows if row.due_at and row.due_at <= self.now]
        return sorted(due, key=lambda each: each.due_at)

    def feed(self, works: Sequence[Work]) -> list[Event]:
        """One turn, and the letters that come back to the worker; returns the facts."""
        if not works:
            return []
        rows = Rows()
        turn = Turn(self.context, rows, self.position, Counter())
        self.tables.load(rows, rows.missing(turn.needs(works)))
        turn.decide(works)
        self.tables.save(rows)
        self.position = turn.position
        sent = [catalogue.read(decode(row.value)) for row in turn.outbox]
        self.stream += sent
        letters = [event for event in sent if catalogue.find(event.type).kind == "letter"]
        for letter in letters:
            if letter.type in self.rules.reads:
                self.inputs += 1
                self.feed([Work("event", letter, f"regulars.events/0/{self.inputs}", self.now)])
        return [event for event in sent if event not in letters]

    def available(self, contact: str, wallet: str = "points") -> int:
        row = self.tables.rows["accounts"].get((TENANT, contact, wallet))
        return 0 if row is None else row.available

    def _event(self, data: Any, contact: str, at: datetime, producer: str) -> Event:
        self.inputs += 1
        name = catalogue.type_of(data).name
        recorded = self.now if producer else None
        return Event(
            f"evt-{self.inputs}", "shop", name, TENANT, contact, at, data, producer=producer, recorded_at=recorded
        )


def refolded(till: Till, *, own_first: bool, batch: int = 3) -> Tables:
    """The tables folded from the stream alone, the worker's own facts before or after all that others wrote."""
    own = [event for event in till.stream if is_own_fact(till.rules, event)]
    others = [event for event in till.stream if not is_own_fact(till.rules, event)]
    tables = Tables()
    for events in (own, others) if own_first else (others, own):
        for start in range(0, len(events), batch):
            _fold(till, tables, events[start : start + batch])
    return tables


def _fold(till: Till, tables: Tables, events: Iterable[Event]) -> None:
    events, rows = list(events), Rows()
    needed = [need for event in events for need in needs_of(till.rules, event, 0)]
    tables.load(rows, rows.missing(needed))
    for event in events:
        if is_own_fact(till.rules, event):
            fold_own(till.rules, rows, event, 0)
        else:
            fold_other(till.rules, rows, event, 0)
    tables.save(rows)


def program(**parts: Any) -> dict[str, Any]:
    """The sample program with some parts replaced."""
    return {**SAMPLE_PROGRAM, **parts}


def day(number: int, hour: int = 12) -> datetime:
    return OPENED + timedelta(days=number, hours=hour)
