"""Given-When-Then over rules: decides and folds in memory as the runtime would, one input at a time."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from services.contacts.door.delivery import inbox_key, structured
from shared.events import catalogue
from shared.events.door import Delivery
from shared.events.envelope import Event, decode, encode, event_id
from shared.runtime.rules import Draft, Input, Rules
from shared.runtime.tables import Key, Need, Rows, Table

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
TENANT = "acme"
SOURCE = "https://shop.example/pos-7"


def keyed(tenant: str, kind: str, value: str) -> str:
    """The identity hash of the tests; the real one has a secret key, too."""
    return hmac.new(b"test", f"{tenant}\n{kind}\n{value}".encode(), hashlib.sha256).hexdigest()


class Kept:
    """All rows of a worker's tables, and the facts they are folded from."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.tables: dict[str, dict[Key, Any]] = {table.name: {} for table in rules.tables}
        self.facts: list[Event] = []
        self.inputs = 0

    def all(self, table: Table[Any]) -> list[Any]:
        found = self.tables[table.name]
        return [found[key] for key in sorted(found)]

    def ask(self, event: Event, now: datetime = NOW) -> list[Event]:
        """Decide on a request and fold what follows; the facts, as they stand on the stream. Raises Refused."""
        self.inputs += 1
        cause = f"regulars.inbox.{self.rules.worker}.1/0/{self.inputs}"
        rows, facts = self.decide(event, cause, now)
        assert self.save(rows)
        self.facts += facts
        return facts

    def decide(self, event: Event, cause: str, now: datetime = NOW) -> tuple[Rows, list[Event]]:
        """Decide on rows as they are now, and keep nothing yet."""
        rows = self._load(self.rules.needs(event, 0))
        drafts = self.rules.decide(rows, Input("request", event, now, cause, 0))
        facts = [
            on_the_stream(self.rules.worker, event, draft, cause, index, now) for index, draft in enumerate(drafts)
        ]
        for fact in facts:
            self.rules.evolve(rows, fact)
        return rows, facts

    def fold(self, fact: Event) -> None:
        """Fold one fact as a rebuild does."""
        rows = self._load(self.rules.needs(fact, 0))
        self.rules.evolve(rows, fact)
        assert self.save(rows)

    def _load(self, needs: Iterable[Need]) -> Rows:
        rows = Rows()
        for table, groups in rows.missing(needs).items():
            found = [row for row in self.tables[table.name].values() if table.group_of(row) in groups]
            rows.loaded(table, groups, found)
        return rows

    def save(self, rows: Rows) -> bool:
        """Keep all changed rows, or none where a shared table has one of them already."""
        changes = [(table, list(changed)) for table, changed in rows.changes()]
        for table, changed in changes:
            if table.shared and any(table.key_of(row) in self.tables[table.name] for row in changed):
                return False
        for table, changed in changes:
            self.tables[table.name].update((table.key_of(row), row) for row in changed)
        return True


def on_the_stream(worker: str, asked: Event, draft: Draft, cause: str, index: int, now: datetime) -> Event:
    """The fact of a draft after a journey through the log, with its envelope as the runtime makes it."""
    fact = Event(
        id=draft.id or event_id(cause, index),
        source=draft.source or f"/{worker}",
        type=catalogue.type_of(draft.data).name,
        tenant=asked.tenant,
        subject=draft.subject or asked.subject,
        time=draft.time or asked.time,
        data=draft.data,
        producer=f"{worker}.0",
        sequence=1,
        cause=cause,
        recorded_at=now,
    )
    return catalogue.read(decode(encode(fact)))


def line(line_id: str = "1", quantity: int = 2, amount_minor: object = 2950, **more: object) -> dict[str, object]:
    return {"line_id": line_id, "sku": f"CD-{line_id}", "quantity": quantity, "amount_minor": amount_minor, **more}


def purchase(order_id: str = "1001", *lines: Mapping[str, object], **more: object) -> dict[str, Any]:
    return {"channel": "web", "order_id": order_id, "currency": "USD", "lines": list(lines) or [line()], **more}


def refund(refund_id: str = "r1", quantity: int = 1, amount_minor: int = 1475, **more: object) -> dict[str, Any]:
    lines = [{"line_id": "1", "quantity": quantity, "amount_minor": amount_minor}]
    return {"channel": "web", "order_id": "1001", "refund_id": refund_id, "currency": "USD", "lines": lines} | more


def sent(event_type: str, data: object, id: str = "e1", source: str = SOURCE, **more: object) -> dict[str, Any]:
    """A CloudEvent as its sender writes it."""
    return {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": event_type,
        "time": "2026-01-02T10:00:00Z",
        "data": data,
        **more,
    }


def arrived(event: Mapping[str, Any], tenant: str = TENANT) -> Event:
    """What the door's inbox holds of it."""
    delivery: Delivery = structured(event, NOW)
    return Event(
        id=delivery.id,
        source=delivery.source,
        type="delivery.v1",
        tenant=tenant,
        subject=inbox_key(tenant, delivery, keyed),
        time=delivery.time,
        data=delivery,
    )


def types(facts: Sequence[Event]) -> list[str]:
    return [fact.type for fact in facts]


def later(days: float) -> datetime:
    return NOW + timedelta(days=days)
