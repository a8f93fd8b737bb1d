"""Replaying the stream: what `verify` compares with and what `rebuild` builds (DESIGN §8).

A replay folds others' events up to a bound per partition and own facts up to a bound per sequence, in batches, into a
store that starts empty. A survey reads what the stream knows of a worker whose database is lost.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from shared.events import catalogue
from shared.events.envelope import Event, decode, encode, event_id, head
from shared.log.port import EVENTS, At, Log, Record, TopicUnsafe
from shared.runtime.accept import Hole
from shared.runtime.commit import load_rows
from shared.runtime.fold import fold_other, fold_own, is_own_fact, is_read, needs_of
from shared.runtime.rules import Rules
from shared.runtime.store import OutboxRow, Position, Sent, Store
from shared.runtime.tables import Rows
from shared.runtime.turn import letter_of, targets_of

READ_RECORDS: Final = 5_000
FOLD_EVENTS: Final = 2_000
GROUPS_MAX: Final = 200_000
"""Groups that stay in memory from fold to fold; nobody else writes the scratch schema."""
WAIT_SECONDS: Final = 5.0


class ReplayFailed(Exception):
    """The stream cannot be folded; the message says where and why."""


@dataclass(frozen=True)
class Bounds:
    """How far a replay folds.

    `others`: next stream offset by partition; others' events before it count. `own`: last own sequence by
    (producer, target partition).
    """

    others: dict[int, int]
    own: dict[tuple[str, int], int]


@dataclass
class Replayed:
    """What a replay did: events folded by type, and last sequences by partition and producer at the bound."""

    folded: Counter[str] = field(default_factory=Counter)
    seen: dict[int, dict[str, int]] = field(default_factory=dict)
    missing_letters: list[tuple[int, Event]] = field(default_factory=list)
    """(target, letter) of facts that stand on the stream without them."""


@dataclass
class Survey:
    """What the stream itself says of a worker: where each partition stood when it was last heard of."""

    sequences: dict[tuple[str, int], int] = field(default_factory=dict)
    offsets: dict[int, dict[str, int]] = field(default_factory=dict)
    """Next offset by worker partition and input topic: no input before it has an outcome that the stream lacks."""
    letters: set[tuple[int, str]] = field(default_factory=set)
    """(target, id) of the worker's letters that are on the stream."""
    ends: dict[int, int] = field(default_factory=dict)


def bounds_of(found: Survey) -> Bounds:
    """All that the stream has of the worker, and of others' events what it had decided on."""
    return Bounds({q: offsets.get(EVENTS, 0) for q, offsets in found.offsets.items()}, dict(found.sequences))


class Restart(NamedTuple):
    """Where a partition of a rebuilt worker goes on. What is answered is told anew by its first owner, once the relay
    has caught up: of which generation its inbox is, the stream does not say."""

    position: Position
    sent: dict[int, Sent]
    outbox: list[OutboxRow]
    """Letters of facts that stand on the stream without them, to be sent under new sequences."""


def restarts(rules: Rules, found: Survey, done: Replayed, partitions: int) -> list[Restart]:
    """Every partition's position, relay record and missing letters, after a replay with the survey's letters."""
    made = []
    for q in range(partitions):
        producer = f"{rules.worker}.{q}"
        sequences = {target: last for (name, target), last in found.sequences.items() if name == producer}
        sent = {target: Sent(last, found.ends[target]) for target, last in sequences.items()}
        outbox = _letters_again(q, producer, sequences, done)
        offsets = found.offsets.get(q, {})
        seen = done.seen.get(q, {}) if offsets.get(EVENTS) else {}
        made.append(Restart(Position(q, 1, offsets, seen, sequences), sent, outbox))
    return made


def _letters_again(q: int, producer: str, sequences: dict[int, int], done: Replayed) -> list[OutboxRow]:
    """Missing letters under new sequences; moves `sequences` on."""
    rows = []
    for group, (target, letter) in enumerate(done.missing_letters):
        if letter.producer != producer:
            continue
        sequences[target] = sequences.get(target, 0) + 1
        event = replace(letter, sequence=sequences[target])
        key = f"{event.tenant}/{event.subject}".encode()
        rows.append(OutboxRow(q, target, event.sequence, group, True, key, encode(event)))
    return rows


async def read_all(log: Log, at: At, end: int) -> AsyncIterator[Sequence[Record]]:
    """All records of a partition before `end`, in pages."""
    if end == 0:
        return
    reader = await log.reader({at: 0})
    try:
        next_offset = 0
        while next_offset < end:
            records = await reader.take(at, READ_RECORDS)
            if not records:
                await reader.wait(WAIT_SECONDS)
                continue
            next_offset = records[-1].offset + 1
            yield [record for record in records if record.offset < end]
    finally:
        await reader.close()


async def stream_ends(log: Log, partitions: int) -> dict[int, int]:
    """The stream's end by partition."""
    ends = await log.ends([At(EVENTS, partition) for partition in range(partitions)])
    return {at.partition: end for at, end in ends.items()}


async def survey(rules: Rules, log: Log, partitions: int) -> Survey:
    """Read the whole stream for what this worker's producers wrote."""
    found = Survey(ends=await stream_ends(log, partitions))
    caused: Caused = {}
    for target in range(partitions):
        async for records in read_all(log, At(EVENTS, target), found.ends[target]):
            for record in records:
                value = record.value or b""
                producer, _, _ = head(value)
                worker, _, partition = producer.partition(".")
                if worker == rules.worker:
                    _note(found, caused, decode(value), int(partition), target)
    for (q, topic), reached in caused.items():
        found.offsets.setdefault(q, {})[topic] = await _goes_on(rules, log, At(topic, q), reached, partitions)
    return found


async def _goes_on(rules: Rules, log: Log, at: At, reached: dict[int, int], partitions: int) -> int:
    """The first input that is decided (again).

    A relay publishes in order on each target and on several at once: where a worker's facts go to other partitions, an
    input before the last cause of one target may lack its facts on another. From the least of the targets on, inputs
    are read again as far as they are kept; those that were decided are duplicates.
    """
    if rules.settles or at.topic == EVENTS:
        return max(reached.values())
    least = min(reached.get(target, 0) for target in range(partitions))
    try:
        return max(least, (await log.starts([at]))[at])
    except TopicUnsafe:  # an inbox of an earlier generation, which is not read any more
        return max(reached.values())


Caused = dict[tuple[int, str], dict[int, int]]
"""By worker partition and input topic, the offset after the last cause of an event on each target."""


def _note(found: Survey, caused: Caused, event: Event, partition: int, target: int) -> None:
    key = (event.producer, target)
    found.sequences[key] = max(found.sequences.get(key, 0), event.sequence)
    if catalogue.find(event.type).kind == "letter":
        found.letters.add((target, event.id))
    topic, _, rest = event.cause.partition("/")
    if topic != "timer":
        offset = int(rest.split("/")[1]) + 1
        reached = caused.setdefault((partition, topic), {})
        reached[target] = max(reached.get(target, 0), offset)


async def replay(
    rules: Rules,
    log: Log,
    store: Store,
    partitions: int,
    bounds: Bounds,
    letters: set[tuple[int, str]] | None = None,
) -> Replayed:
    """Fold the stream into an empty store. With `letters` (those on the stream), also find the missing ones."""
    done = Replayed()
    ends = await stream_ends(log, partitions)
    for target in range(partitions):
        seen: dict[str, int] = {}
        waiting: list[tuple[Event, int]] = []
        rows = Rows()
        async for records in read_all(log, At(EVENTS, target), ends[target]):
            for record in records:
                if record.offset == bounds.others.get(target, 0):
                    done.seen[target] = dict(seen)
                work = _replayable(rules, record, seen, bounds)
                if work is None:
                    continue
                waiting.append(work)
                done.folded[work[0].type] += 1
                if letters is not None and is_own_fact(rules, work[0]):
                    _look_for_letters(rules, work[0], partitions, letters, done)
                if len(waiting) >= FOLD_EVENTS:
                    rows = await _fold(rules, store, waiting, rows)
                    waiting = []
        await _fold(rules, store, waiting, rows)
        done.seen.setdefault(target, dict(seen))
    return done


def _replayable(rules: Rules, record: Record, seen: dict[str, int], bounds: Bounds) -> tuple[Event, int] | None:
    """The event and the worker's partition it is folded for, or None when it is passed over."""
    value, target = record.value or b"", record.at.partition
    producer, sequence, kind = head(value)
    last = seen.get(producer, 0)
    if sequence <= last:
        return None
    if sequence != last + 1:
        raise Hole(f"{record.at.topic}/{target}/{record.offset}: {producer} jumps from {last} to {sequence}")
    seen[producer] = sequence
    worker, _, own_partition = producer.partition(".")
    if worker == rules.worker and catalogue.find(kind).kind == "fact":
        if sequence > bounds.own.get((producer, target), 0):
            return None
        return catalogue.read(decode(value)), int(own_partition)
    if not is_read(rules, kind) or record.offset >= bounds.others.get(target, 0):
        return None
    return catalogue.read(decode(value)), target


def _look_for_letters(rules: Rules, fact: Event, partitions: int, known: set[tuple[int, str]], done: Replayed) -> None:
    for index, draft in enumerate(rules.letters(fact)):
        letter = letter_of(rules, fact, draft, index)
        if letter.id != event_id(fact.id, index):
            raise ReplayFailed(f"letter {letter.id} is not derived from fact {fact.id}")
        done.missing_letters += [
            (target, letter) for target in targets_of(letter, partitions) if (target, letter.id) not in known
        ]


async def _fold(rules: Rules, store: Store, events: Sequence[tuple[Event, int]], rows: Rows) -> Rows:
    """Fold and write; returns the rows to go on with."""
    if rows.groups > GROUPS_MAX:
        rows = Rows()
    async with store.transaction() as transaction:
        needs = (need for event, q in events for need in needs_of(rules, event, q))
        await load_rows(transaction, [rows], [needs])
        for event, partition in events:
            if is_own_fact(rules, event):
                fold_own(rules, rows, event, partition)
            else:
                fold_other(rules, rows, event, partition)
        for table, changed in rows.changes():
            if table.append_only:
                await transaction.add(table, changed)
            elif await transaction.save(table, changed) != len(changed):
                raise ReplayFailed(f"two facts folded into the same row of {table.name} do not commute")
    rows.written()
    return rows
