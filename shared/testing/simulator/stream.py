"""The stream as the laws see it: read once, record by record, by a second and independent idea of step 3."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from shared.events import catalogue
from shared.events.envelope import Event, decode
from shared.events.runtime import InputParked
from shared.log.port import EVENTS, Record, partition_of


class Breach(NamedTuple):
    """A law of DESIGN §13 that does not hold, and where."""

    law: int
    what: str


class LawBroken(AssertionError):
    """Some laws do not hold; the message lists them."""


def enforce(breaches: Sequence[Breach], seen_at: str = "") -> None:
    """Raise LawBroken if there is a breach."""
    if breaches:
        lines = "\n".join(f"  law {breach.law}: {breach.what}" for breach in breaches[:20])
        raise LawBroken(f"{len(breaches)} breaches {seen_at}\n{lines}")


class Cause(NamedTuple):
    """What a decision was made on; `offset` is -1 for a timer."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def of(cls, text: str) -> "Cause":
        if text.startswith("timer/"):
            return cls("timer", -1, -1)
        topic, partition, offset = text.removesuffix("/retry").rsplit("/", 2)
        return cls(topic, int(partition), int(offset))


class Accepted(NamedTuple):
    """An event that every reader applies, once, where it stands."""

    partition: int
    offset: int
    event: Event


def name_of(fact: Event) -> str:
    """What no second fact may be called: its id, and where that is a sender's all that tells it from others."""
    if fact.source == f"/{fact.producer.partition('.')[0]}":
        return fact.id
    return f"{fact.tenant} {fact.source} {fact.id} {fact.type} {fact.cause}"


@dataclass
class Stream:
    """All that was read of the stream so far. `read` returns what breaks a law by itself."""

    partitions: int
    letters_resent: bool = False
    """After a rebuild, letters may stand there again under new sequences."""
    timeless: frozenset[str] = frozenset()
    """Workers whose subjects have no time of their own (`Rules.settles` is False)."""
    accepted: list[list[Accepted]] = field(init=False)
    """By partition, in order."""
    ends: list[int] = field(init=False)
    repeated: int = 0
    """Records of a relay's repeated suffix."""
    facts: dict[str, Accepted] = field(default_factory=dict)
    """By `name_of`."""
    outcomes: dict[tuple[str, str, str], Event] = field(default_factory=dict)
    """By worker, tenant and idempotency key."""
    caused: dict[str, dict[Cause, list[Event]]] = field(default_factory=dict)
    """Facts by worker and cause, timers left out."""
    parked: dict[Cause, Event] = field(default_factory=dict)
    _last: dict[tuple[str, int], int] = field(default_factory=dict)
    _sums: dict[tuple[str, int, int], int] = field(default_factory=dict)
    _letters: set[tuple[str, int]] = field(default_factory=set)
    _reached: dict[tuple[str, str, int], int] = field(default_factory=dict)
    _nows: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    _standing: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.accepted = [[] for _ in range(self.partitions)]
        self.ends = [0] * self.partitions
        self._standing = [set() for _ in range(self.partitions)]

    def stands(self, partition: int, offset: int) -> bool:
        """Whether the record at this offset counts, and is no repetition."""
        return offset in self._standing[partition]

    def last(self, producer: str, partition: int) -> int:
        """The last sequence of a producer on a partition, 0 for none."""
        return self._last.get((producer, partition), 0)

    def read(self, records: Iterable[Record]) -> list[Breach]:
        """Take in the next records of one partition."""
        breaches: list[Breach] = []
        for record in records:
            partition = record.at.partition
            if record.offset != self.ends[partition]:
                breaches.append(Breach(3, f"offset {record.offset} of {partition} follows {self.ends[partition] - 1}"))
            self.ends[partition] = record.offset + 1
            event = decode(record.value or b"")
            if self._is_next(record, event, breaches):
                self._accept(record, event, breaches)
        return breaches

    def _is_next(self, record: Record, event: Event, breaches: list[Breach]) -> bool:
        partition, place = record.at.partition, (event.producer, record.at.partition)
        last = self._last.get(place, 0)
        at, value = (event.producer, partition, event.sequence), zlib.crc32(record.value or b"")
        if event.sequence <= last:
            self.repeated += 1
            if self._sums[at] != value:
                breaches.append(Breach(6, f"{event.producer} sent sequence {event.sequence} again with other bytes"))
            return False
        if event.sequence > last + 1:
            breaches.append(Breach(3, f"hole on {partition}: {event.producer} sent {event.sequence} after {last}"))
        self._last[place], self._sums[at] = event.sequence, value
        return True

    def _accept(self, record: Record, event: Event, breaches: list[Breach]) -> None:
        partition = record.at.partition
        event = catalogue.read(event)
        accepted = Accepted(partition, record.offset, event)
        self.accepted[partition].append(accepted)
        self._standing[partition].add(record.offset)
        declared = catalogue.find(event.type)
        if record.key != f"{event.tenant}/{event.subject}".encode():
            breaches.append(Breach(8, f"{event.type} of {event.tenant}/{event.subject} has the key {record.key!r}"))
        is_parked = isinstance(event.data, InputParked)
        own = partition_of(event.tenant, event.subject, self.partitions)
        if not declared.everywhere and not is_parked and own != partition:
            breaches.append(Breach(3, f"{event.type} of {event.subject} stands on {partition}, not on {own}"))
        if declared.kind == "fact":
            breaches += self._fact(accepted)
        else:
            breaches += self._letter(accepted)

    def _letter(self, accepted: Accepted) -> list[Breach]:
        key = (accepted.event.id, accepted.partition)
        again = key in self._letters
        self._letters.add(key)
        if again and not self.letters_resent:
            return [Breach(2, f"letter {accepted.event.type} {accepted.event.id} was sent twice to {key[1]}")]
        return []

    def _fact(self, accepted: Accepted) -> list[Breach]:
        event, breaches = accepted.event, list[Breach]()
        worker, _, producer_partition = event.producer.partition(".")
        cause = Cause.of(event.cause)
        name = name_of(event)
        if name in self.facts:
            breaches.append(Breach(2, f"{event.type} {event.id} of {event.cause} is recorded twice"))
        self.facts[name] = accepted
        if cause.offset >= 0:
            self.caused.setdefault(worker, {}).setdefault(cause, []).append(event)
            if cause.partition != int(producer_partition):
                breaches.append(Breach(3, f"{event.producer} decided on {event.cause}"))
            reached = (event.producer, cause.topic, accepted.partition)
            if cause.offset < self._reached.get(reached, 0):
                breaches.append(Breach(3, f"{event.producer} decided {event.cause} after a later input of its topic"))
            self._reached[reached] = cause.offset
        if cause.topic == EVENTS and not self._stands_below(cause):
            breaches.append(Breach(6, f"{event.type} was decided on {event.cause}, which is a repetition"))
        if isinstance(event.data, InputParked):
            self.parked[Cause(event.data.topic, event.data.partition, event.data.offset)] = event
        return breaches + self._time(worker, event) + self._outcome(worker, event)

    def _stands_below(self, cause: Cause) -> bool:
        return cause.offset >= self.ends[cause.partition] or self.stands(cause.partition, cause.offset)

    def _time(self, worker: str, event: Event) -> list[Breach]:
        subject = (worker, event.tenant, event.subject)
        if event.recorded_at is None:
            return [Breach(2, f"fact {event.id} has no recorded time")]
        if worker in self.timeless:
            return []
        before = self._nows.get(subject, event.recorded_at)
        self._nows[subject] = max(before, event.recorded_at)
        if event.recorded_at < before:
            return [Breach(3, f"{worker} decided on {subject} at {event.recorded_at} after {before}")]
        return []

    def _outcome(self, worker: str, event: Event) -> list[Breach]:
        if not event.request_key:
            return []
        key = (worker, event.tenant, event.request_key)
        first = self.outcomes.setdefault(key, event)
        if first.id != event.id:
            return [Breach(2, f"request {key} has two outcomes: {first.type} and {event.type}")]
        return []
