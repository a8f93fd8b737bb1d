"""The embedded log: topics in the schema `regulars_log` of a Postgres database.

An append is one statement: it moves the partition's head row and inserts the records behind it. The head row is held
until the commit, so offsets are dense and in commit order, and the append time is taken under it. Right for one
machine and a small shop; `regulars log copy` carries a shop to Kafka.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg

from shared.gathered import Gathered
from shared.log.port import (
    AppendFailed,
    At,
    Entry,
    LogUnavailable,
    Record,
    Topic,
    TopicUnsafe,
    refuse_entries,
)
from shared.log.postgres_appender import APPEND_GROUP, LOCK_HEADS, GroupAppender, Row, newest_of_their_keys
from shared.log.postgres_reader import Asked, PostgresReader, read_records
from shared.log.postgres_tail import Tail
from shared.log.postgres_watch import CONNECTION_ERRORS, Extent, Place, Waiter, Watch

SQL_DIRECTORY: Final = Path(__file__).parent / "sql"
POOL_SIZE: Final = 8
TIMEOUT_SECONDS: Final = 30.0
TRIM_ROWS: Final = 10_000
SET_UP_LOCK: Final = 0x5265_676C_6F67
"""The number of the advisory lock under which set-up runs, so that services may start at the same time."""

SESSION: Final = {
    "application_name": "regulars-log",
    "lock_timeout": "20s",
    "jit": "off",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
WATCH_SESSION: Final = {**SESSION, "application_name": "regulars-log-watch", "synchronous_commit": "off"}


class _Known(NamedTuple):
    topic_id: int
    partitions: int
    compacted: bool


async def _keep_session(_connection: object) -> None:
    """No reset when a connection goes back to the pool: nothing here changes a session, and it costs a round trip."""


class PostgresLog:
    """The port over one database. Opens nothing until it is first used."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._url = url
        self._pool_size = pool_size
        self._timeout_seconds = timeout_seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._topics: dict[str, _Known] = {}
        self._appender = GroupAppender(partial(self._append_group, compacted=False), self._appended)
        self._compacting = GroupAppender(partial(self._append_group, compacted=True), self._appended_compacted)
        self._tail = Tail()
        self._reads = Gathered(self._read_all, "read the log")
        self._watch = Watch(self._connect_watch, self._extents, self._tail.forget_all)
        self._names: dict[int, str] = {}

    CREATE_SCHEMA = """
    create schema if not exists regulars_log
    """
    CREATE_MIGRATIONS = """
    create table if not exists regulars_log.migrations (name text primary key, applied_at timestamptz not null)
    """
    LOCK_SET_UP = """
    select pg_advisory_xact_lock($1)
    """
    RECORD_MIGRATION = """
    insert into regulars_log.migrations (name, applied_at) values ($1, now())
    on conflict do nothing returning name
    """
    CREATE_TOPICS = """
    with created as (
        insert into regulars_log.topics (name, partitions, retention_days, compacted)
        select * from unnest($1::text[], $2::int[], $3::int[], $4::boolean[])
        on conflict (name) do nothing
        returning topic_id, partitions
    )
    insert into regulars_log.heads (topic_id, partition)
    select created.topic_id, partition from created, generate_series(0, created.partitions - 1) as partition
    """

    async def set_up(self, topics: Sequence[Topic]) -> None:
        """Create schema and topics that are missing; several processes may do so at once."""
        async with self._connection() as connection, connection.transaction():
            await connection.execute(self.LOCK_SET_UP, SET_UP_LOCK)
            await connection.execute(self.CREATE_SCHEMA)
            await connection.execute(self.CREATE_MIGRATIONS)
            for path in sorted(SQL_DIRECTORY.glob("*.sql")):
                if await connection.fetchval(self.RECORD_MIGRATION, path.name):
                    await connection.execute(path.read_text())
            await connection.execute(
                self.CREATE_TOPICS,
                [topic.name for topic in topics],
                [topic.partitions for topic in topics],
                [topic.retention_days for topic in topics],
                [topic.compacted for topic in topics],
            )

    FIND_TOPICS = """
    select topic.name, topic.partitions, topic.retention_days, topic.compacted,
        (select count(*) from regulars_log.heads as head where head.topic_id = topic.topic_id) as heads
    from regulars_log.topics as topic where topic.name = any($1::text[])
    """
    # A server that commits without waiting for its disk does so for the log only if it says that this is meant.
    WAIT_FOR_DISK = """
    select set_config('synchronous_commit', 'on', false)
    where current_setting('regulars.relaxed', true) is distinct from 'on'
    """
    IS_SET_UP = """
    select to_regclass('regulars_log.heads') is not null
    """
    IS_REPLICA = """
    select pg_is_in_recovery()
    """

    async def check(self, topics: Sequence[Topic]) -> None:
        names = [topic.name for topic in topics]
        async with self._connection() as connection:
            if await connection.fetchval(self.IS_REPLICA):
                raise TopicUnsafe("the database is a read-only replica: give the primary's URL as REGULARS_LOG_URL")
            is_set_up = await connection.fetchval(self.IS_SET_UP)
            rows = await connection.fetch(self.FIND_TOPICS, names) if is_set_up else []
        found = {row["name"]: row for row in rows}
        wrong: list[str] = []
        for topic in topics:
            if (row := found.get(topic.name)) is None:
                wrong.append(f"{topic.name} is missing: run set-up")
                continue
            for what in ("partitions", "compacted", "heads"):
                must = topic.partitions if what == "heads" else getattr(topic, what)
                if row[what] != must:
                    wrong.append(f"{topic.name}: {what} is {row[what]} and must be {must}")
            kept, least = row["retention_days"], topic.retention_days
            if kept is not None and (least is None or kept < least):
                wrong.append(f"{topic.name}: retention_days is {kept} and must be {least or 'null (kept for ever)'}")
        if wrong:
            raise TopicUnsafe("; ".join(wrong))

    async def append(self, at: At, entries: Sequence[Entry]) -> int:
        """In one statement with what comes at the same time. Other readers are told after it, on another connection."""
        try:
            known = await self._topic(at.topic)
            refuse_entries(at, entries, tombstones=known.compacted)
            place = Place(known.topic_id, at.partition)
            base = await (self._compacting if known.compacted else self._appender).append(place, entries)
        except LogUnavailable as error:
            raise AppendFailed(f"{at}: {error}") from error
        if base is None:
            raise TopicUnsafe(f"{at.topic} has no partition {at.partition}")
        return base

    def _appended(self, place: Place, base: int, entries: Sequence[Entry], appended_at: datetime) -> None:
        at = At(self._names[place.topic_id], place.partition)
        records = [Record(at, base + nth, key, value, appended_at) for nth, (key, value) in enumerate(entries)]
        self._tail.forget_outside(place, Extent(0, base))
        self._tail.add(place, records)
        self._watch.appended(place, base + len(entries))

    def _appended_compacted(self, place: Place, base: int, entries: Sequence[Entry], _: datetime) -> None:
        self._watch.appended(place, base + len(entries))

    async def _append_group(
        self,
        topic_ids: list[int],
        partitions: list[int],
        keys: list[bytes],
        values: list[bytes | None],
        *,
        compacted: bool,
    ) -> list[Row]:
        async with self._connection() as connection:
            if not compacted:
                rows = await connection.fetch(APPEND_GROUP, topic_ids, partitions, keys, values, None)
            else:
                newest = newest_of_their_keys(topic_ids, partitions, keys)
                async with connection.transaction():
                    await connection.execute(LOCK_HEADS, topic_ids, partitions)
                    rows = await connection.fetch(APPEND_GROUP, topic_ids, partitions, keys, values, newest)
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    async def reader(self, positions: Mapping[At, int]) -> PostgresReader:
        places: dict[At, Place] = {}
        gaps: set[str] = set()
        for at in positions:
            known = await self._topic(at.topic)
            places[at] = Place(known.topic_id, at.partition)
            if known.compacted:
                gaps.add(at.topic)
        waiter = Waiter({places[at]: position for at, position in positions.items()})
        await self._watch.add(waiter)
        return PostgresReader(self._read, self._watch, waiter, places, gaps)

    async def ends(self, at: Sequence[At]) -> dict[At, int]:
        return {one: extent.end for one, extent in (await self._extents_of(at)).items()}

    async def starts(self, at: Sequence[At]) -> dict[At, int]:
        return {one: extent.start for one, extent in (await self._extents_of(at)).items()}

    async def _extents_of(self, at: Sequence[At]) -> dict[At, Extent]:
        places = {one: Place((await self._topic(one.topic)).topic_id, one.partition) for one in at}
        found = await self._watch.refresh(places.values())
        return {one: found[place] for one, place in places.items()}

    REPORT = """
    insert into regulars_log.reports (group_name, topic_id, partition, next_offset, reported_at)
    select $1, *, now() from unnest($2::int[], $3::int[], $4::bigint[])
    on conflict (group_name, topic_id, partition) do update
    set next_offset = excluded.next_offset, reported_at = excluded.reported_at
    """

    async def report(self, group: str, positions: Mapping[At, int]) -> None:
        order = sorted(positions)
        topic_ids = [(await self._topic(at.topic)).topic_id for at in order]
        partitions, offsets = [at.partition for at in order], [positions[at] for at in order]
        async with self._connection() as connection:
            await connection.execute(self.REPORT, group, topic_ids, partitions, offsets)

    FIND_TRIMMABLE = """
    select head.topic_id, head.partition, topic.retention_days
    from regulars_log.heads as head join regulars_log.topics as topic using (topic_id)
    where topic.retention_days is not null and not topic.compacted and head.start_offset < head.next_offset
    order by 1, 2
    """
    TRIM = """
    with oldest as (
        select "offset", appended_at from regulars_log.records
        where topic_id = $1 and partition = $2 order by "offset" limit $4
    ), cut as (
        select max("offset") + 1 as start_offset, count(*) as gone from oldest
        where appended_at < clock_timestamp() - make_interval(days => $3)
    ), trimmed as (
        delete from regulars_log.records as record using cut
        where record.topic_id = $1 and record.partition = $2 and record."offset" < cut.start_offset
    ), moved as (
        update regulars_log.heads as head set start_offset = cut.start_offset from cut
        where head.topic_id = $1 and head.partition = $2 and cut.start_offset is not null
    )
    select gone from cut
    """

    async def trim(self) -> int:
        """Remove letterbox records that are past their topic's retention, by the server's clock; returns how many.

        Topics that are kept for ever, and compacted ones, are not touched. In small statements: appends go on.
        """
        removed = 0
        async with self._connection() as connection:
            rows = await connection.fetch(self.FIND_TRIMMABLE)
        for topic_id, partition, days in rows:
            gone = TRIM_ROWS
            while gone == TRIM_ROWS:
                async with self._connection() as connection:
                    gone = await connection.fetchval(self.TRIM, topic_id, partition, days, TRIM_ROWS)
                removed += gone
        return removed

    async def close(self) -> None:
        await self._appender.close()
        await self._compacting.close()
        await self._reads.close()
        await self._watch.close()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(5):
                    await pool.close()
            except (TimeoutError, *CONNECTION_ERRORS):
                pool.terminate()

    async def _read(self, place: Place, position: int, most: int) -> list[Record]:
        """Up to `most` records from `position`, bounded in bytes too. What is read at the same time is one query."""
        return list(self._tail.take(place, position, most) or await self._reads.of(Asked(place, position, most)))

    async def _read_all(self, asked: Sequence[Asked]) -> Mapping[Asked, list[Record]]:
        names = self._names
        async with self._connection() as connection:
            found = await read_records(connection, asked, names)
        for one, records in found.items():
            if not self._topics[names[one.place.topic_id]].compacted:
                self._tail.add(one.place, records)
        return found

    FIND_EXTENTS = """
    select topic_id, partition, start_offset, next_offset from regulars_log.heads
    where (topic_id, partition) in (select * from unnest($1::int[], $2::int[]))
    """

    async def _extents(self, places: Iterable[Place]) -> Mapping[Place, Extent]:
        wanted = list(places)
        topic_ids, partitions = [place.topic_id for place in wanted], [place.partition for place in wanted]
        async with self._connection() as connection:
            rows = await connection.fetch(self.FIND_EXTENTS, topic_ids, partitions)
        found = {Place(row[0], row[1]): Extent(row[2], row[3]) for row in rows}
        for place, extent in found.items():
            self._tail.forget_outside(place, extent)
        if len(found) < len(set(wanted)):
            raise TopicUnsafe(f"partitions without a head row: {sorted(set(wanted) - set(found))}")
        return found

    FIND_TOPIC = """
    select topic_id, partitions, compacted from regulars_log.topics where name = $1
    """

    async def _topic(self, name: str) -> _Known:
        if name not in self._topics:
            async with self._connection() as connection:
                row = await connection.fetchrow(self.FIND_TOPIC, name)
            if row is None:
                raise TopicUnsafe(f"{name} is missing: run set-up")
            self._topics[name] = _Known(*row)
            self._names[row["topic_id"]] = name
        return self._topics[name]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator["asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"]:
        """A connection of the pool for one short piece of work; raises LogUnavailable."""
        self._watch.raise_if_dead()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                if self._pool is None:
                    await self._open()
                assert self._pool is not None
                async with self._pool.acquire() as connection:
                    try:
                        yield connection
                    except asyncpg.InternalClientError:
                        connection.terminate()
                        raise
        except asyncpg.UndefinedTableError as error:
            raise TopicUnsafe("this database holds no log: run set-up") from error
        except CONNECTION_ERRORS as error:
            self._tail.forget_all()
            raise LogUnavailable(f"the log's database: {type(error).__name__} {error}") from error

    async def _open(self) -> None:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=1,
                    max_size=self._pool_size,
                    command_timeout=self._timeout_seconds,
                    server_settings=SESSION,
                    init=self._begin_session,
                    reset=_keep_session,
                )

    async def _begin_session(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await connection.execute(self.WAIT_FOR_DISK)

    async def _connect_watch(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            self._url,
            timeout=self._timeout_seconds,
            command_timeout=self._timeout_seconds,
            server_settings=WATCH_SESSION,
        )
