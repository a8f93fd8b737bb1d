"""What only a real Postgres can say: the SQL fits the schema, rows come back as they went, races are seen,
and a tenant sees its own rows only."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from services.contacts.door import store as door_store
from services.contacts.door.domain import ConflictRow, IdentityRow, OrderEntryRow, ReceiptRow
from services.contacts.door.rules import DoorRules
from services.contacts.door.store import CONFLICTS, IDENTITIES, ORDER_ENTRIES, RECEIPTS, find_receipt
from services.contacts.tenants import store as tenants_store
from services.contacts.tenants.domain import CredentialRow, TenantRow
from services.contacts.tenants.store import CREDENTIALS, TENANTS
from shared.runtime.migrations import api_role_of, migrate_worker
from shared.runtime.postgres_session import Connection
from shared.runtime.tables import Table
from tests.contacts.door_driver import NOW, SOURCE, TENANT, Kept, arrived, keyed, purchase, refund, sent
from tests.load_plans import scans_beside_the_key

SQL: Final = Path(__file__).parents[2] / "services" / "contacts" / "sql"

ENTRY = OrderEntryRow(
    TENANT, "web", "1001", 1, "purchase", "", "c1", SOURCE, "e1", NOW, "USD", "hash", '[["1",2,2950]]', ""
)
SAMPLES: list[tuple[str, Table[Any], list[Any]]] = [
    ("door", RECEIPTS, [ReceiptRow(TENANT, SOURCE, "e1", "hash", "purchase.completed.v1", "", "c1")]),
    ("door", CONFLICTS, [ConflictRow(TENANT, SOURCE, "e1", "other"), ConflictRow(TENANT, SOURCE, "e1", "third")]),
    ("door", IDENTITIES, [IdentityRow(TENANT, "email", "hash", "c1", "sealed.v1.k1.AAAA")]),
    ("door", ORDER_ENTRIES, [ENTRY, ENTRY._replace(turn=2, kind="refund", refund_id="r1", id="e2")]),
    ("contacts", TENANTS, [TenantRow("acme", "界", "UTC", "CNY", None), TenantRow("beta", "B", "UTC", "USD", NOW)]),
    ("contacts", CREDENTIALS, [CredentialRow(TENANT, "c_01", "0" * 64, "a:b c:d", "till", False)]),
]
BY_TABLE = pytest.mark.parametrize(("worker", "table", "rows"), SAMPLES, ids=[row[1].name for row in SAMPLES])


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    for worker in ("door", "contacts"):
        await migrate_worker(connection, worker, (SQL / worker,))
    yield connection
    await connection.close()


async def use(connection: Connection, worker: str) -> None:
    await connection.execute("select set_config('search_path', $1, false)", worker)


async def save(connection: Connection, table: Table[Any], rows: list[Any]) -> int:
    status = await connection.execute(table.save, *(list(column) for column in zip(*rows, strict=True)))
    return int(status.rpartition(" ")[2])


async def load(connection: Connection, table: Table[Any], rows: list[Any]) -> list[Any]:
    groups = sorted({table.group_of(row) for row in rows})
    records = await connection.fetch(table.load, *(list(column) for column in zip(*groups, strict=True)))
    return sorted((table.row(*record) for record in records), key=table.key_of)


@BY_TABLE
async def test_rows_are_found_by_key_whenever_the_plan_was_made(
    connection: Connection, worker: str, table: Table[Any], rows: list[Any]
) -> None:
    await use(connection, worker)
    assert await scans_beside_the_key(connection, table) == []


async def test_every_statement_fits_the_migrated_schema(connection: Connection) -> None:
    prepared = 0
    for worker, module in (("door", door_store), ("contacts", tenants_store)):
        await use(connection, worker)
        for name, statement in vars(module).items():
            if name.isupper() and isinstance(statement, str):
                await connection.prepare(statement)
                prepared += 1
    assert prepared == 16


@BY_TABLE
async def test_rows_come_back_as_they_went(
    connection: Connection, worker: str, table: Table[Any], rows: list[Any]
) -> None:
    await use(connection, worker)
    assert await save(connection, table, rows) == len(rows)
    assert await load(connection, table, rows) == rows


@BY_TABLE
async def test_the_schema_has_the_rows_columns_and_its_tenant_first(
    connection: Connection, worker: str, table: Table[Any], rows: list[Any]
) -> None:
    await use(connection, worker)
    (row,) = await connection.fetch(TABLE_SHAPE, worker, table.name)
    assert tuple(row["columns"]) == table.columns
    assert tuple(row["key"]) == table.key
    assert row["key"][0] == "tenant"
    assert row["policy"] == "one_tenant"


TABLE_SHAPE = """
select
    array(
        select attname::text from pg_attribute where attrelid = c.oid and attnum > 0 order by attnum
    ) as columns,
    array(
        select a.attname::text from pg_index i
        cross join unnest(i.indkey) with ordinality as k (attnum, place)
        join pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary order by k.place
    ) as key,
    (select polname::text from pg_policy where polrelid = c.oid and c.relrowsecurity) as policy
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = $2
"""


@pytest.mark.parametrize(("worker", "table", "rows"), SAMPLES[:4], ids=[row[1].name for row in SAMPLES[:4]])
async def test_of_two_partitions_that_write_one_row_the_second_is_told(
    connection: Connection, database_url: str, worker: str, table: Table[Any], rows: list[Any]
) -> None:
    other = await asyncpg.connect(database_url)
    try:
        for each in (connection, other):
            await use(each, worker)
        theirs = [row._replace(**{name: "x" for name in table.columns if name not in (*table.key, "happened_at")})
                  for row in rows]  # fmt: skip
        async with connection.transaction():
            assert await save(connection, table, rows[:1]) == 1
            second = asyncio.create_task(save(other, table, theirs))
            await blocked(connection, other)
        assert await second == len(rows) - 1, "it waited for the first, and one row less was written"
        assert (await load(connection, table, rows))[0] == rows[0], "the first one's row stands"
    finally:
        await other.close()


async def blocked(connection: Connection, other: Connection) -> None:
    """Until the other connection waits for this one's transaction; with a deadline."""
    async with asyncio.timeout(10):
        while not await connection.fetchval("select cardinality(pg_blocking_pids($1)) > 0", other.get_server_pid()):
            pass


async def test_two_partitions_deciding_on_one_order_at_once_want_the_same_turn(connection: Connection) -> None:
    early, late = Kept(DoorRules(keyed)), Kept(DoorRules(keyed))
    early.ask(arrived(sent("purchase.refunded", refund(), "e1")))
    late.ask(arrived(sent("purchase.completed", purchase(customer={"reference": "C-17"}), "e2")))
    await use(connection, "door")
    assert await save(connection, ORDER_ENTRIES, early.all(ORDER_ENTRIES)) == 1
    assert await save(connection, ORDER_ENTRIES, late.all(ORDER_ENTRIES)) == 0, "else the refund would wait for ever"


async def keep(connection: Connection, kept: Kept) -> None:
    for table in kept.rules.tables:
        if rows := kept.all(table):
            await save(connection, table, rows)


async def test_a_receipt_says_what_became_of_an_event(connection: Connection) -> None:
    door = Kept(DoorRules(keyed))
    customer = {"reference": "C-17"}
    (deferred,) = door.ask(arrived(sent("purchase.refunded", refund(), "early")))
    (too_much,) = door.ask(arrived(sent("purchase.refunded", refund("r2", 2), "too much")))
    await use(connection, "door")
    await keep(connection, door)
    waiting = await find_receipt(connection, TENANT, SOURCE, "early")
    assert waiting == (deferred.data.body_hash, "refund.deferred.v1", "", deferred.subject, 0)

    bought = door.ask(arrived(sent("purchase.completed", purchase(customer=customer), "bought")))[0]
    door.ask(arrived(sent("purchase.completed", purchase("2", customer=customer), "bought")))
    door.ask(arrived(sent("purchase.completed", purchase(customer=customer), "again")))
    await keep(connection, door)
    contact, seen = bought.subject, {}
    for event_id in ("early", "too much", "bought", "again"):
        receipt = await find_receipt(connection, TENANT, SOURCE, event_id)
        assert receipt is not None
        seen[event_id] = receipt[1:]
    assert seen == {
        "early": ("purchase.refunded.v1", "", contact, 0),
        "too much": ("refund.refused.v1", "refund-exceeds-order", contact, 0),
        "bought": ("purchase.completed.v1", "", contact, 1),
        "again": ("delivery.refused.v1", "ignored-duplicate", contact, 0),
    }
    assert await find_receipt(connection, TENANT, SOURCE, "never sent") is None
    assert await find_receipt(connection, "beta", SOURCE, "bought") is None
    assert too_much.type == "refund.deferred.v1"


async def test_the_api_role_sees_the_rows_of_its_transactions_tenant_only(connection: Connection) -> None:
    for worker, table, rows in SAMPLES:
        await use(connection, worker)
        await save(connection, table, [row._replace(tenant="acme") for row in rows[:1]])
        await save(connection, table, [row._replace(tenant="beta") for row in rows[:1]])
        assert [row.tenant for row in await seen_by_api(connection, worker, table, rows, "acme")] == ["acme"]
        assert await seen_by_api(connection, worker, table, rows, "") == []


async def seen_by_api(
    connection: Connection, worker: str, table: Table[Any], rows: list[Any], tenant: str
) -> list[Any]:
    both = [row._replace(tenant=name) for row in rows[:1] for name in ("acme", "beta")]
    async with connection.transaction():
        await connection.execute("select set_config('role', $1, true)", api_role_of(worker))
        if tenant:
            await connection.execute("select set_config('regulars.tenant', $1, true)", tenant)
        return await load(connection, table, both)


async def test_times_come_back_in_utc(connection: Connection) -> None:
    await use(connection, "contacts")
    at = datetime(1997, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    await save(connection, TENANTS, [TenantRow("acme", "A", "UTC", "USD", at)])
    (row,) = await load(connection, TENANTS, [TenantRow("acme", "A", "UTC", "USD", at)])
    assert (row.clock, row.clock.utcoffset()) == (at, UTC.utcoffset(None))
    await save(connection, TENANTS, [row._replace(clock=NOW)])
    assert (await load(connection, TENANTS, [row]))[0].clock == NOW
