"""The store as the runtime sees it: one Postgres transaction a batch, and the machinery's own rows.

`shared.runtime.postgres_store` is the real one; the simulator's `shared.testing.memory_store` passes the same
behaviour suite (`tests/runtime/test_store_behaviour.py`). State tables are reached through their `Table`.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from shared.runtime.tables import Key, Table


@dataclass(slots=True)
class Position:
    """The position row of one partition of a worker: who owns it, how far it is, what it has sent."""

    partition: int
    version: int = 0
    """Counts every change of owner and every batch; a batch begins by comparing and setting it."""
    offsets: dict[str, int] = field(default_factory=dict)
    """Next offset to read, by topic."""
    seen: dict[str, int] = field(default_factory=dict)
    """Last sequence accepted on the stream's partition q, by producer."""
    sequences: dict[int, int] = field(default_factory=dict)
    """Last own sequence committed, by target partition."""

    def __deepcopy__(self, _memo: object) -> "Position":
        # copied several times a batch: in general, deepcopy costs twenty times as much
        return Position(self.partition, self.version, dict(self.offsets), dict(self.seen), dict(self.sequences))


class OutboxRow(NamedTuple):
    """One event to publish; `group` counts the inputs of the partition, and a group is never split on a target."""

    partition: int
    target: int
    sequence: int
    group: int
    letter: bool
    key: bytes
    value: bytes


class Sent(NamedTuple):
    """How far a relay is on one target: the last acknowledged sequence and the offset after it."""

    sequence: int
    next_offset: int


class Acknowledged(NamedTuple):
    """What the log has acknowledged of a partition's outbox, and the inbox offset up to which it was answered."""

    sent: Mapping[int, Sent]
    """By target; one that is left out stays as it was."""
    answered: int

    def then(self, later: "Acknowledged") -> "Acknowledged":
        """Both, the later one where they speak of the same target."""
        return Acknowledged({**self.sent, **later.sent}, max(self.answered, later.answered))


class Reached(NamedTuple):
    """What may be told to those who wait on partition q of a worker.

    `inbox`: the next inbox offset whose outcome is not yet acknowledged by the log. `events`: the next stream offset
    not yet applied. `published`: the stream offset after the last acknowledged own event on q.
    """

    partition: int
    inbox: int
    events: int
    published: int


class Due(NamedTuple):
    """A timer: something of this subject falls due at `due_at`."""

    tenant: str
    subject: str
    due_at: datetime


class StoreError(Exception):
    """
    StoreError
    ├── StoreUnavailable   connection refused or lost: retry with back-off, ask for the position, never assume
    └── StoreConflict      a deadlock, a time-out or a lost race on a shared row: roll back, take the batch again
    """


class StoreUnavailable(StoreError): ...


class StoreConflict(StoreError): ...


class Transaction(Protocol):
    async def hold(self, held: Sequence[Position]) -> bool:
        """Step 2: compare-and-set the version of these position rows to version + 1, in the order of their partitions.

        False: at least one owner is stale; roll back.
        """
        ...

    async def load(self, table: Table[Any], groups: Sequence[Key], *, lock: bool = False) -> list[Any]:
        """Step 4: all rows of these groups, as committed by others and written here so far."""
        ...

    async def save(self, table: Table[Any], rows: Sequence[Any]) -> int:
        """Step 6: insert or update, rows unique and sorted by key; returns how many rows were written."""
        ...

    async def add(self, table: Table[Any], rows: Sequence[Any]) -> None:
        """Step 6: copy rows into an append-only table."""
        ...

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        """Step 6: append to the outbox."""
        ...

    async def move(self, moved: Sequence[Position]) -> None:
        """Step 7: write offsets, seen and sequences of the held position rows; the versions are already set."""
        ...


class Store(Protocol):
    """One worker's database. All methods raise StoreUnavailable when it cannot be reached."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Commits when the block ends, rolls back when it raises. Raises StoreConflict at any await in it."""
        ...

    async def load(self, table: Table[Any], groups: Sequence[Key]) -> list[Any]:
        """Committed rows of these groups, outside a batch (callers that wait for an outcome)."""
        ...

    async def claim(self, owner: str, partition: int, lease_seconds: float) -> Position | None:
        """Take the partition if it is free or its lease is over, by the store's clock; raises its version.

        Creates the position row at first. None: someone else holds it.
        """
        ...

    async def renew(self, owner: str, lease_seconds: float) -> frozenset[int]:
        """Prolong all leases of this owner, and its heartbeat; returns the partitions it still holds."""
        ...

    async def release(self, owner: str, partitions: Iterable[int]) -> None:
        """Give up leases so that another may claim at once. Unknown ones are passed over."""
        ...

    async def owners(self, lease_seconds: float) -> tuple[frozenset[str], dict[int, str]]:
        """Live owners by heartbeat, and who holds which partition now (expired leases left out)."""
        ...

    async def retire(self, owner: str) -> None:
        """Remove the owner's heartbeat and leases: it leaves."""
        ...

    async def position(self, partition: int) -> Position | None:
        """The committed position row: what to believe after a commit whose answer was lost."""
        ...

    async def unsent(self, partition: int, sent: dict[int, Sent], most: int) -> list[OutboxRow]:
        """Outbox rows of the partition beyond `sent`, whole groups in order of (group, letter, target, sequence)."""
        ...

    async def sent(self, partition: int) -> tuple[dict[int, Sent], int]:
        """What the relay last recorded: per target, and the inbox offset answered."""
        ...

    async def record_sent(self, acknowledged: Mapping[int, Acknowledged]) -> None:
        """Record acknowledgements by partition; never moves back."""
        ...

    async def due(self, partitions: Sequence[int], now: datetime, most: int) -> dict[int, list[Due]]:
        """Timers due at `now` (for a tenant with a test clock: at that clock), earliest first, `most` of each."""
        ...

    async def next_due(self, partition: int) -> datetime | None:
        """The earliest timer of tenants without a test clock."""
        ...

    async def now(self) -> datetime:
        """The store's wall clock in UTC: says when to run a timer and when a lease ends, never decides."""
        ...

    async def announce(self, reached: Sequence[Reached]) -> None:
        """Wake those who wait, after commit and on a connection of its own; may be lost."""
        ...

    async def listen(self, heard: Callable[[Reached], None]) -> Callable[[], None]:
        """Call `heard` for announcements from now on; the result stops it."""
        ...

    async def reached(self, partition: int) -> Reached:
        """The same as an announcement, read from the position row and the relay's record: the slow net."""
        ...

    def snapshot_rows(self, table: Table[Any]) -> AsyncIterator[Any]:
        """All committed rows of a table (digests and laws over the simulator's store)."""
        ...
