"""The laws of DESIGN §13 as pure functions over what a run left in the log and in the stores.

Each returns the breaches that it found, an empty list when the law holds. `shared.testing.simulator.stream` finds
what the stream shows by itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from shared.events.envelope import EnvelopeError, Event, decode
from shared.log.port import EVENTS, At, Record
from shared.runtime.store import Position, Sent
from shared.testing.simulator.stream import Breach, Cause, Stream

Records = Mapping[At, Sequence[Record]]
TableRows = Mapping[str, Iterable[tuple[Any, ...]]]


class Answer(NamedTuple):
    """What a caller was told of its request: the outcome's event, or only that the input was accepted."""

    worker: str
    tenant: str
    key: str
    at: At
    offset: int
    value: bytes
    """The input as appended; empty for an answer that was only asked for again."""
    event_id: str = ""
    outcome: str = ""


class Read(NamedTuple):
    """What one read saw: the events it had to include by its token, those it did include, and how far it was."""

    reader: str
    tenant: str
    subject: str
    must: frozenset[str]
    saw: frozenset[str]
    version: int


def check_answer(stream: Stream, records: Records, answer: Answer) -> list[Breach]:
    """Law 2, when an answer is given: the input and its outcome are in the log already."""
    breaches = []
    found = records.get(answer.at, ())
    if answer.value and (answer.offset >= len(found) or found[answer.offset].value != answer.value):
        breaches.append(Breach(2, f"{answer.key}: accepted at {answer.at} {answer.offset}, but it is not there"))
    outcome = stream.outcomes.get((answer.worker, answer.tenant, answer.key))
    if answer.event_id and (outcome is None or outcome.id != answer.event_id):
        breaches.append(Breach(2, f"{answer.key} was answered with {answer.event_id}, which is not in the log"))
    return breaches


def check_answers_agree(answers: Iterable[Answer]) -> list[Breach]:
    """Laws 2 and 6: a repeated request is answered as it was the first time."""
    first: dict[tuple[str, str, str], Answer] = {}
    breaches = []
    for answer in answers:
        if not answer.event_id:
            continue
        known = first.setdefault((answer.worker, answer.tenant, answer.key), answer)
        if (known.event_id, known.outcome) != (answer.event_id, answer.outcome):
            breaches.append(Breach(6, f"{answer.key} was answered {known.outcome}, and again {answer.outcome}"))
    return breaches


Known = Callable[[Event, Cause], bool]
"""Whether this input, of this cause, is one that a worker has in effect decided on before."""


def check_inbox(stream: Stream, worker: str, records: Iterable[Record], known: Known | None = None) -> list[Breach]:
    """Law 2, when the inbox is drained: each record is applied, parked or a duplicate, and just one of them.

    `known` tells duplicates of inputs that have no idempotency key.
    """
    breaches = []
    caused = stream.caused.get(worker, {})
    for record in records:
        cause = Cause(record.at.topic, record.at.partition, record.offset)
        parked = cause in stream.parked
        applied = cause in caused and not parked
        duplicate = not parked and _is_duplicate(stream, worker, record, cause, known)
        if parked + applied + duplicate != 1:
            fates = {"applied": applied, "parked": parked, "duplicate": duplicate}
            breaches.append(Breach(2, f"input {cause} is {[name for name, is_so in fates.items() if is_so]}"))
    return breaches


def _is_duplicate(stream: Stream, worker: str, record: Record, cause: Cause, known: Known | None) -> bool:
    try:
        asked = decode(record.value or b"")
    except EnvelopeError:
        return False
    if known is not None and not asked.request_key:
        return known(asked, cause)
    outcome = stream.outcomes.get((worker, asked.tenant, asked.request_key))
    return bool(asked.request_key) and outcome is not None and Cause.of(outcome.cause) != cause


def check_causes(stream: Stream, records: Records) -> list[Breach]:
    """Laws 2 and 8: each decision was made on an input that is in the log, of the same tenant and request."""
    breaches = []
    for by_cause in stream.caused.values():
        for cause, facts in by_cause.items():
            found = records.get(At(cause.topic, cause.partition), ())
            if cause.offset >= len(found):
                breaches.append(Breach(2, f"{facts[0].type} was decided on {cause}, which is not in the log"))
                continue
            breaches += [breach for fact in facts if (breach := _mismatch(found[cause.offset], fact)) is not None]
    return breaches


def _mismatch(record: Record, fact: Event) -> Breach | None:
    if fact.type == "input.parked.v1" or fact.cause.endswith("/retry"):
        return None
    source = decode(record.value or b"")
    if source.tenant != fact.tenant:
        return Breach(8, f"{fact.type} of {fact.tenant} was decided on an input of {source.tenant}")
    if fact.request_key and fact.request_key != source.request_key:
        return Breach(2, f"{fact.type} answers {fact.request_key}, its input was {source.request_key}")
    return None


def check_positions(before: Mapping[int, Position], after: Mapping[int, Position]) -> list[Breach]:
    """Law 3: positions only grow, with every change of theirs counted."""
    breaches = []
    for partition, old in before.items():
        new = after.get(partition)
        if new is None:
            breaches.append(Breach(3, f"the position of {partition} is gone"))
            continue
        for name, olds, news in (
            ("offset", old.offsets, new.offsets),
            ("seen", old.seen, new.seen),
            ("sequence", old.sequences, new.sequences),
        ):
            breaches += _shrunk(f"{name} of {partition}", olds, news)
        if new.version < old.version or (new.version == old.version and new != old):
            breaches.append(Breach(3, f"{partition} was changed under version {old.version} -> {new.version}"))
    return breaches


def _shrunk(name: str, before: Mapping[Any, int], after: Mapping[Any, int]) -> list[Breach]:
    return [
        Breach(3, f"{name} for {key} went back from {value} to {after.get(key)}")
        for key, value in before.items()
        if after.get(key, -1) < value
    ]


def check_seen(stream: Stream, before: Position | None, after: Position) -> list[Breach]:
    """Law 3: a position has seen of each producer just what stands on its stretch of the stream, no more, no less."""
    start = 0 if before is None else before.offsets.get(EVENTS, 0)
    end = after.offsets.get(EVENTS, 0)
    expected = {} if before is None else dict(before.seen)
    if end > stream.ends[after.partition]:
        return [Breach(3, f"position {end} of {after.partition} is beyond the stream's end")]
    for accepted in _between(stream, after.partition, start, end):
        expected[accepted.event.producer] = accepted.event.sequence
    if expected != after.seen:
        return [Breach(3, f"partition {after.partition} at {end} has seen {after.seen}, the stream shows {expected}")]
    return []


def _between(stream: Stream, partition: int, start: int, end: int) -> list[Any]:
    found = []
    for accepted in reversed(stream.accepted[partition]):
        if accepted.offset < start:
            break
        if accepted.offset < end:
            found.append(accepted)
    return found[::-1]


def check_reads(reads: Iterable[Read]) -> list[Breach]:
    """Law 7: a read after a token includes it, and one reader never sees an earlier state than before."""
    breaches = []
    versions: dict[tuple[str, str, str], int] = {}
    for read in reads:
        if missing := read.must - read.saw:
            breaches.append(
                Breach(7, f"{read.reader} asked for {sorted(missing)} of {read.subject} and did not see it")
            )
        place = (read.reader, read.tenant, read.subject)
        if read.version < versions.get(place, 0):
            breaches.append(Breach(7, f"{read.reader} saw {read.subject} at {versions[place]}, then at {read.version}"))
        versions[place] = max(read.version, versions.get(place, 0))
    return breaches


def check_tenants(marks: Mapping[str, str], seen: Iterable[tuple[str, object]]) -> list[Breach]:
    """Law 8: nothing that belongs to a tenant shows another's mark, a text that all of its inputs carry.

    `marks` by tenant; `seen` is whatever a tenant's caller or row can show, each with its tenant.
    """
    breaches = []
    for tenant, shown in seen:
        text = repr(shown)
        breaches += [
            Breach(8, f"{tenant} is shown the mark of {other}: {text[:200]}")
            for other, mark in marks.items()
            if other != tenant and mark in text
        ]
    return breaches


def rows_by_tenant(rows: TableRows) -> list[tuple[str, object]]:
    """Every row that names a tenant, for `check_tenants`."""
    return [(row.tenant, row) for each in rows.values() for row in each if hasattr(row, "tenant")]


def check_same(
    law: int, first: TableRows, second: TableRows, *, besides: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[Breach]:
    """Laws 4 and 5: two ways to the same state. `besides` names columns that may differ, by table; "*" means all."""
    breaches = []
    for name in sorted(first.keys() | second.keys()):
        left_out = besides.get(name, ())
        if "*" in left_out:
            continue
        left, right = (sorted(_shown(row, left_out) for row in rows.get(name, ())) for rows in (first, second))
        if left != right:
            only_left, only_right = sorted(set(left) - set(right)), sorted(set(right) - set(left))
            breaches.append(
                Breach(law, f"{name}: {len(left)} and {len(right)} rows; {only_left[:3]} / {only_right[:3]}")
            )
    return breaches


def _shown(row: Any, left_out: Sequence[str]) -> str:
    if not left_out:
        return repr(row)
    return repr({name: value for name, value in zip(row._fields, row, strict=True) if name not in left_out})


def check_caught_up(
    worker: str,
    inbox: str,
    partitions: int,
    positions: Mapping[int, Position],
    sent: Mapping[int, Mapping[int, Sent]],
    ends: Mapping[At, int],
) -> list[Breach]:
    """Law 9, some time after the last fault: everything is read, and everything committed is in the log."""
    breaches = []
    for partition in range(partitions):
        position = positions.get(partition, Position(partition))
        for topic in (inbox, EVENTS):
            lag = ends.get(At(topic, partition), 0) - position.offsets.get(topic, 0)
            if lag:
                breaches.append(Breach(9, f"{worker}.{partition} is {lag} records behind on {topic}"))
        done = sent.get(partition, {})
        for target, sequence in position.sequences.items():
            acknowledged = done[target].sequence if target in done else 0
            if acknowledged != sequence:
                breaches.append(Breach(9, f"{worker}.{partition} has sent {acknowledged} of {sequence} to {target}"))
    return breaches
