"""What only the embedded log must prove: held and rolled back transactions, lost notifications, trimming, outages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import asyncpg
import pytest

from shared.log.port import AppendFailed, At, Entry, LogUnavailable, OffsetMissing, Topic, TopicUnsafe
from shared.log.postgres import PostgresLog
from shared.log.postgres_appender import APPEND_GROUP, LOCK_HEADS
from tests.log.reading import DEADLINE_SECONDS, entry, read, take_until_something, values

Topics = tuple[Topic, Topic, Topic]
SQL = {
    name: statement
    for name, statement in vars(PostgresLog).items()
    if name.isupper() and isinstance(statement, str) and not name.startswith("CREATE_")
} | {"APPEND_GROUP": APPEND_GROUP, "LOCK_HEADS": LOCK_HEADS}

FIND_TOPIC_ID = """
select topic_id from regulars_log.topics where name = $1
"""
END_OTHERS = """
select count(pg_terminate_backend(pid)) from pg_stat_activity
where application_name like $1 and datname = current_database() and pid <> pg_backend_pid()
"""
AGE_RECORDS = """
update regulars_log.records set appended_at = appended_at - make_interval(days => 31)
where topic_id = (select topic_id from regulars_log.topics where name = $1) and "offset" < $2
"""
CHANGE_RECORD = """
update regulars_log.records set value = $2
where topic_id = (select topic_id from regulars_log.topics where name = $1) and partition = 0
"""
CUT_TAIL = """
update regulars_log.heads set next_offset = next_offset - 1
where topic_id = (select topic_id from regulars_log.topics where name = $1) and partition = $2
"""
DROP_TAIL = """
delete from regulars_log.records as record using regulars_log.heads as head
where record.topic_id = head.topic_id and record.partition = head.partition
    and record."offset" >= head.next_offset
"""
FIND_LAG = """
select group_name, topic, partition, lag from regulars_log.lag order by partition
"""
FIND_STORED = """
select "offset", key, value from regulars_log.records
where topic_id = (select topic_id from regulars_log.topics where name = $1) and partition = $2 order by "offset"
"""
COUNT_WAITING = """
select count(*) from pg_locks where not granted
"""
COUNT_CONNECTIONS = """
select application_name, count(*) from pg_stat_activity
where datname = current_database() and application_name like 'regulars-log%' group by 1
"""


@pytest.fixture
async def log(database_url: str, topics: Topics) -> AsyncIterator[PostgresLog]:
    log = PostgresLog(database_url)
    await log.set_up(topics)
    yield log
    await log.close()


@pytest.fixture
async def beside(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that is not the log's."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", sorted(SQL))
async def test_every_statement_fits_the_schema(
    log: PostgresLog, beside: "asyncpg.Connection[asyncpg.Record]", name: str
) -> None:
    prepared = await beside.prepare(SQL[name])
    assert prepared.get_query() == SQL[name]


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "rolled-back"])
async def test_an_append_waits_for_the_one_before_it_however_that_ends(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]", commits: bool
) -> None:
    at = At(topics[0].name, 0)
    await log.append(at, [entry("first")])
    topic_id = await beside.fetchval(FIND_TOPIC_ID, at.topic)
    held = beside.transaction()
    await held.start()
    assert await beside.fetchval(APPEND_GROUP, [topic_id], [0], [b"k"], [b"held"], None, column=2) == 1
    reader = await log.reader({at: 1})
    try:
        appending = asyncio.create_task(log.append(at, [entry("after")]))
        assert not await reader.wait(0.2), "a reader saw what comes after an offset that may still come"
        await (held.commit() if commits else held.rollback())
        assert await appending == (2 if commits else 1)
        assert values(await take_until_something(reader, at)) == (["held", "after"] if commits else ["after"])
    finally:
        await reader.close()


async def test_other_partitions_do_not_wait_for_a_held_one(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    topic_id = await beside.fetchval(FIND_TOPIC_ID, topics[0].name)
    async with beside.transaction():
        await beside.fetchval(APPEND_GROUP, [topic_id], [0], [b"k"], [b"held"], None, column=2)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert await log.append(At(topics[0].name, 1), [entry("free")]) == 0


async def test_of_a_keys_records_that_are_appended_together_only_the_youngest_ever_exists(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[2].name, 0)
    put, tombstone = Entry(b"k", b"a secret"), Entry(b"k", None)
    assert await log.append(at, [Entry(b"first", b"")]) == 0
    assert list(await asyncio.gather(log.append(at, [put]), log.append(at, [tombstone]))) == [1, 2]
    assert await stored(beside, at) == [(0, b"first", b""), (2, b"k", None)]
    await log.append(at, [put, Entry(b"other", b""), put])
    assert await stored(beside, at) == [(0, b"first", b""), (4, b"other", b""), (5, b"k", b"a secret")]


async def test_a_tombstone_replaces_what_another_process_was_appending(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[2].name, 0)
    topic_id = await beside.fetchval(FIND_TOPIC_ID, at.topic)
    held = beside.transaction()
    await held.start()
    await beside.fetchval(APPEND_GROUP, [topic_id], [0], [b"k"], [b"a secret"], [True])
    appending = asyncio.create_task(log.append(at, [Entry(b"k", None)]))
    async with asyncio.timeout(DEADLINE_SECONDS):
        waiting = 0
        while not waiting:
            waiting = await beside.fetchval(COUNT_WAITING)
    await held.commit()
    assert await appending == 1
    assert await stored(beside, at) == [(1, b"k", None)]


async def stored(beside: "asyncpg.Connection[asyncpg.Record]", at: At) -> list[tuple[int, bytes, bytes | None]]:
    return [tuple(row) for row in await beside.fetch(FIND_STORED, at.topic, at.partition)]


@pytest.mark.parametrize(("relaxed", "shown"), [("on", "off"), ("off", "on"), (None, "on")])
async def test_an_append_waits_for_the_disk_unless_the_server_says_it_is_relaxed(
    database_url: str, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]", relaxed: str | None, shown: str
) -> None:
    database = await beside.fetchval("select quote_ident(current_database())")
    await beside.execute(f"alter database {database} set synchronous_commit = off")
    if relaxed is not None:
        await beside.execute(f"alter database {database} set regulars.relaxed = {relaxed}")
    log = PostgresLog(database_url)
    try:
        await log.set_up(topics)
        async with log._connection() as connection:  # what its appends run on is the point here
            assert await connection.fetchval("show synchronous_commit") == shown
    finally:
        await log.close()


async def test_a_reader_finds_what_nobody_notified_it_of(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[0].name, 0)
    reader = await log.reader({at: 0})
    try:
        topic_id = await beside.fetchval(FIND_TOPIC_ID, at.topic)
        await beside.fetchval(APPEND_GROUP, [topic_id], [0], [b"k"], [b"silent"], None, column=2)
        assert await reader.wait(DEADLINE_SECONDS)
        assert values(await reader.take(at, 10)) == ["silent"]
    finally:
        await reader.close()


async def test_all_readers_of_a_process_share_one_listening_connection(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[0].name, 0)
    readers = [await log.reader({at: 0}) for _ in range(20)]
    waiting = [asyncio.create_task(reader.wait(DEADLINE_SECONDS)) for reader in readers]
    await log.append(at, [entry(1)])
    assert all(await asyncio.gather(*waiting))
    counted = {name: count for name, count in await beside.fetch(COUNT_CONNECTIONS)}  # noqa: C416 (rows are no pairs)
    assert counted["regulars-log-watch"] == 1
    for reader in readers:
        await reader.close()


async def test_the_log_and_its_readers_outlive_all_their_connections(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[0].name, 0)
    reader = await log.reader({at: 0})
    try:
        await log.append(at, [entry("before")])
        assert values(await take_until_something(reader, at)) == ["before"]
        assert await beside.fetchval(END_OTHERS, "regulars-log%") >= 2
        async with asyncio.timeout(DEADLINE_SECONDS):
            landed = None
            while landed is None:
                try:
                    landed = await log.append(at, [entry("after")])
                except AppendFailed:
                    landed = None
        assert values(await take_until_something(reader, at)) == ["after"]
    finally:
        await reader.close()


async def test_what_is_in_memory_is_forgotten_with_the_connections(
    log: PostgresLog, beside: "asyncpg.Connection[asyncpg.Record]", topics: Topics
) -> None:
    """The database that comes back may be an older one, whose records at the same offsets are others."""
    at = At(topics[0].name, 0)
    await log.append(at, [entry("lost")])
    assert values(await read(log, at, 1)) == ["lost"]
    await beside.execute(CHANGE_RECORD, topics[0].name, entry("true").value)
    assert values(await read(log, at, 1)) == ["lost"], "from memory"
    await beside.execute(END_OTHERS, "regulars-log%")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            with suppress(LogUnavailable):
                if values(await read(log, at, 1)) == ["true"]:
                    break


async def test_an_unreachable_database_is_named(database_url: str) -> None:
    log = PostgresLog(database_url.replace("/test_", "/no_"))
    at = At("regulars.events", 0)
    with pytest.raises(LogUnavailable):
        await log.reader({at: 0})
    gone = PostgresLog("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(LogUnavailable):
        await gone.ends([at])
    with pytest.raises(AppendFailed):
        await gone.append(at, [entry(1)])
    await log.close()
    await gone.close()


async def test_a_letterbox_is_trimmed_and_the_stream_is_not(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    places = [At(topic.name, 0) for topic in topics]
    for at in places:
        await log.append(at, [entry(nth, key=str(nth).encode()) for nth in range(10)])
        await beside.execute(AGE_RECORDS, at.topic, 4)
    assert await log.trim() == 4
    assert await log.trim() == 0
    stream, inbox, keys = places
    assert await log.starts(places) == {stream: 0, inbox: 4, keys: 0}
    assert len(await read(log, stream, 10)) == 10
    assert len(await read(log, keys, 10)) == 10
    assert values(await read(log, inbox, 6, 4)) == [str(nth) for nth in range(4, 10)]
    reader = await log.reader({inbox: 3})
    with pytest.raises(OffsetMissing):
        await take_until_something(reader, inbox)
    await reader.close()
    await beside.execute(AGE_RECORDS, inbox.topic, 10)
    assert await log.trim() == 6
    assert await log.append(inbox, [entry("next")]) == 10


async def test_an_erased_key_is_gone_with_its_tombstones_append(log: PostgresLog, topics: Topics) -> None:
    keys = At(topics[2].name, 0)
    await log.append(keys, [entry("secret", b"li"), entry("other", b"wang")])
    await log.append(keys, [Entry(b"li", None)])
    left = [(record.offset, record.key, record.value) for record in await read(log, keys, 2)]
    assert left == [(1, b"wang", b"other"), (2, b"li", None)]


async def test_a_log_that_lost_its_tail_stops_a_reader_that_is_beyond_it(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[0].name, 0)
    await log.append(at, [entry(nth) for nth in range(3)])
    reader = await log.reader({at: 0})
    assert len(await take_until_something(reader, at)) == 3
    async with beside.transaction():
        await beside.execute(CUT_TAIL, at.topic, 0)
        await beside.execute(DROP_TAIL)
    assert await reader.wait(DEADLINE_SECONDS)
    with pytest.raises(OffsetMissing):
        await take_until_something(reader, at)
    await reader.close()


async def test_large_records_are_taken_in_bounded_pieces(log: PostgresLog, topics: Topics) -> None:
    at = At(topics[0].name, 0)
    for _ in range(24):
        await log.append(at, [Entry(b"k", b"x" * 800_000)])
    reader = await log.reader({at: 0})
    sizes: list[int] = []
    while sum(sizes) < 24:
        assert await reader.wait(DEADLINE_SECONDS)
        sizes.append(len(await reader.take(at, 1000)))
    await reader.close()
    assert sizes == [21, 3]


async def test_reports_show_as_lag(
    log: PostgresLog, topics: Topics, beside: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    at = At(topics[1].name, 1)
    await log.append(at, [entry(nth) for nth in range(5)])
    await log.report("points", {at: 2})
    assert [tuple(row) for row in await beside.fetch(FIND_LAG)] == [("points", at.topic, 1, 3)]


async def test_a_database_that_holds_no_log_says_so(other_database_url: str, topics: Topics) -> None:
    log = PostgresLog(other_database_url)
    with pytest.raises(TopicUnsafe, match="set-up"):
        await log.ends([At(topics[0].name, 0)])
    with pytest.raises(TopicUnsafe, match="missing"):
        await log.check([replace(topics[0])])
    await log.close()
