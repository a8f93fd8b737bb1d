"""Step 3 of the batch: which of what was read needs work (DESIGN §6), and how a gap in the stream is noticed."""

import base64
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from shared.events import catalogue
from shared.events.catalogue import InvalidData, UnknownType
from shared.events.envelope import EnvelopeError, Event, decode, head
from shared.events.runtime import RetryInput
from shared.log.port import Record
from shared.runtime.fold import RUNTIME_READS, is_own_fact, is_read, timer, timer_cause
from shared.runtime.rules import Rules
from shared.runtime.store import Due, Position


class PartitionStopped(Exception):
    """The partition must not go on until a person has acted; the message says on what.

    PartitionStopped
    ├── Hole                  a producer's sequence jumped: records of the stream are lost
    ├── Unreadable            a record of the stream that this release cannot read, or a rule that raised on it
    └── DatabaseOlderThanLog  the stream holds own facts that the database does not know
    """


class Hole(PartitionStopped): ...


class Unreadable(PartitionStopped): ...


class DatabaseOlderThanLog(PartitionStopped): ...


@dataclass(slots=True)
class Work:
    """One accepted thing to decide."""

    kind: Literal["request", "event", "timer"]
    event: Event
    cause: str
    arrived_at: datetime
    record: Record | None = None
    unreadable: str = ""
    """Why an inbox record is parked without a decision."""


def accept(rules: Rules, position: Position, records: Iterable[Record], counters: Counter[str]) -> list[Work]:
    """Step 3: move the position over the records and return those that need work.

    Of the stream only sequence = last + 1 of each producer is accepted: what is not above last is a relay's repeated
    suffix and is dropped, a gap raises Hole. Own facts only confirm; types that nobody here reads are passed over.
    """
    found: list[Work] = []
    for record in records:
        position.offsets[record.at.topic] = record.offset + 1
        work = (
            _inbox_work(rules, record)
            if ".inbox." in record.at.topic
            else _stream_work(rules, position, record, counters)
        )
        if work is not None:
            found.append(work)
    return found


def timers(dues: Iterable[Due]) -> list[Work]:
    """Due timers as work."""
    return [Work("timer", timer(due.tenant, due.subject, due.due_at), timer_cause(*due), due.due_at) for due in dues]


def _cause(record: Record) -> str:
    return f"{record.at.topic}/{record.at.partition}/{record.offset}"


def _inbox_work(rules: Rules, record: Record) -> Work:
    cause = _cause(record)
    try:
        event = catalogue.read(decode(record.value or b""))
        if isinstance(event.data, RetryInput):
            inner = catalogue.read(decode(base64.b64decode(event.data.value)))
            if inner.tenant != event.tenant:
                raise InvalidData("a parked input can be retried by its own tenant only")
            if inner.type not in rules.requests:
                raise UnknownType(f"{inner.type} is no request of {rules.worker}")
        elif event.type not in rules.requests:
            raise UnknownType(f"{event.type} is no request of {rules.worker}")
    except (EnvelopeError, UnknownType, InvalidData, ValueError) as error:
        tenant = record.key.decode("utf-8", "replace").partition("/")[0] or "unknown"
        blank = Event(cause, "inbox", "unreadable", tenant, f"inbox/{cause}", record.appended_at, None)
        return Work("request", blank, cause, record.appended_at, record, str(error) or type(error).__name__)
    return Work("request", event, cause, record.appended_at, record)


def _stream_work(rules: Rules, position: Position, record: Record, counters: Counter[str]) -> Work | None:
    value = record.value or b""
    try:
        producer, sequence, kind = head(value)
    except EnvelopeError as error:
        raise Unreadable(f"{_cause(record)} is not an event of ours: {error}") from error
    last = position.seen.get(producer, 0)
    if sequence <= last:
        counters["suffix_dropped"] += 1
        return None
    if sequence != last + 1:
        raise Hole(
            f"{_cause(record)}: {producer} continues with sequence {sequence} after {last}; "
            "records of the stream are missing: stop the services and restore the log; nothing was skipped"
        )
    position.seen[producer] = sequence
    if not is_read(rules, kind):
        _refuse_unknown_version(rules, kind, record)
        return None
    try:
        event = catalogue.read(decode(value))
    except (EnvelopeError, UnknownType, InvalidData) as error:
        raise Unreadable(f"{_cause(record)}: {error}; deploy readers before writers") from error
    if is_own_fact(rules, event):
        return None
    if event.recorded_at is None:
        raise Unreadable(f"{_cause(record)} has no recordedtime")
    return Work("event", event, _cause(record), event.recorded_at, record)


def _refuse_unknown_version(rules: Rules, kind: str, record: Record) -> None:
    name, _, version = kind.rpartition(".v")
    if catalogue.known(kind) or not version.isdigit():
        return
    if any(read.rpartition(".v")[0] == name for read in rules.reads | RUNTIME_READS):
        raise Unreadable(f"{_cause(record)}: {kind} is newer than this release; deploy readers before writers")
