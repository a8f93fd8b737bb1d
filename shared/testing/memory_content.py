"""What survives of the store in memory: committed rows, and the locks of transactions that are open.

Nothing here waits; `shared.testing.memory_store` does.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final

from shared.runtime.store import OutboxRow, Position, Reached, Sent
from shared.runtime.tables import Key, Table

IDLE_TIMEOUT: Final = timedelta(seconds=20)
"""As `idle_in_transaction_session_timeout`: a stopped process does not block its successor for longer."""

Lock = tuple[str, Key]


class DuplicateRow(Exception):
    """An append-only table has this key already: something was applied twice."""


@dataclass
class Lease:
    owner: str
    until: datetime


@dataclass(eq=False)
class OpenTransaction:
    """What a transaction has done so far; others see none of it but its locks."""

    process: str
    active_at: datetime
    open: bool = True
    failed: bool = False
    waits_for: "OpenTransaction | None" = None
    written: dict[str, dict[Key, Any]] = field(default_factory=dict)
    added: dict[str, dict[Key, Any]] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)
    positions: dict[int, Position] = field(default_factory=dict)
    locks: list[Lock] = field(default_factory=list)


def _never(_reached: Reached) -> bool:
    return False


class MemoryStoreContent:
    """One worker's database. `drops` says which announcements get lost."""

    def __init__(self, drops: Callable[[Reached], bool] = _never) -> None:
        self.rows: dict[str, dict[Key, Any]] = {}
        """Committed rows by table and key."""
        self.positions: dict[int, Position] = {}
        self.outbox: dict[int, dict[int, list[OutboxRow]]] = {}
        """By partition and target, in order of sequence."""
        self.relays: dict[int, dict[int, Sent]] = {}
        self.answered: dict[int, int] = {}
        self.leases: dict[int, Lease] = {}
        self.beats: dict[str, datetime] = {}
        self.drops = drops
        self._groups: dict[str, dict[Key, dict[Key, None]]] = {}
        self._locks: dict[Lock, OpenTransaction] = {}
        self._open: list[OpenTransaction] = []
        self._listeners: dict[object, tuple[str, Callable[[Reached], None]]] = {}

    def kill(self, process: str) -> None:
        """The server notices that this process is gone: its transactions roll back, nobody hears for it any more."""
        for transaction in [each for each in self._open if each.process == process]:
            self.end(transaction)
        self._listeners = {at: each for at, each in self._listeners.items() if each[0] != process}

    def begin(self, process: str, now: datetime) -> OpenTransaction:
        transaction = OpenTransaction(process, now)
        self._open.append(transaction)
        return transaction

    def end(self, transaction: OpenTransaction) -> None:
        """Free its locks; without `apply` before it, this is the rollback."""
        if transaction.open:
            transaction.open = False
            self._open.remove(transaction)
            for lock in transaction.locks:
                del self._locks[lock]

    def apply(self, transaction: OpenTransaction, tables: dict[str, Table[Any]]) -> None:
        """Make a transaction's writes durable, all at once."""
        for name, rows in transaction.added.items():
            for key, row in rows.items():
                self.refuse_duplicate(name, key)
                self._put(tables[name], key, row)
        for name, rows in transaction.written.items():
            for key, row in rows.items():
                self._put(tables[name], key, row)
        for row in transaction.outbox:
            lane = self.outbox.setdefault(row.partition, {}).setdefault(row.target, [])
            lane.insert(bisect_right(lane, row.sequence, key=attrgetter("sequence")), row)
        self.positions.update(transaction.positions)

    def _put(self, table: Table[Any], key: Key, row: Any) -> None:
        rows = self.rows.setdefault(table.name, {})
        groups = self._groups.setdefault(table.name, {})
        if key in rows:
            del groups[table.group_of(rows[key])][key]
        rows[key] = row
        groups.setdefault(table.group_of(row), {})[key] = None

    def refuse_duplicate(self, name: str, key: Key) -> None:
        if key in self.rows.get(name, {}):
            raise DuplicateRow(f"{name} {key!r} is there already")

    def found(self, table: Table[Any], groups: Iterable[Key], own: OpenTransaction | None = None) -> list[Any]:
        """Rows of these groups that are committed or the transaction's own, in key order."""
        rows = self.rows.get(table.name, {})
        written = own.written.get(table.name, {}) if own else {}
        wanted = set(groups)
        members = self._groups.get(table.name, {})
        found = {key: rows[key] for group in wanted for key in members.get(group, ()) if key not in written}
        found |= {key: row for key, row in written.items() if table.group_of(row) in wanted}
        return [found[key] for key in sorted(found) if table.alive is None or table.alive(found[key])]

    def holder(self, lock: Lock, now: datetime, asking: OpenTransaction | None = None) -> OpenTransaction | None:
        """Who holds the lock, if another does. One who has been idle for too long is rolled back instead."""
        holder = self._locks.get(lock)
        if holder is None or holder is asking:
            return None
        if now - holder.active_at > IDLE_TIMEOUT:
            self.end(holder)
            return None
        return holder

    def take(self, lock: Lock, transaction: OpenTransaction) -> None:
        if lock not in self._locks:
            self._locks[lock] = transaction
            transaction.locks.append(lock)

    def listen(self, process: str, heard: Callable[[Reached], None]) -> Callable[[], None]:
        ticket = object()
        self._listeners[ticket] = (process, heard)

        def stop() -> None:
            self._listeners.pop(ticket, None)

        return stop

    def announce(self, reached: Sequence[Reached]) -> None:
        loop = asyncio.get_running_loop()
        for each in reached:
            if not self.drops(each):
                for ticket in self._listeners:
                    loop.call_soon(self._tell, ticket, each)

    def _tell(self, ticket: object, reached: Reached) -> None:
        if ticket in self._listeners:
            self._listeners[ticket][1](reached)


def position_lock(partition: int) -> Lock:
    return ("positions", (partition,))
