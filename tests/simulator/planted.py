"""Bugs planted into the runtime, one at a time: a simulator that does not find them finds nothing."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from shared.events.envelope import Event, decode
from shared.log.port import Record
from shared.runtime.accept import Work
from shared.runtime.partition import OwnedPartition
from shared.runtime.relay import Relay
from shared.runtime.state import TABLES
from shared.runtime.store import Due, OutboxRow, Position, Transaction
from shared.runtime.tables import Need, Rows, Table
from shared.runtime.worker import Worker
from shared.testing.memory_store import MemoryStore, MemoryTransaction
from shared.testing.simulator.toy.events import Gift, Granted
from shared.testing.simulator.toy.others import BonusRules
from shared.testing.simulator.toy.store import WATCHED, WatchedRow
from shared.testing.simulator.workers import MakeWorker, Seat, make_worker


class AcceptsRepeats(OwnedPartition):
    """Accepts a sequence that is not above the last one."""

    def accept(self, position: Position, records: Sequence[Record], counted: Counter[str]) -> list[Work]:
        works: list[Work] = []
        for record in records:
            if record.at == self._events:
                event = decode(record.value or b"")
                last = position.seen.get(event.producer, 0)
                position.seen[event.producer] = min(last, event.sequence - 1)
            works += super().accept(position, [record], counted)
        return works


class EagerRelay(Relay):
    """Answers for what is committed, before the log has acknowledged it."""

    def push(self, rows: Sequence[OutboxRow], answered: int) -> None:
        super().push(rows, answered)
        self.answered = max(self.answered, answered)
        self._told()


class AnswersEarly(OwnedPartition):
    relay_class = EagerRelay


class AnyVersion(MemoryTransaction):
    """Skips the version check: a stale owner may commit."""

    async def _hold(self, partition: int, version: int) -> bool:
        row = self._content.positions.get(partition)
        return await super()._hold(partition, version if row is None else row.version)


class Careless(MemoryStore):
    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._careless()

    @asynccontextmanager
    async def _careless(self) -> AsyncIterator[Transaction]:
        async with super().transaction() as real:
            assert isinstance(real, MemoryTransaction)
            yield AnyVersion(real._store, real._done)


Effect = Callable[[Transaction], Awaitable[object]]


class PositionFirst:
    """Writes nothing but the position; keeps the effects for a transaction of their own."""

    def __init__(self, real: Transaction) -> None:
        self._real = real
        self.effects: list[Effect] = []
        self.hold, self.load, self.move = real.hold, real.load, real.move

    async def save(self, table: Table[Any], rows: Sequence[Any]) -> int:
        self.effects.append(lambda later: later.save(table, rows))
        return len(rows)

    async def add(self, table: Table[Any], rows: Sequence[Any]) -> None:
        self.effects.append(lambda later: later.add(table, rows))

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        self.effects.append(lambda later: later.send(rows))


class TwoTransactions(MemoryStore):
    """Moves the position before the effects."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._two()

    @asynccontextmanager
    async def _two(self) -> AsyncIterator[Transaction]:
        async with super().transaction() as real:
            first = PositionFirst(real)
            yield first
        async with super().transaction() as second:
            for effect in first.effects:
                await effect(second)


class Forgetful(MemoryStore):
    """Drops every timer."""

    async def due(self, partitions: Sequence[int], now: datetime, most: int) -> dict[int, list[Due]]:
        return {partition: [] for partition in await super().due(partitions, now, most)}

    async def next_due(self, partition: int) -> datetime | None:
        await super().next_due(partition)
        return None


class Mixing(BonusRules):
    """Folds its own facts into a table that is fed by others."""

    def needs(self, event: Event, partition: int) -> Iterable[Need]:
        yield from super().needs(event, partition)
        if isinstance(event.data, Granted | Gift):
            yield Need(WATCHED, (event.tenant, event.subject))

    def evolve(self, rows: Rows, event: Event) -> None:
        super().evolve(rows, event)
        if isinstance(event.data, Granted):
            seen = rows.get(WATCHED, (event.tenant, event.subject)) or WatchedRow(event.tenant, event.subject)
            rows.put(WATCHED, seen._replace(amount=2 * seen.amount + event.data.amount))


def over(kind: type[MemoryStore]) -> MakeWorker:
    """Workers over a broken store."""

    def make(seat: Seat) -> Worker:
        store = seat.store
        assert isinstance(store, MemoryStore)
        own = [table for table in store.tables.values() if table not in TABLES]
        broken = kind(store.content, store.worker, own, store.clock, seat.point, store.process)
        return make_worker(replace(seat, store=broken))

    return make


def with_partitions(kind: type[OwnedPartition]) -> MakeWorker:
    """Workers whose partitions are broken."""

    def make(seat: Seat) -> Worker:
        return make_worker(seat, kind)

    return make
