"""The store in memory, for the simulator: what a process does to it stands or falls as it would on Postgres.

`MemoryStoreContent` is what survives; each simulated process has a `MemoryStore` of its own over it. Transactions read
what is committed plus their own writes, hold row locks to their end, wait for each other's rows, and lose to a
deadlock, a lock time-out or an idle time-out. Every await is a `point`, where a simulation may stop or kill a process.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from copy import deepcopy
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final

from shared.log.port import EVENTS
from shared.runtime.state import CLOCKS, SUBJECTS, TABLES
from shared.runtime.store import (
    Acknowledged,
    Due,
    OutboxRow,
    Position,
    Reached,
    Sent,
    StoreConflict,
    StoreUnavailable,
    Transaction,
)
from shared.runtime.tables import Key, Table
from shared.testing.memory_content import (
    IDLE_TIMEOUT,
    DuplicateRow,
    Lease,
    Lock,
    MemoryStoreContent,
    OpenTransaction,
    position_lock,
)

__all__ = ["DuplicateRow", "MemoryStore", "MemoryStoreContent"]

LOCK_TIMEOUT: Final = timedelta(seconds=10)
WAIT_SECONDS: Final = 0.02
"""Between two looks at a lock; virtual in a simulation, where time stands still while anything is ready."""

Point = Callable[[str], Awaitable[None]]


class MemoryTransaction:
    """See `shared.runtime.store.Transaction`."""

    def __init__(self, store: "MemoryStore", done: OpenTransaction) -> None:
        self._store, self._content, self._done = store, store.content, done

    async def hold(self, held: Sequence[Position]) -> bool:
        for each in sorted(held, key=lambda position: position.partition):
            if not await self._hold(each.partition, each.version):
                return False
        return True

    async def _hold(self, partition: int, version: int) -> bool:
        await self._enter("store.hold")
        lock = position_lock(partition)
        with self._failing():
            while True:
                position = self._position(partition)
                if position is None or position.version != version:
                    return False
                if await self._free(lock):
                    break
            self._content.take(lock, self._done)
            position.version += 1
            self._done.positions[partition] = position
            return True

    def _position(self, partition: int) -> Position | None:
        """A copy of the row as this transaction sees it."""
        return deepcopy(self._done.positions.get(partition) or self._content.positions.get(partition))

    async def load(self, table: Table[Any], groups: Sequence[Key], *, lock: bool = False) -> list[Any]:
        await self._enter("store.load")
        self._store.known(table)
        rows = self._content.found(table, groups, self._done)
        if lock:
            for row in rows:
                await self._lock((table.name, table.key_of(row)))
            rows = self._content.found(table, groups, self._done)
        return rows

    async def save(self, table: Table[Any], rows: Sequence[Any]) -> int:
        """A shared table with a `version` column takes a row only over the version before it; one without takes
        new rows only."""
        await self._enter("store.save")
        self._store.known(table)
        written = 0
        for row in rows:
            key = table.key_of(row)
            if not (table.shared and self._refused(table, key, row)):
                await self._lock((table.name, key))
                if not (table.shared and self._refused(table, key, row)):
                    self._done.written.setdefault(table.name, {})[key] = row
                    written += 1
        return written

    def _refused(self, table: Table[Any], key: Key, row: Any) -> bool:
        stored = self._done.written.get(table.name, {}).get(key) or self._content.rows.get(table.name, {}).get(key)
        if stored is None:
            return False
        return "version" not in table.columns or stored.version != row.version - 1

    async def add(self, table: Table[Any], rows: Sequence[Any]) -> None:
        """Raises DuplicateRow, as the primary key of the table would."""
        await self._enter("store.add")
        self._store.known(table)
        added = self._done.added.setdefault(table.name, {})
        for row in rows:
            key = table.key_of(row)
            with self._failing():
                self._content.refuse_duplicate(table.name, key)
                if key in added:
                    raise DuplicateRow(f"{table.name} {key!r} is added twice")
            added[key] = row

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        await self._enter("store.send")
        self._done.outbox.extend(rows)

    async def move(self, moved: Sequence[Position]) -> None:
        for each in moved:
            await self._move(each)

    async def _move(self, position: Position) -> None:
        await self._enter("store.move")
        await self._lock(position_lock(position.partition))
        moved = self._position(position.partition)
        if moved is None:
            self._done.failed = True
            raise StoreConflict(f"partition {position.partition} has no position row: claim it first")
        wanted = deepcopy(position)
        moved.offsets, moved.seen, moved.sequences = wanted.offsets, wanted.seen, wanted.sequences
        self._done.positions[position.partition] = moved

    async def commit(self) -> None:
        await self._enter("store.commit")
        if self._done.failed:
            raise StoreConflict("the transaction had failed before its end: the database rolled it back")
        self._content.apply(self._done, self._store.tables)
        self._content.end(self._done)
        await self._store.point("store.committed")

    async def _enter(self, point: str) -> None:
        await self._store.point(point)
        if self._store.clock() - self._done.active_at > IDLE_TIMEOUT:
            self._content.end(self._done)
        if not self._done.open:
            raise StoreUnavailable("the transaction was idle for too long: the database closed its connection")
        self._done.active_at = self._store.clock()

    async def _lock(self, lock: Lock) -> None:
        with self._failing():
            while not await self._free(lock):
                pass
        self._content.take(lock, self._done)

    async def _free(self, lock: Lock) -> bool:
        """True at once when nobody else holds the lock; else False once its holder may have changed."""
        holder = self._content.holder(lock, self._store.clock(), self._done)
        if holder is None:
            return True
        self._done.waits_for = holder
        since = self._store.clock()
        try:
            while holder.open:
                if self._in_a_circle():
                    raise StoreConflict("deadlock")
                if self._store.clock() - since > LOCK_TIMEOUT:
                    raise StoreConflict("lock time-out")
                await asyncio.sleep(WAIT_SECONDS)
                await self._enter("store.wait")
                self._content.holder(lock, self._store.clock(), self._done)
        finally:
            self._done.waits_for = None
        return False

    def _in_a_circle(self) -> bool:
        at = self._done.waits_for
        while at is not None and at is not self._done:
            at = at.waits_for
        return at is self._done

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """As in Postgres, nothing of a transaction can be committed after an error in it."""
        try:
            yield
        except (StoreConflict, DuplicateRow):
            self._done.failed = True
            raise


class MemoryStore:
    """One process's way to the content; see `shared.runtime.store.Store`.

    `clock` is the database's. `point` is awaited with a name at the start of every operation, while waiting for a
    row, and after what was done is durable but not yet answered (`store.committed`, `store.<operation>.durable`).
    """

    def __init__(
        self,
        content: MemoryStoreContent,
        worker: str,
        tables: Sequence[Table[Any]],
        clock: Callable[[], datetime],
        point: Point,
        process: str = "",
    ) -> None:
        self.content, self.worker, self.clock, self.point = content, worker, clock, point
        self.process = process or worker
        every: Sequence[Table[Any]] = (*TABLES, *tables)
        self.tables = {table.name: table for table in every}

    def known(self, table: Table[Any]) -> None:
        if self.tables.get(table.name) is not table:
            raise LookupError(f"{table.name} is no table of {self.worker}")

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._transaction()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        await self.point("store.begin")
        done = self.content.begin(self.process, self.clock())
        transaction = MemoryTransaction(self, done)
        try:
            yield transaction
            await transaction.commit()
        finally:
            self.content.end(done)

    async def load(self, table: Table[Any], groups: Sequence[Key]) -> list[Any]:
        await self.point("store.read")
        self.known(table)
        return self.content.found(table, groups)

    async def claim(self, owner: str, partition: int, lease_seconds: float) -> Position | None:
        await self.point("store.claim")
        since = self.clock()
        while True:
            now = self.clock()
            lease = self.content.leases.get(partition)
            if lease is not None and lease.owner != owner and lease.until > now:
                return None
            if self.content.holder(position_lock(partition), now) is None:
                break
            if now - since > LOCK_TIMEOUT:
                return None
            await asyncio.sleep(WAIT_SECONDS)
            await self.point("store.wait")
        self.content.leases[partition] = Lease(owner, now + timedelta(seconds=lease_seconds))
        position = self.content.positions.setdefault(partition, Position(partition))
        position.version += 1
        claimed = deepcopy(position)
        await self.point("store.claim.durable")
        return claimed

    async def renew(self, owner: str, lease_seconds: float) -> frozenset[int]:
        await self.point("store.renew")
        now = self.clock()
        self.content.beats[owner] = now
        held = [partition for partition, lease in self.content.leases.items() if lease.owner == owner]
        for partition in held:
            self.content.leases[partition].until = now + timedelta(seconds=lease_seconds)
        await self.point("store.renew.durable")
        return frozenset(held)

    async def release(self, owner: str, partitions: Iterable[int]) -> None:
        await self.point("store.release")
        for partition in sorted(partitions):
            if partition in self.content.leases and self.content.leases[partition].owner == owner:
                del self.content.leases[partition]
        await self.point("store.release.durable")

    async def owners(self, lease_seconds: float) -> tuple[frozenset[str], dict[int, str]]:
        await self.point("store.owners")
        now = self.clock()
        live = {owner for owner, seen in self.content.beats.items() if seen > now - timedelta(seconds=lease_seconds)}
        return frozenset(live), {q: lease.owner for q, lease in self.content.leases.items() if lease.until > now}

    async def retire(self, owner: str) -> None:
        await self.point("store.retire")
        self.content.beats.pop(owner, None)
        self.content.leases = {q: lease for q, lease in self.content.leases.items() if lease.owner != owner}
        await self.point("store.retire.durable")

    async def position(self, partition: int) -> Position | None:
        await self.point("store.position")
        since = self.clock()
        while self.content.holder(position_lock(partition), self.clock()) is not None:
            if self.clock() - since > LOCK_TIMEOUT:
                raise StoreUnavailable("lock time-out")
            await asyncio.sleep(WAIT_SECONDS)
            await self.point("store.wait")
        return deepcopy(self.content.positions.get(partition))

    async def unsent(self, partition: int, sent: dict[int, Sent], most: int) -> list[OutboxRow]:
        await self.point("store.unsent")
        rows: list[OutboxRow] = []
        for target, lane in self.content.outbox.get(partition, {}).items():
            after = sent.get(target, Sent(0, 0)).sequence
            rows += lane[bisect_right(lane, after, key=attrgetter("sequence")) :]
        rows.sort(key=attrgetter("group", "letter", "target", "sequence"))
        if len(rows) <= most:
            return rows
        whole = [row for row in rows[:most] if row.group != rows[most].group]
        return whole or [row for row in rows if row.group == rows[0].group]

    async def sent(self, partition: int) -> tuple[dict[int, Sent], int]:
        await self.point("store.sent")
        return dict(self.content.relays.get(partition, {})), self.content.answered.get(partition, 0)

    async def record_sent(self, acknowledged: Mapping[int, Acknowledged]) -> None:
        await self.point("store.record_sent")
        for partition, (sent, answered) in acknowledged.items():
            relays = self.content.relays.setdefault(partition, {})
            for target, now_sent in sent.items():
                if now_sent.sequence > relays.get(target, Sent(0, 0)).sequence:
                    relays[target] = now_sent
            self.content.answered[partition] = max(answered, self.content.answered.get(partition, 0))
        await self.point("store.record_sent.durable")

    async def due(self, partitions: Sequence[int], now: datetime, most: int) -> dict[int, list[Due]]:
        await self.point("store.due")
        return {partition: self._due(partition, now)[:most] for partition in partitions}

    def _due(self, partition: int, now: datetime) -> list[Due]:
        found = []
        for row in self._timers(partition):
            clock = self.content.rows.get(CLOCKS.name, {}).get((partition, row.tenant))
            if row.due_at <= (now if clock is None else clock.at):
                found.append(Due(row.tenant, row.subject, row.due_at))
        return sorted(found, key=attrgetter("due_at", "tenant", "subject"))

    def _timers(self, partition: int) -> list[Any]:
        rows = self.content.rows.get(SUBJECTS.name, {}).values()
        return [row for row in rows if row.partition == partition and row.due_at is not None]

    async def next_due(self, partition: int) -> datetime | None:
        await self.point("store.next_due")
        clocks = self.content.rows.get(CLOCKS.name, {})
        timers = self._timers(partition)
        return min((row.due_at for row in timers if (partition, row.tenant) not in clocks), default=None)

    async def now(self) -> datetime:
        await self.point("store.now")
        return self.clock()

    async def announce(self, reached: Sequence[Reached]) -> None:
        await self.point("store.announce")
        self.content.announce(reached)

    async def listen(self, heard: Callable[[Reached], None]) -> Callable[[], None]:
        await self.point("store.listen")
        return self.content.listen(self.process, heard)

    async def reached(self, partition: int) -> Reached:
        await self.point("store.reached")
        position = self.content.positions.get(partition, Position(partition))
        published = self.content.relays.get(partition, {}).get(partition, Sent(0, 0)).next_offset
        return Reached(partition, self.content.answered.get(partition, 0), position.offsets.get(EVENTS, 0), published)

    async def snapshot_rows(self, table: Table[Any]) -> AsyncIterator[Any]:
        await self.point("store.snapshot")
        for row in [found for _key, found in sorted(self.content.rows.get(table.name, {}).items())]:
            yield row
