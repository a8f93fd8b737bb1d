"""What only a real Postgres can prove: lost answers, silent servers, lost listeners, upkeep of the outbox, plans."""

import asyncio
import importlib
import pkgutil
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

import shared.runtime
from shared.log.port import EVENTS
from shared.runtime import machinery
from shared.runtime.postgres_session import Connection, SessionSettings
from shared.runtime.postgres_store import PostgresStore, lock_clause
from shared.runtime.state import CLOCKS, SUBJECTS, TABLES, SubjectRow
from shared.runtime.store import Acknowledged, OutboxRow, Position, Reached, Sent, StoreConflict, StoreUnavailable
from shared.runtime.tables import Table
from tests.load_plans import scans_beside_the_key
from tests.runtime.toy_store import (
    DEADLINE_SECONDS,
    NICKNAMES,
    ORDERS,
    PROFILES,
    TOYS,
    WORKER,
    Nickname,
    Profile,
    Shop,
    claimed,
    held,
    postgres_shop,
    until,
)
from tests.runtime.wire import Wire, wire_to

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STATEMENT = re.compile(r"\s*\(?\s*(select|insert|update|delete|with)\s")
SHORT = SessionSettings(
    connect_timeout_seconds=2,
    command_timeout_seconds=0.5,
    lock_timeout_seconds=0.2,
    idle_in_transaction_seconds=0.3,
    watchdog_seconds=0.5,
)
SLOW_COMMIT = """
create function toy.dawdle() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
create constraint trigger dawdle after insert on toy.profiles deferrable initially deferred
for each row execute function toy.dawdle();
"""


@pytest.fixture
async def shop(database_url: str) -> AsyncIterator[Shop[PostgresStore]]:
    async with postgres_shop(database_url) as found:
        yield found


@pytest.fixture
async def admin(shop: Shop[PostgresStore]) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection beside the stores', with their search_path."""
    connection = await asyncpg.connect(shop.url, server_settings={"search_path": "toy, toy_machinery"})
    yield connection
    await connection.close()


@pytest.fixture
async def wire(shop: Shop[PostgresStore]) -> AsyncIterator[Wire]:
    async with wire_to(shop.url) as found:
        yield found


async def test_after_a_lost_commit_answer_the_position_waits_for_the_commit(
    shop: Shop[PostgresStore], wire: Wire, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await admin.execute(SLOW_COMMIT)
    store, other = await PostgresStore.open(wire.url, WORKER), await shop.process()
    position = await claimed(store, 0)

    async def commits() -> None:
        async with store.transaction() as batch:
            await held(batch, position)
            await batch.save(PROFILES, [Profile("acme", "Li", 41, 1, True, NOON, None)])
            position.offsets = {EVENTS: 8}
            await batch.move([position])

    async def committing() -> bool:
        return bool(
            await admin.fetchval("select count(*) from pg_stat_activity where query = 'commit' and state = 'active'")
        )

    batch = asyncio.create_task(commits())
    await until(committing)
    wire.cut()
    with pytest.raises(StoreUnavailable):
        await batch
    found = await other.position(0)
    assert found is not None
    assert (found.version, found.offsets) == (2, {EVENTS: 8})
    assert len(await other.load(PROFILES, [("acme", "Li")])) == 1
    await store.close()


async def test_a_store_goes_on_after_its_connections_were_broken(
    shop: Shop[PostgresStore], admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    store = await shop.process()
    position = await claimed(store, 0)

    async def breaks() -> None:
        async with store.transaction() as batch:
            await held(batch, position)
            await admin.fetch(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'regulars toy'"
            )
            await batch.load(PROFILES, [("acme", "Li")])

    with pytest.raises(StoreUnavailable):
        await breaks()
    found = await store.position(0)
    assert found is not None
    assert found.version == 1


async def test_nothing_hangs_on_a_silent_server(wire: Wire) -> None:
    store = await PostgresStore.open(wire.url, WORKER, settings=SHORT)

    async def holds() -> None:
        async with store.transaction() as batch:
            wire.silence()
            await batch.hold([Position(0, 1)])

    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(StoreUnavailable):
            await holds()
        await store.close()


async def test_no_server_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await PostgresStore.open("postgresql://nobody@127.0.0.1:1/nothing", WORKER, settings=SHORT)


async def test_a_stopped_process_does_not_block_its_successor(shop: Shop[PostgresStore]) -> None:
    stopped = await PostgresStore.open(shop.url, WORKER, settings=SHORT)
    successor = await shop.process()
    position = await stopped.claim("anna", 0, 0.01)
    assert position is not None
    taken: list[Position] = []

    async def take_over() -> bool:
        taken.extend(filter(None, [await successor.claim("bert", 0, 60)]))
        return bool(taken)

    async def wakes_too_late() -> None:
        async with stopped.transaction() as batch:
            await held(batch, position)
            await until(take_over)
            await batch.move([position])

    with pytest.raises(StoreUnavailable):
        await wakes_too_late()
    assert taken == [Position(0, 2)]
    await stopped.close()


async def test_waiting_too_long_for_a_row_is_a_conflict(shop: Shop[PostgresStore]) -> None:
    first = await shop.process()
    second = await PostgresStore.open(shop.url, WORKER, settings=replace(SHORT, idle_in_transaction_seconds=5))
    position = await claimed(first, 0)
    async with first.transaction() as batch:
        await held(batch, position)
        await batch.save(NICKNAMES, [Nickname("acme", "ace", "Li")])
        with pytest.raises(StoreConflict):
            async with second.transaction() as late:
                await late.save(NICKNAMES, [Nickname("acme", "ace", "Wu")])
        assert await second.claim("anna", 0, 60) is None
        with pytest.raises(StoreUnavailable):
            await second.position(0)
    await second.close()


async def test_listening_goes_on_after_the_connection_was_lost(
    shop: Shop[PostgresStore], admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    store, other = await shop.process(), await shop.process()
    heard: list[Reached] = []
    await store.listen(heard.append)
    await other.announce([Reached(0, 1, 1, 1)])

    async def hears() -> bool:
        await admin.fetchval("select 1")
        return bool(heard)

    await until(hears)
    broken = await admin.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%' or query like '%pg_notify%'"
        " and pid <> pg_backend_pid()"
    )
    assert len(broken) == 2
    heard.clear()

    async def hears_again() -> bool:
        try:
            await other.announce([Reached(1, 2, 3, 4)])
        except StoreUnavailable:
            return False
        return bool(heard)

    await until(hears_again)
    assert set(heard) == {Reached(1, 2, 3, 4)}


async def test_large_values_bound_what_one_reading_returns(shop: Shop[PostgresStore]) -> None:
    store = await shop.process()
    position = await claimed(store, 0)
    rows = [OutboxRow(0, 0, n, n, False, b"k", bytes(3_000_000)) for n in range(1, 6)]
    rows += [OutboxRow(0, 0, n, 6, False, b"k", bytes(3_000_000)) for n in range(6, 10)]
    async with store.transaction() as batch:
        await held(batch, position)
        await batch.send(rows)
        position.sequences = {0: 9}
        await batch.move([position])
    sent: dict[int, Sent] = {}
    parts = []
    while part := await store.unsent(0, sent, 100):
        parts.append([row.sequence for row in part])
        sent[0] = Sent(part[-1].sequence, 0)
    assert parts == [[1, 2], [3, 4], [5], [6, 7, 8, 9]]


async def test_the_outbox_is_cut_by_time_and_old_parts_go_once_acknowledged(
    shop: Shop[PostgresStore], admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    store = await shop.process()
    assert await store.maintain() == (3, 0)
    assert await store.maintain() == (0, 0)
    position = await claimed(store, 0)
    async with store.transaction() as batch:
        await held(batch, position)
        await batch.send([OutboxRow(0, 0, 1, 1, False, b"k", b"v"), OutboxRow(0, 4, 1, 1, True, b"k", b"v")])
        position.sequences = {0: 1, 4: 1}
        await batch.move([position])
    assert await admin.fetchval("select count(*) from outbox_default") == 0
    await admin.execute(
        "create table toy_machinery.outbox_2001010100 partition of outbox"
        " for values from ('2001-01-01 00:00+00') to ('2001-01-01 06:00+00')"
    )
    insert = "insert into outbox values (0, 0, $1, $1, false, '', '', $2)"
    await admin.execute(insert, 2, datetime(2001, 1, 1, 3, tzinfo=UTC))
    await admin.execute(insert, 3, datetime(2001, 1, 9, tzinfo=UTC))
    await store.record_sent({0: Acknowledged({0: Sent(1, 1)}, 0)})
    assert await store.maintain() == (0, 0)
    await store.record_sent({0: Acknowledged({0: Sent(3, 3)}, 0)})
    assert await store.maintain() == (0, 1)
    assert await admin.fetchval("select count(*) from outbox") == 2
    assert [row.target for row in await store.unsent(0, {0: Sent(1, 1)}, 10)] == [4]


async def test_rows_that_came_before_their_part_are_kept_in_the_default_one(shop: Shop[PostgresStore]) -> None:
    store = await shop.process()
    position = await claimed(store, 0)
    async with store.transaction() as batch:
        await held(batch, position)
        await batch.send([OutboxRow(0, 0, 1, 1, False, b"k", b"v")])
        position.sequences = {0: 1}
        await batch.move([position])
    assert await store.maintain() == (2, 0)
    assert len(await store.unsent(0, {}, 10)) == 1


def statements() -> list[tuple[str, str]]:
    """Every SQL constant of the runtime, by its module and name."""
    found = []
    for module in pkgutil.iter_modules(shared.runtime.__path__, "shared.runtime."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if name.isupper() and isinstance(value, str) and STATEMENT.match(value):
                found.append((f"{module.name}.{name}", value))
    return found


async def test_every_statement_is_understood_by_the_migrated_schema(
    admin: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    found = statements()
    assert len(found) > 30
    for name, statement in found:
        try:
            await admin.prepare(statement)
        except asyncpg.PostgresError as error:
            raise AssertionError(f"{name}: {error}") from error


@pytest.mark.parametrize("table", [*TABLES, *TOYS], ids=lambda table: str(table.name))
async def test_a_tables_columns_are_those_of_its_row(
    table: Table[Profile], admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    records = await admin.fetch(
        "select attname from pg_attribute where attrelid = to_regclass($1) and attnum > 0 order by attnum", table.name
    )
    assert tuple(record["attname"] for record in records) == table.columns
    if table.load:
        loading = await admin.prepare(table.load + lock_clause(table))
        assert tuple(attribute.name for attribute in loading.get_attributes()) == table.columns


@pytest.mark.parametrize("table", [*TABLES, *TOYS], ids=lambda table: str(table.name))
async def test_rows_are_found_by_key_whenever_the_plan_was_made(
    table: Table[Profile], admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    if table.load:
        assert await scans_beside_the_key(admin, table) == []


async def test_plans_made_on_empty_tables_find_rows_by_index(shop: Shop[PostgresStore]) -> None:
    """A statement prepared at the start is used for ever: it must not keep reading whole tables."""
    store = await shop.process()
    async with store._session.connection() as connection:  # the plans of a store's own sessions are the point here
        await connection.execute("set plan_cache_mode = force_generic_plan")
        for statement in (SUBJECTS.load, ORDERS.load, machinery.UNSENT, machinery.DUE, machinery.NEXT_DUE):
            plan = await explained(connection, statement)
            scanned = {name for name in re.findall(r"Seq Scan on (\w+)", plan) if name not in ("clocks", "positions")}
            assert scanned == set(), plan
        await connection.execute("set plan_cache_mode = auto")


async def explained(connection: Connection, statement: str) -> str:
    await connection.execute("prepare asked as " + statement)
    values = {machinery.UNSENT: "0, '{}', '{}', 5, 5", machinery.DUE: "'{0}', now(), 5", machinery.NEXT_DUE: "0"}
    lines = await connection.fetch("explain execute asked (" + values.get(statement, "'{a}', '{b}'") + ")")
    await connection.execute("deallocate asked")
    return "\n".join(line[0] for line in lines)


async def test_a_snapshot_is_of_one_moment(shop: Shop[PostgresStore]) -> None:
    store = await shop.process()
    rows = [SubjectRow("acme", f"s{number:05}", 0, NOON, None) for number in range(5000)]
    async with store.transaction() as batch:
        await batch.save(SUBJECTS, rows)
    found: list[SubjectRow] = []
    async for row in store.snapshot_rows(SUBJECTS):
        if not found:
            async with store.transaction() as batch:
                await batch.save(SUBJECTS, [each._replace(due_at=NOON + timedelta(1)) for each in rows])
        found.append(row)
    assert sorted(found) == rows
    assert [row async for row in store.snapshot_rows(CLOCKS)] == []
