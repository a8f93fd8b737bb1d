"""The log as every service sees it: topics of P partitions, dense offsets, one order per partition.

Two adapters, `shared.log.kafka` and `shared.log.postgres`, and the simulator's `shared.testing.memory_log`
pass one behaviour suite (`tests/log/test_log_behaviour.py`).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

PARTITIONS: Final = 12
"""P. The same for every topic and adapter; never changed in place."""

EVENTS: Final = "regulars.events"
KEYS: Final = "regulars.keys"

ENTRY_BYTES_MAX: Final = 512 * 1024
"""The largest value that an inbox accepts."""

BATCH_BYTES_MAX: Final = 900_000
"""The largest sum of key and value bytes that one append may carry, and so one input may yield on a partition."""


BATCH_ENTRIES_MAX: Final = 10_000
"""The largest number of entries in one append, so that what a log adds to each of them is bounded too."""


def inbox(worker: str, generation: int = 1) -> str:
    """The letterbox of a worker; `regulars log copy` starts a new generation."""
    return f"regulars.inbox.{worker}.{generation}"


def partition_of(tenant: str, key: str, partitions: int = PARTITIONS) -> int:
    """The one key -> partition function: crc32 of `tenant/key` in UTF-8, modulo P."""
    return zlib.crc32(f"{tenant}/{key}".encode()) % partitions


class At(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Entry(NamedTuple):
    """What is appended. A `value` of None is a tombstone and allowed in a compacted topic only."""

    key: bytes
    value: bytes | None


class Record(NamedTuple):
    """What is read. `appended_at` is the log's own time in UTC, never the sender's."""

    at: At
    offset: int
    key: bytes
    value: bytes | None
    appended_at: datetime


@dataclass(frozen=True)
class Topic:
    """What a topic must be; `Log.check` refuses one that could lose or reorder."""

    name: str
    partitions: int = PARTITIONS
    retention_days: int | None = None
    """None: kept for ever."""
    compacted: bool = False


class LogError(Exception):
    """
    LogError
    ├── AppendFailed     the outcome is unknown: append the same again, receivers drop what they have
    ├── EntryRefused     oversize or null: nothing was appended, do not repeat
    ├── OffsetMissing    a position before the topic's start or beyond its end: records are lost
    ├── TopicUnsafe      the topic is missing or could lose or reorder
    └── LogUnavailable   the log cannot be reached now
    """


class AppendFailed(LogError): ...


class EntryRefused(LogError): ...


class OffsetMissing(LogError): ...


class TopicUnsafe(LogError): ...


class LogUnavailable(LogError): ...


class Reader(Protocol):
    """Reads some partitions, each from its own offset and at its own pace. One task uses a reader."""

    async def wait(self, timeout_seconds: float) -> bool:
        """Return True as soon as some partition has a record to take, False when the time is out."""
        ...

    async def take(self, at: At, most: int) -> list[Record]:
        """Return up to `most` next records of `at`, at once, in order; an empty list when none has arrived.

        Raises OffsetMissing when the next offset is before the topic's start or beyond its end.
        """
        ...

    async def close(self) -> None: ...


class Log(Protocol):
    async def set_up(self, topics: Sequence[Topic]) -> None:
        """Create the topics that are missing; never changes one that exists."""
        ...

    async def check(self, topics: Sequence[Topic]) -> None:
        """Raise TopicUnsafe, naming each setting that is wrong and what it must be."""
        ...

    async def append(self, at: At, entries: Sequence[Entry]) -> int:
        """Append all entries as one batch, all or nothing, and return the first one's offset once it is durable.

        The others follow densely. Appends to one partition made one after the other land in that order.
        Raises EntryRefused (over BATCH_BYTES_MAX in all, or a tombstone where none is allowed), AppendFailed.
        """
        ...

    async def reader(self, positions: Mapping[At, int]) -> Reader: ...

    async def ends(self, at: Sequence[At]) -> dict[At, int]:
        """The offset that the next record of each partition will get."""
        ...

    async def starts(self, at: Sequence[At]) -> dict[At, int]:
        """The offset of the first record that is still kept; where none is, that of the next one."""
        ...

    async def report(self, group: str, positions: Mapping[At, int]) -> None:
        """Publish how far a group has read, for lag tools only; nothing depends on it."""
        ...

    async def close(self) -> None: ...


def refuse_entries(at: At, entries: Sequence[Entry], *, tombstones: bool) -> None:
    """Raise EntryRefused for what no log may take in one append: the same answer from every adapter."""
    size = sum(len(entry.key) + len(entry.value or b"") for entry in entries)
    if not 0 < len(entries) <= BATCH_ENTRIES_MAX:
        raise EntryRefused(f"{at}: {len(entries)} entries in one append; send 1 to {BATCH_ENTRIES_MAX}")
    if size > BATCH_BYTES_MAX:
        raise EntryRefused(f"{at}: {size} bytes in one append; send at most {BATCH_BYTES_MAX}")
    if not tombstones and any(entry.value is None for entry in entries):
        raise EntryRefused(f"{at}: a tombstone, but the topic is not compacted")
