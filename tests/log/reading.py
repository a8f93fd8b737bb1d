"""What the log's tests share: reading with a deadline, and the check that no reader skips."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from shared.log.port import At, Entry, Log, Reader, Record, Topic

DEADLINE_SECONDS: Final = 20.0
WRITERS: Final = 6
APPENDS: Final = 25


NewLog = Callable[[], Log]
"""Another process's view of the same log."""


def entry(value: object, key: bytes = b"k") -> Entry:
    return Entry(key, str(value).encode())


async def take_until_something(reader: Reader, at: At) -> list[Record]:
    """The next records, however long they take to come, within the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (found := await reader.take(at, 100)):
            await reader.wait(1)
    return found


async def read(log: Log, at: At, count: int, start: int = 0) -> list[Record]:
    """`count` records from `start`, or an assertion that fails."""
    reader = await log.reader({at: start})
    try:
        found: list[Record] = []
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(found) < count:
                await reader.wait(DEADLINE_SECONDS)
                found += await reader.take(at, count - len(found))
        return found
    finally:
        await reader.close()


def values(records: Sequence[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


async def assert_readers_skip_nothing(logs: Sequence[Log], topic: Topic, patience_seconds: float = 5) -> None:
    """Concurrent writers with batches of all sizes, and a reader that follows them: it must see every record once,
    each writer's in the order of its appends, at dense offsets. A log whose offsets are taken before they are
    committed fails here: the reader passes over what commits late.
    """
    at = At(topic.name, 0)
    await logs[0].set_up([topic])
    sizes = [1, 40, 3, 1, 200]
    total = sum(sizes[nth % len(sizes)] for nth in range(APPENDS)) * WRITERS

    async def write(writer: int) -> None:
        for nth in range(APPENDS):
            batch = [entry(f"{writer}/{nth}/{row}") for row in range(sizes[nth % len(sizes)])]
            await logs[writer % len(logs)].append(at, batch)

    async def follow() -> list[Record]:
        reader = await logs[-1].reader({at: 0})
        seen: list[Record] = []
        try:
            while len(seen) < total and await reader.wait(patience_seconds):
                seen += await reader.take(at, 100)
        finally:
            await reader.close()
        return seen

    following = asyncio.create_task(follow())
    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    seen = await asyncio.wait_for(following, DEADLINE_SECONDS)
    assert len(seen) == total, f"the reader skipped {total - len(seen)} of {total} records"
    assert [record.offset for record in seen] == list(range(total))
    for writer in range(WRITERS):
        mine = [value for value in values(seen) if value.startswith(f"{writer}/")]
        rows = ((nth, row) for nth in range(APPENDS) for row in range(sizes[nth % len(sizes)]))
        assert mine == [f"{writer}/{nth}/{row}" for nth, row in rows]


def new_topic(partitions: int = 2) -> Topic:
    return Topic(f"test.{uuid.uuid4().hex[:12]}.events", partitions=partitions)
