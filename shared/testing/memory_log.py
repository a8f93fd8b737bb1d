"""The log for the simulator: in one process, with the same port and the same laws as the real ones.

What is durable lives in a `MemoryLogContent`; each simulated process has a `MemoryLog` of its own over it. `point` is
awaited at the start of every operation, and in an append also between "durable" and "answered": a caller that never
comes back from one is a crash there. Nothing is held over an await, so a dead caller blocks nobody.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shared.log.port import (
    At,
    Entry,
    LogUnavailable,
    OffsetMissing,
    Record,
    Topic,
    TopicUnsafe,
    refuse_entries,
)

Point = Callable[[str], Awaitable[None]]


@dataclass
class MemoryLogContent:
    """What survives every process: topics, and the records of each partition with the offset of its first one."""

    topics: dict[str, Topic] = field(default_factory=dict)
    records: dict[At, list[Record]] = field(default_factory=dict)
    starts: dict[At, int] = field(default_factory=dict)
    reports: dict[tuple[str, At], int] = field(default_factory=dict)
    arrivals: dict[asyncio.Event, Mapping[At, int]] = field(default_factory=dict)
    """One event per open reader and what it reads, in the order of their opening: a seed always wakes them alike."""

    def end(self, at: At) -> int:
        """The offset that the next record will get; raises TopicUnsafe for an unknown partition."""
        if at not in self.records:
            raise TopicUnsafe(f"{at.topic} has no partition {at.partition}: run set-up")
        return self.starts[at] + len(self.records[at])

    def trim(self, at: At, start: int) -> None:
        """Lose everything before `start`, as retention does."""
        kept = start - self.starts[at]
        self.records[at], self.starts[at] = self.records[at][kept:], start

    def cut(self, at: At, end: int) -> None:
        """Lose everything from `end` on: the tail that a dead disk takes with it."""
        del self.records[at][end - self.starts[at] :]


async def no_point(_name: str) -> None:
    """The point where nothing ever happens."""


class MemoryLog:
    """One process's view of the content. `clock` gives the append time, which never goes back in a partition."""

    def __init__(self, content: MemoryLogContent, clock: Callable[[], datetime], point: Point = no_point) -> None:
        self._content = content
        self._clock = clock
        self._point = point

    async def set_up(self, topics: Sequence[Topic]) -> None:
        await self._point("log.set_up")
        for topic in topics:
            if topic.name in self._content.topics:
                continue
            self._content.topics[topic.name] = topic
            for partition in range(topic.partitions):
                self._content.records[At(topic.name, partition)] = []
                self._content.starts[At(topic.name, partition)] = 0

    async def check(self, topics: Sequence[Topic]) -> None:
        await self._point("log.check")
        found = self._content.topics
        wrong = [
            f"{topic.name} must be {topic}, is {found.get(topic.name)}" for topic in topics if not _fits(found, topic)
        ]
        if wrong:
            raise TopicUnsafe("; ".join(wrong))

    async def append(self, at: At, entries: Sequence[Entry]) -> int:
        await self._point("log.append")
        base = self._content.end(at)
        refuse_entries(at, entries, tombstones=self._content.topics[at.topic].compacted)
        records = self._content.records[at]
        moment = max([self._clock(), *(record.appended_at for record in records[-1:])])
        records.extend(Record(at, base + nth, key, value, moment) for nth, (key, value) in enumerate(entries))
        for arrival, reads in self._content.arrivals.items():
            if at in reads:
                arrival.set()
        await self._point("log.append.durable")
        return base

    async def reader(self, positions: Mapping[At, int]) -> "MemoryReader":
        await self._point("log.reader")
        for at in positions:
            self._content.end(at)
        return MemoryReader(self._content, self._point, dict(positions))

    async def ends(self, at: Sequence[At]) -> dict[At, int]:
        await self._point("log.ends")
        return {one: self._content.end(one) for one in at}

    async def starts(self, at: Sequence[At]) -> dict[At, int]:
        await self._point("log.starts")
        return {one: self._content.starts[one] for one in at}

    async def report(self, group: str, positions: Mapping[At, int]) -> None:
        await self._point("log.report")
        self._content.reports.update({(group, at): position for at, position in positions.items()})

    async def close(self) -> None:
        """Nothing is open."""


class MemoryReader:
    def __init__(self, content: MemoryLogContent, point: Point, positions: dict[At, int]) -> None:
        self._content = content
        self._point = point
        self._positions = positions
        self._arrival = asyncio.Event()
        content.arrivals[self._arrival] = positions

    async def wait(self, timeout_seconds: float) -> bool:
        await self._point("log.wait")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while not self._ready():
                    self._raise_if_closed()
                    await self._arrival.wait()
                    self._arrival.clear()
        return self._ready()

    async def take(self, at: At, most: int) -> list[Record]:
        await self._point("log.take")
        self._raise_if_closed()
        position, start, end = self._positions[at], self._content.starts[at], self._content.end(at)
        if not start <= position <= end:
            raise OffsetMissing(f"{at}: position {position} is outside of the topic, {start} to {end}")
        records = self._content.records[at][position - start : position - start + most]
        self._positions[at] = position + len(records)
        return records

    async def close(self) -> None:
        self._content.arrivals.pop(self._arrival, None)
        self._arrival.set()

    def _ready(self) -> bool:
        return any(position != self._content.end(at) for at, position in self._positions.items())

    def _raise_if_closed(self) -> None:
        if self._arrival not in self._content.arrivals:
            raise LogUnavailable("this reader is closed")


def _fits(found: Mapping[str, Topic], topic: Topic) -> bool:
    """Whether a topic is what it must be; a letterbox may keep its records longer than stated."""
    has = found.get(topic.name)
    if has is None or (has.partitions, has.compacted) != (topic.partitions, topic.compacted):
        return False
    if has.retention_days is None:
        return True
    return topic.retention_days is not None and has.retention_days >= topic.retention_days
