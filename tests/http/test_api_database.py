"""What only a real Postgres can show: the API's role reads one tenant at a time, and nothing without one."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from shared.http import credentials as stored
from shared.http.credentials import CREDENTIALS, CredentialRow, Credentials, new_secret, secret_hash
from shared.http.database import api_pool, api_role, tenant_connection

MIGRATION = Path(stored.__file__).parent / "sql" / "0001_known_credentials.sql"
WORKER = "things"

PREPARE = """
create schema state;
set search_path to state;
create table notes (tenant text not null, note text not null);
alter table notes enable row level security;
create policy one_tenant on notes using (tenant = current_setting('regulars.tenant', true));
insert into notes values ('acme', 'a1'), ('acme', 'a2'), ('beta', 'b1');
drop role if exists things_api;
create role things_api;
grant usage on schema state to things_api;
"""
GRANT = "grant select, insert on all tables in schema state to things_api"
FORGET = "drop owned by things_api; drop role things_api"
NOTES = "select note from notes order by note"
ADD = "insert into notes values ('acme', 'a3')"
WHO = "select current_user::text"


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(PREPARE)
    await connection.execute(MIGRATION.read_text())
    await connection.execute(GRANT)
    yield connection
    await connection.execute(FORGET)
    await connection.close()


async def notes(pool: asyncpg.Pool, tenant: str) -> list[str]:
    async with tenant_connection(pool, tenant) as connection:
        return [row["note"] for row in await connection.fetch(NOTES)]


async def test_a_connection_sees_its_tenant_only_and_the_next_one_nothing_of_it(
    owner: asyncpg.Connection, database_url: str
) -> None:
    async with api_pool(database_url, WORKER, "state", connections_max=1) as pool:
        assert await pool.fetch(NOTES) == []
        assert await notes(pool, "acme") == ["a1", "a2"]
        assert await pool.fetch(NOTES) == []
        assert await notes(pool, "beta") == ["b1"]
        assert await notes(pool, "") == []
        assert await notes(pool, "acme' or true --") == []
        assert await pool.fetchval(WHO) == api_role(WORKER) == "things_api"


async def test_the_role_writes_nothing(owner: asyncpg.Connection, database_url: str) -> None:
    async with api_pool(database_url, WORKER, "state") as pool:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pool.execute(ADD)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with tenant_connection(pool, "acme") as connection:
                await connection.execute(ADD)


async def test_a_block_sees_one_instant(owner: asyncpg.Connection, database_url: str) -> None:
    async with api_pool(database_url, WORKER, "state") as pool:
        async with tenant_connection(pool, "acme") as connection:
            before = await connection.fetch(NOTES)
            await owner.execute(ADD)
            assert await connection.fetch(NOTES) == before
        assert await notes(pool, "acme") == ["a1", "a2", "a3"]


async def save(owner: asyncpg.Connection, *rows: CredentialRow) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    await owner.execute(CREDENTIALS.save, *columns)


async def test_keys_are_saved_again_and_again_loaded_refreshed_and_looked_up(
    owner: asyncpg.Connection, database_url: str
) -> None:
    secret = new_secret()
    row = CredentialRow(secret_hash(secret), "c_1", "acme", "points:read points:write", False)
    async with api_pool(database_url, WORKER, "state") as pool:
        credentials = Credentials("an-admin-key-of-the-tests-0001", pool)
        await credentials.refresh(pool)
        assert await credentials.find(secret) is None
        await save(owner, row)
        await save(owner, row)
        loaded = await owner.fetch(CREDENTIALS.load, [row.secret_hash, "other"])
        assert [CredentialRow(*one) for one in loaded] == [row]
        found = await credentials.find(secret)
        assert found is not None
        assert (found.tenant, found.scopes) == ("acme", frozenset({"points:read", "points:write"}))
        await save(owner, row._replace(revoked=True))
        await credentials.refresh(pool)
        assert await credentials.find(secret) is None


def test_the_row_has_the_migrations_columns_in_order() -> None:
    lines = [line.split()[0] for line in MIGRATION.read_text().splitlines() if line.startswith("    ")]
    assert tuple(lines[:-1]) == CREDENTIALS.columns
