"""The store on Postgres 15 to 18: state tables and machinery of one worker, found by `search_path`.

A batch costs one round trip to begin, one to hold, one per table loaded and saved, one for the outbox, one to move the
position and one to commit. The machinery's SQL is in `shared.runtime.machinery`.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Final

from shared.runtime import machinery, outbox
from shared.runtime.announcements import Announcer, Listener
from shared.runtime.migrations import machinery_schema_of, quoted
from shared.runtime.postgres_session import (
    Connection,
    Session,
    SessionSettings,
    answers,
    connect_alone,
    server_settings,
)
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

SNAPSHOT_ROWS: Final = 2_000
"""Fetched at a time while a whole table is read."""


def _columns(rows: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """One array per column, as `unnest` takes them."""
    return list(zip(*rows, strict=True))


def lock_clause(table: Table[Any]) -> str:
    """Rows are locked in the order of their keys, so that two partitions never wait for each other."""
    return "order by " + ", ".join(str(table.columns.index(name) + 1) for name in table.key) + " for update"


async def load_rows(connection: Connection, table: Table[Any], groups: Sequence[Key], lock: bool = False) -> list[Any]:
    """All rows of these groups, by the table's own query; locked in key order when asked."""
    if not groups:
        return []
    query = table.load + lock_clause(table) if lock else table.load
    return [table.row(*record) for record in await connection.fetch(query, *_columns(groups))]


class PostgresTransaction:
    """One batch on one connection; see `shared.runtime.store.Transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def hold(self, held: Sequence[Position]) -> bool:
        with answers(self._connection):
            return await machinery.hold(self._connection, held)

    async def load(self, table: Table[Any], groups: Sequence[Key], *, lock: bool = False) -> list[Any]:
        with answers(self._connection):
            return await load_rows(self._connection, table, groups, lock)

    async def save(self, table: Table[Any], rows: Sequence[Any]) -> int:
        if not rows:
            return 0
        with answers(self._connection):
            status = await self._connection.execute(table.save, *_columns(rows))
        return int(status.rpartition(" ")[2])

    async def add(self, table: Table[Any], rows: Sequence[Any]) -> None:
        await self._copy(table.name, table.columns, rows)

    async def send(self, rows: Sequence[OutboxRow]) -> None:
        await self._copy("outbox", OutboxRow._fields, rows)

    async def move(self, moved: Sequence[Position]) -> None:
        with answers(self._connection):
            if not await machinery.move(self._connection, moved):
                partitions = [each.partition for each in moved]
                raise StoreConflict(f"of partitions {partitions} one has no position row: claim it first")

    async def _copy(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            with answers(self._connection):
                await self._connection.copy_records_to_table(name, records=rows, columns=columns)


class PostgresStore:
    """One worker's database; see `shared.runtime.store.Store`. Made by `open`, ended by `close`."""

    def __init__(self, session: Session, machinery_schema: str, announcer: Announcer, listener: Listener) -> None:
        self._session = session
        self._machinery_schema = machinery_schema
        self._announcer = announcer
        self._listener = listener

    @classmethod
    async def open(
        cls,
        url: str,
        worker: str,
        state_schema: str | None = None,
        machinery_schema: str | None = None,
        *,
        role: str | None = None,
        settings: SessionSettings | None = None,
    ) -> "PostgresStore":
        """Connect to the schemas that `migrate_worker` has made, as `role` if given. Raises StoreUnavailable."""
        settings = settings or SessionSettings()
        of_machinery = machinery_schema or machinery_schema_of(worker)
        search_path = quoted(state_schema or worker) + ", " + quoted(of_machinery)
        server = server_settings(settings, f"regulars {worker}", search_path, role)
        session = await Session.open(url, settings, server)
        # A lost announcement costs a slow look, so its commit need not wait for the disk.
        unhurried = {**server, "synchronous_commit": "off"}

        async def connect() -> Connection:
            return await connect_alone(url, settings, unhurried)

        channel = f"{of_machinery}.reached"
        listener = Listener(connect, channel, settings.connect_timeout_seconds)
        return cls(session, of_machinery, Announcer(connect, channel), listener)

    async def close(self) -> None:
        """End all connections; what does not end in time is cut."""
        self._announcer.close()
        await self._listener.close()
        await self._session.close()

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._transaction()

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        async with self._session.transaction() as connection:
            yield PostgresTransaction(connection)

    @contextlib.asynccontextmanager
    async def _asked(self) -> AsyncIterator[Connection]:
        """One statement outside a batch: whatever kept it from an answer, asking again is the cure."""
        async with self._session.connection() as connection:
            try:
                with answers(connection):
                    yield connection
            except StoreConflict as conflict:
                raise StoreUnavailable(str(conflict)) from conflict

    async def load(self, table: Table[Any], groups: Sequence[Key]) -> list[Any]:
        async with self._asked() as connection:
            return await load_rows(connection, table, groups)

    async def claim(self, owner: str, partition: int, lease_seconds: float) -> Position | None:
        async with self._session.connection() as connection:
            try:
                with answers(connection):
                    return await machinery.claim(connection, owner, partition, lease_seconds)
            except StoreConflict:
                return None  # its last owner's batch has not ended yet

    async def renew(self, owner: str, lease_seconds: float) -> frozenset[int]:
        async with self._asked() as connection:
            return await machinery.renew(connection, owner, lease_seconds)

    async def release(self, owner: str, partitions: Iterable[int]) -> None:
        async with self._asked() as connection:
            await machinery.release(connection, owner, partitions)

    async def owners(self, lease_seconds: float) -> tuple[frozenset[str], dict[int, str]]:
        async with self._asked() as connection:
            return await machinery.owners(connection, lease_seconds)

    async def retire(self, owner: str) -> None:
        async with self._asked() as connection:
            await machinery.retire(connection, owner)

    async def position(self, partition: int) -> Position | None:
        async with self._asked() as connection:
            return await machinery.position(connection, partition)

    async def unsent(self, partition: int, sent: dict[int, Sent], most: int) -> list[OutboxRow]:
        async with self._asked() as connection:
            return await machinery.unsent(connection, partition, sent, most)

    async def sent(self, partition: int) -> tuple[dict[int, Sent], int]:
        async with self._asked() as connection:
            return await machinery.sent(connection, partition)

    async def record_sent(self, acknowledged: Mapping[int, Acknowledged]) -> None:
        async with self._asked() as connection:
            await machinery.record_sent(connection, acknowledged)

    async def due(self, partitions: Sequence[int], now: datetime, most: int) -> dict[int, list[Due]]:
        async with self._asked() as connection:
            return await machinery.due(connection, partitions, now, most)

    async def next_due(self, partition: int) -> datetime | None:
        async with self._asked() as connection:
            return await machinery.next_due(connection, partition)

    async def now(self) -> datetime:
        async with self._asked() as connection:
            return await machinery.now(connection)

    async def announce(self, reached: Sequence[Reached]) -> None:
        await self._announcer.announce(reached)

    async def listen(self, heard: Callable[[Reached], None]) -> Callable[[], None]:
        return await self._listener.listen(heard)

    async def reached(self, partition: int) -> Reached:
        async with self._asked() as connection:
            return await machinery.reached(connection, partition)

    async def maintain(self, retention_hours: float = 24) -> tuple[int, int]:
        """Make the outbox's next parts and drop acknowledged ones older than the retention; (made, dropped)."""
        async with self._asked() as connection:
            return await outbox.maintain(connection, self._machinery_schema, retention_hours)

    async def snapshot_rows(self, table: Table[Any]) -> AsyncIterator[Any]:
        """All committed rows at one moment, in no order."""
        query = "select " + ", ".join(map(quoted, table.columns)) + " from " + quoted(table.name)
        async with self._asked() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            async for record in connection.cursor(query, prefetch=SNAPSHOT_ROWS):
                yield table.row(*record)
