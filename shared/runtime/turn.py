"""One turn of a partition: step 5 of the batch (DESIGN §6), in memory, without I/O.

Settle what is due, decide, evolve, and number what goes out.
"""

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from shared.events import catalogue
from shared.events.catalogue import Data, EventType
from shared.events.envelope import Event, decode, encode, event_id
from shared.events.runtime import ANY_WORKER, InputParked, InputRetried, RequestRefused, RetryInput
from shared.log.port import BATCH_BYTES_MAX, PARTITIONS, partition_of
from shared.runtime.accept import Work
from shared.runtime.fold import RUNTIME_READS, fold_other, fold_own, needs_of, timer, timer_cause
from shared.runtime.rules import Draft, Input, Refused, Rules
from shared.runtime.state import CLOCKS, PARKED, REQUESTS, SUBJECTS
from shared.runtime.store import OutboxRow, Position
from shared.runtime.tables import Need, Rows

PARKED_READABLE: Final = timedelta(days=30)
SETTLE_STEPS_MAX: Final = 100_000
"""A bound on due instants settled before one input; more means that a rule's due time does not move."""
GROUPS_PER_TURN: Final = 1_000_000
"""A group's number is version * this + its place in the turn, so groups only grow."""


class Failed(Exception):
    """A decision raised. With other inputs in the batch it is taken again one by one; alone it is parked."""

    def __init__(self, work: "Work", error: Exception) -> None:
        super().__init__(f"{work.cause}: {type(error).__name__}: {error}")
        self.work, self.error = work, error


class NotOurs(Exception):
    """A rule drafted an event that it may not emit: another owner's, a request, or one that belongs elsewhere."""


Seal = Callable[[str, str, Data], Data]
"""(tenant, subject, data) -> data with its sealed fields sealed."""


@dataclass(frozen=True)
class Context:
    """What stays the same from turn to turn of one worker."""

    rules: Rules
    seal: Seal
    seal_text: Callable[[str, str, str], str]
    partitions: int = PARTITIONS


class Turn:
    """Decides a batch on loaded rows. Nothing of it is kept when the transaction rolls back."""

    def __init__(self, context: Context, rows: Rows, position: Position, counters: Counter[str]) -> None:
        self.rows = rows
        self.position = deepcopy(position)
        self.outbox: list[OutboxRow] = []
        self._letters: list[Event] = []
        self.counters = counters
        self._context, self._rules, self._q = context, context.rules, position.partition
        self._group = (position.version + 1) * GROUPS_PER_TURN
        self.next_due: datetime | None = None
        """The earliest timer set in this turn for a tenant on real time."""
        self.timers_ready = False
        """Whether a test clock moved, or a timer was set that its test clock has passed already."""

    def needs(self, works: Iterable[Work]) -> Iterable[Need]:
        """Step 4: every group that these inputs may touch."""
        for work in works:
            if work.unreadable:
                yield from needs_of(self._rules, self._parked(work, work.unreadable), self._q)
                continue
            yield from needs_of(self._rules, work.event, self._q)
            yield Need(CLOCKS, (self._q, work.event.tenant))
            if isinstance(work.event.data, RetryInput):
                yield from needs_of(self._rules, self._retried(work.event.data), self._q)

    def decide(self, works: Sequence[Work]) -> None:
        """Step 5: settle, decide, evolve, input by input. Raises Failed naming the input whose decision raised."""
        for work in works:
            self._group += 1
            before = len(self.outbox)
            try:
                self._decide(work)
                self._send_letters()
                self._check_size(self.outbox[before:])
            except Exception as error:
                raise Failed(work, error) from error
        self._look_at_timers(works)

    def _look_at_timers(self, works: Sequence[Work]) -> None:
        self.timers_ready = any(work.event.type in RUNTIME_READS for work in works)
        for subject in self.rows.changed(SUBJECTS):
            if subject.due_at is None:
                continue
            clock = self.rows.get(CLOCKS, (self._q, subject.tenant))
            if clock is None:
                self.next_due = subject.due_at if self.next_due is None else min(self.next_due, subject.due_at)
            elif subject.due_at <= clock.at:
                self.timers_ready = True

    def park(self, work: Work, reason: str) -> None:
        """Record that this inbox record waits for a person, with its bytes sealed under a key of its own."""
        event = self._parked(work, reason)
        if self.rows.get(PARKED, (event.data.topic, event.data.partition, event.data.offset)) is not None:
            return  # an inbox that is read again after a rebuild
        self._group += 1
        self.counters["parked"] += 1
        self._record(event, catalogue.type_of(event.data), self._q)
        self._send_letters()

    def _parked(self, work: Work, reason: str) -> Event:
        record = work.record
        if record is None:
            raise ValueError("only an inbox record can be parked")
        subject = f"inbox/{work.cause}"
        sealed = self._context.seal_text(work.event.tenant, subject, base64.b64encode(record.value or b"").decode())
        data = InputParked(
            topic=record.at.topic,
            partition=record.at.partition,
            offset=record.offset,
            reason=reason[:500],
            sealed=sealed,
            readable_until=record.appended_at + PARKED_READABLE,
        )
        return self._event(work, Draft(data, subject=subject), 0, record.appended_at)

    def _decide(self, work: Work) -> None:
        event, rows = work.event, self.rows
        if work.unreadable:
            if not self._is_duplicate(event):
                self.park(work, work.unreadable)
            return
        if work.kind == "event":
            fold_other(self._rules, rows, event, self._q)
            if event.type not in self._rules.reads:
                return
        now = self._now(work)
        self._settle(event.tenant, event.subject, now)
        if work.kind == "timer":
            return
        if isinstance(event.data, RetryInput):
            self._retry(work, event.data, now)
            return
        if not self._is_duplicate(event):
            self._answer(work, now)

    def _is_duplicate(self, event: Event) -> bool:
        if not event.request_key or self.rows.get(REQUESTS, (event.tenant, event.request_key)) is None:
            return False
        self.counters["duplicate_requests"] += 1
        return True

    def _answer(self, work: Work, now: datetime) -> None:
        try:
            drafts = self._rules.decide(self.rows, Input(work.kind, work.event, now, work.cause, self._q))
        except Refused as refusal:
            if work.kind != "request":
                raise
            refused = RequestRefused(
                request=work.event.type, reason=refusal.reason, detail=refusal.detail, facts=refusal.facts
            )
            drafts = [Draft(refused)]
        self._emit(work, drafts, now)

    def _now(self, work: Work) -> datetime:
        arrived, tenant = work.arrived_at, work.event.tenant
        if work.kind == "request":
            clock = self.rows.get(CLOCKS, (self._q, tenant))
            arrived = arrived if clock is None else clock.at
        if not self._rules.settles:
            return arrived
        subject = self.rows.get(SUBJECTS, (tenant, work.event.subject))
        return arrived if subject is None else max(arrived, subject.now)

    def _settle(self, tenant: str, subject: str, until: datetime) -> None:
        """Decide all that is due up to `until`, instant by instant, each with its own due time as `now`."""
        if not self._rules.settles:
            return
        last: datetime | None = None
        for _ in range(SETTLE_STEPS_MAX):
            due_at = self._rules.due_at(self.rows, tenant, subject)
            if due_at is None or due_at > until:
                return
            if last is not None and due_at <= last:
                raise RuntimeError(f"the due time of {tenant}/{subject} does not move on from {due_at}")
            last = due_at
            due = Work("timer", timer(tenant, subject, due_at), timer_cause(tenant, subject, due_at), due_at)
            drafts = self._rules.decide(self.rows, Input("timer", due.event, due_at, due.cause, self._q))
            self._emit(due, drafts, due_at)
        raise RuntimeError(f"{tenant}/{subject}: more than {SETTLE_STEPS_MAX} due instants")

    def _retry(self, work: Work, retry: RetryInput, now: datetime) -> None:
        inner = self._retried(retry)
        self._emit(work, [Draft(InputRetried(topic=retry.topic, partition=retry.partition, offset=retry.offset))], now)
        again = replace(work, event=inner, cause=f"{work.cause}/retry")
        self._settle(inner.tenant, inner.subject, now)
        known = inner.request_key and self.rows.get(REQUESTS, (inner.tenant, inner.request_key))
        if not known or known.type == "input.parked.v1":
            self._answer(again, now)

    def _retried(self, retry: RetryInput) -> Event:
        return catalogue.read(decode(base64.b64decode(retry.value)))

    def _emit(self, work: Work, drafts: Sequence[Draft], now: datetime) -> None:
        """Number the facts and the letters that follow from them, and fold the facts."""
        targets = set()
        for index, draft in enumerate(drafts):
            declared = catalogue.type_of(draft.data)
            if declared.kind != "fact" or declared.owner not in (self._rules.worker, ANY_WORKER):
                raise NotOurs(f"{self._rules.worker} may not decide {declared.name}")
            event = self._event(work, draft, index, now)
            target = partition_of(event.tenant, event.subject, self._context.partitions)
            if self._rules.settles and declared.owner != ANY_WORKER and target != self._q:
                raise NotOurs(f"{declared.name} of {event.subject} belongs to partition {target}, not {self._q}")
            target = self._q if self._rules.settles else target
            targets.add(target)
            self._record(event, declared, target)
        if len(targets) > 1:
            raise NotOurs(f"one input's facts must stand on one partition, not on {sorted(targets)}")

    def _event(self, work: Work, draft: Draft, index: int, now: datetime) -> Event:
        cause, asked = work.event, work.kind == "request" and index == 0
        subject = draft.subject or cause.subject
        return Event(
            id=draft.id or event_id(work.cause, index),
            source=draft.source or f"/{self._rules.worker}",
            type=catalogue.type_of(draft.data).name,
            tenant=cause.tenant,
            subject=subject,
            time=draft.time or (now if work.kind == "request" else cause.time),
            data=self._context.seal(cause.tenant, subject, draft.data),
            producer=f"{self._rules.worker}.{self._q}",
            cause=work.cause,
            recorded_at=now,
            correlation_id=cause.correlation_id,
            trace_parent=cause.trace_parent,
            request_key=cause.request_key if asked else "",
            request_hash=cause.request_hash if asked else "",
        )

    def _record(self, event: Event, declared: EventType, target: int) -> None:
        self._send(event, target, letter=False)
        fold_own(self._rules, self.rows, event, self._q)
        self.counters[declared.name] += 1
        self._letters += [
            letter_of(self._rules, event, draft, index) for index, draft in enumerate(self._rules.letters(event))
        ]

    def _send_letters(self) -> None:
        """Number the group's letters after all its facts: on each target the relay keeps that order."""
        letters, self._letters = self._letters, []
        for letter in letters:
            for target in targets_of(letter, self._context.partitions):
                self._send(letter, target, letter=True)

    def _send(self, event: Event, target: int, *, letter: bool) -> None:
        """Give the new event its number, the last thing it lacks (a letter has one on each target), and send it."""
        event.sequence = self.position.sequences.get(target, 0) + 1
        self.position.sequences[target] = event.sequence
        key = f"{event.tenant}/{event.subject}".encode()
        self.outbox.append(OutboxRow(self._q, target, event.sequence, self._group, letter, key, encode(event)))

    def _check_size(self, rows: Sequence[OutboxRow]) -> None:
        sizes: Counter[int] = Counter()
        for row in rows:
            sizes[row.target] += len(row.key) + len(row.value)
        if sizes and max(sizes.values()) > BATCH_BYTES_MAX:
            raise ValueError(f"one input may yield {BATCH_BYTES_MAX} bytes on a partition, this one yields more")


def letter_of(rules: Rules, fact: Event, draft: Draft, index: int) -> Event:
    """The letter that a fact's draft describes: derived from the fact alone, with an id of its own."""
    declared = catalogue.type_of(draft.data)
    if declared.kind != "letter" or declared.owner != rules.worker:
        raise NotOurs(f"{rules.worker} may not send {declared.name}")
    return replace(
        fact,
        id=event_id(fact.id, index),
        source=f"/{rules.worker}",
        type=declared.name,
        subject=draft.subject or fact.subject,
        time=draft.time or fact.time,
        data=draft.data,
        sequence=0,
        request_key="",
        request_hash="",
    )


def targets_of(letter: Event, partitions: int) -> Sequence[int]:
    """Where a letter goes: its subject's partition, or all of them."""
    if catalogue.type_of(letter.data).everywhere:
        return range(partitions)
    return (partition_of(letter.tenant, letter.subject, partitions),)


def seal_nothing(_tenant: str, _subject: str, data: Data) -> Any:
    """For workers without personal data, and tests."""
    return data
