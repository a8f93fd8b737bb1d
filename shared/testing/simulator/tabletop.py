"""The runtime's meaning without the runtime: one input after the other, nothing breaks, nothing is late.

A second, naive way from inputs to the log and to rows, to test rules by themselves and to hold the real way against.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from shared.events import catalogue
from shared.events.catalogue import Data
from shared.events.envelope import Event, decode, encode, event_id
from shared.events.runtime import RequestRefused
from shared.log.port import EVENTS, At, Record, inbox, partition_of
from shared.runtime.fold import RUNTIME_READS, fold_other, fold_own, is_own_fact, timer
from shared.runtime.rules import Draft, Input, Refused, Rules
from shared.runtime.state import CLOCKS, REQUESTS, SUBJECTS
from shared.testing.simulator.refold import AllRows


class Tabletop:
    """Some workers around one stream. `ask` returns when all that follows has happened."""

    def __init__(self, rules: Sequence[Rules], partitions: int = 12) -> None:
        self.partitions = partitions
        self.rules = {each.worker: each for each in rules}
        self.rows = {worker: AllRows() for worker in self.rules}
        self.records: dict[At, list[Record]] = {}
        self._read: dict[tuple[str, int], int] = {}
        self._sequences: dict[tuple[str, int], int] = {}

    def ask(self, worker: str, tenant: str, subject: str, data: Data, key: str, at: datetime) -> Event:
        """Append a request, decide it and everything after it; returns its outcome, recorded or remembered."""
        q = partition_of(tenant, subject, self.partitions)
        name = catalogue.type_of(data).name
        event = Event(f"{worker}-{key}", "/caller", name, tenant, subject, at, data, request_key=key, request_hash=key)
        record = self._append(At(inbox(worker), q), event, at)
        if self.rows[worker].get(REQUESTS, (tenant, key)) is None:
            self._decide(self.rules[worker], "request", event, _cause(record), at, q)
        self.drain()
        answered = self.rows[worker].get(REQUESTS, (tenant, key))
        assert answered is not None
        decided = f"{worker}.{answered.partition}"
        return next(event for event in self.stream() if event.id == answered.event_id and event.producer == decided)

    def settle(self, at: datetime) -> None:
        """Run all timers of tenants without a test clock that are due at `at`, and of others up to their clock."""
        for worker, rules in self.rules.items():
            rows = self.rows[worker]
            for subject in [row for row in rows.folded().get("subjects", []) if row[4] is not None]:
                tenant, name, q = subject[0], subject[1], subject[2]
                clock = rows.get(CLOCKS, (q, tenant))
                self._settle(rules, tenant, name, q, at if clock is None else clock.at)
        self.drain()

    def drain(self) -> None:
        """Let every worker read the stream until nobody has anything left."""
        while any(self._take(rules, q) for rules in self.rules.values() for q in range(self.partitions)):
            pass

    def stream(self) -> list[Event]:
        """All events of the stream, by partition."""
        return [
            catalogue.read(decode(record.value or b""))
            for q in range(self.partitions)
            for record in self.records.get(At(EVENTS, q), ())
        ]

    def _take(self, rules: Rules, q: int) -> bool:
        records = self.records.get(At(EVENTS, q), [])
        start = self._read.get((rules.worker, q), 0)
        self._read[(rules.worker, q)] = len(records)
        for record in records[start:]:
            event = catalogue.read(decode(record.value or b""))
            if is_own_fact(rules, event) or event.type not in rules.reads | RUNTIME_READS:
                continue
            fold_other(rules, self.rows[rules.worker], event, q)
            assert event.recorded_at is not None
            if event.type in rules.reads:
                self._decide(rules, "event", event, _cause(record), event.recorded_at, q)
        return len(records) > start

    def _decide(self, rules: Rules, kind: str, event: Event, cause: str, arrived: datetime, q: int) -> None:
        rows = self.rows[rules.worker]
        clock = rows.get(CLOCKS, (q, event.tenant))
        if kind == "request" and clock is not None:
            arrived = clock.at
        subject = rows.get(SUBJECTS, (event.tenant, event.subject))
        now = arrived if subject is None else max(arrived, subject.now)
        self._settle(rules, event.tenant, event.subject, q, now)
        try:
            asked = Input("request" if kind == "request" else "event", event, now, cause, q)
            drafts = rules.decide(rows, asked)
        except Refused as refusal:
            refused = RequestRefused(
                request=event.type, reason=refusal.reason, detail=refusal.detail, facts=refusal.facts
            )
            drafts = [Draft(refused)]
        self._emit(rules, event, cause, drafts, now, q)

    def _settle(self, rules: Rules, tenant: str, subject: str, q: int, until: datetime) -> None:
        rows = self.rows[rules.worker]
        while (due_at := rules.due_at(rows, tenant, subject)) is not None and due_at <= until:
            due = timer(tenant, subject, due_at)
            drafts = rules.decide(rows, Input("timer", due, due_at, due.id, q))
            assert drafts, "a due timer that decides nothing stays due for ever"
            self._emit(rules, due, due.id, drafts, due_at, q)

    def _emit(self, rules: Rules, source: Event, cause: str, drafts: Sequence[Draft], now: datetime, q: int) -> None:
        letters: list[Event] = []
        for index, draft in enumerate(drafts):
            fact = replace(
                source,
                id=event_id(cause, index),
                source=f"/{rules.worker}",
                type=catalogue.type_of(draft.data).name,
                subject=draft.subject or source.subject,
                data=draft.data,
                producer=f"{rules.worker}.{q}",
                cause=cause,
                recorded_at=now,
                request_key=source.request_key if index == 0 and source.type in rules.requests else "",
                request_hash=source.request_hash if index == 0 and source.type in rules.requests else "",
            )
            self._publish(fact, q)
            fold_own(rules, self.rows[rules.worker], fact, q)
            for nth, letter in enumerate(rules.letters(fact)):
                letters.append(
                    replace(
                        fact,
                        id=event_id(fact.id, nth),
                        type=catalogue.type_of(letter.data).name,
                        subject=letter.subject or fact.subject,
                        data=letter.data,
                        request_key="",
                        request_hash="",
                    )
                )
        for event in letters:
            everywhere = catalogue.find(event.type).everywhere
            own = partition_of(event.tenant, event.subject, self.partitions)
            for target in range(self.partitions) if everywhere else (own,):
                self._publish(event, target)

    def _publish(self, event: Event, target: int) -> None:
        place = (event.producer, target)
        self._sequences[place] = self._sequences.get(place, 0) + 1
        assert event.recorded_at is not None
        self._append(At(EVENTS, target), replace(event, sequence=self._sequences[place]), event.recorded_at)

    def _append(self, at: At, event: Event, moment: datetime) -> Record:
        records = self.records.setdefault(at, [])
        records.append(Record(at, len(records), f"{event.tenant}/{event.subject}".encode(), encode(event), moment))
        return records[-1]


def _cause(record: Record) -> str:
    return f"{record.at.topic}/{record.at.partition}/{record.offset}"
