"""Migrations and roles on a real Postgres."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from shared.runtime.migrations import (
    MACHINERY_SQL,
    REPLAY_ROLE,
    STATE_SQL,
    MigrationRefused,
    migrate,
    migrate_worker,
    open_to_replay,
    quoted,
    read_migrations,
)

SERVICE_SQL = """-- Two tables of a service, one with rows of tenants.
create table wallets (tenant text, wallet text, primary key (tenant, wallet));
alter table wallets enable row level security;
create policy one_tenant on wallets using (tenant = current_setting('regulars.tenant', true));
create table steps (number bigint generated always as identity primary key, what text not null default 'it''s; $1');
"""


@pytest.fixture
async def database(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service's folder of migrations."""
    (tmp_path / "0001_wallets.sql").write_text(SERVICE_SQL)
    return tmp_path


async def tables(database: "asyncpg.Connection[asyncpg.Record]", schema: str) -> set[str]:
    records = await database.fetch("select tablename from pg_tables where schemaname = $1", schema)
    return {str(record["tablename"]) for record in records}


async def test_files_are_applied_once_in_order(database: "asyncpg.Connection[asyncpg.Record]", service: Path) -> None:
    first = await migrate(database, "points", (STATE_SQL, service))
    assert first == [*(path.name for path in sorted(STATE_SQL.glob("*.sql"))), "0001_wallets.sql"]
    assert {"subjects", "requests", "clocks", "parked", "wallets", "migrations"} <= await tables(database, "points")
    assert await migrate(database, "points", (STATE_SQL, service)) == []
    (service / "0002_names.sql").write_text("-- Names.\nalter table wallets add name text;\n")
    assert await migrate(database, "points", (STATE_SQL, service)) == ["0002_names.sql"]
    records = await database.fetch("select name, description from points.migrations where name like '%names%'")
    assert [tuple(record) for record in records] == [("0002_names.sql", "Names.")]
    assert await database.fetchval("show search_path") == '"$user", public'


async def test_the_same_files_make_a_scratch_schema(
    database: "asyncpg.Connection[asyncpg.Record]", service: Path
) -> None:
    await migrate(database, "points", (STATE_SQL, service))
    await migrate(database, "points_scratch", (STATE_SQL, service))
    assert await tables(database, "points_scratch") == await tables(database, "points")
    assert await tables(database, "public") == set()


async def test_an_edited_file_is_refused_with_advice(
    database: "asyncpg.Connection[asyncpg.Record]", service: Path
) -> None:
    await migrate(database, "points", (service,))
    (service / "0001_wallets.sql").write_text(SERVICE_SQL + "create table more (id int);\n")
    (service / "0002_names.sql").write_text("-- Names.\ncreate table names (id int);\n")
    with pytest.raises(MigrationRefused, match=r"0001_wallets\.sql was edited .* as a new file"):
        await migrate(database, "points", (service,))
    assert "names" not in await tables(database, "points")


async def test_a_file_that_fails_leaves_nothing(database: "asyncpg.Connection[asyncpg.Record]", service: Path) -> None:
    (service / "0002_broken.sql").write_text("-- Broken.\ncreate table names (id int);\ncreate table names (id int);\n")
    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(database, "points", (service,))
    assert await tables(database, "points") == set()


async def test_a_newer_releases_files_are_passed_over(
    database: "asyncpg.Connection[asyncpg.Record]", service: Path
) -> None:
    newer = service / "0002_names.sql"
    newer.write_text("-- Names.\nalter table wallets add name text;\n")
    await migrate(database, "points", (service,))
    newer.unlink()
    assert await migrate(database, "points", (service,)) == []


async def test_two_starters_do_not_race(database_url: str, service: Path) -> None:
    connections = [await asyncpg.connect(database_url) for _ in range(4)]
    done = await asyncio.gather(*(migrate_worker(connection, "points", (service,)) for connection in connections))
    names = [name for applied in done for name in applied]
    assert len(names) == len(set(names)) > 2
    for connection in connections:
        await connection.close()


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("0001_wallets.sql", "create table wallets (id int);\n", "one-line description"),
        ("1_wallets.sql", "-- Wallets.\n", "NNNN_what.sql"),
        ("0001_Wallets.sql", "-- Wallets.\n", "NNNN_what.sql"),
    ],
)
def test_a_file_says_what_it_is(tmp_path: Path, name: str, text: str, advice: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MigrationRefused, match=advice):
        read_migrations((tmp_path,))


def test_one_name_in_two_folders_or_none_at_all_is_refused(
    service: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(MigrationRefused, match="two folders"):
        read_migrations((service, service))
    with pytest.raises(MigrationRefused, match=r"no \.sql files"):
        read_migrations((service, empty))


def test_a_checksum_does_not_depend_on_line_ends(service: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    windows = tmp_path_factory.mktemp("windows")
    (windows / "0001_wallets.sql").write_bytes(SERVICE_SQL.replace("\n", "\r\n").encode())
    assert read_migrations((windows,))[0].checksum == read_migrations((service,))[0].checksum


@pytest.mark.parametrize("name", ["", "Points", 'a"; drop schema b; --', "1a", "a-b", "a" * 64, "ä"])
def test_an_unusual_identifier_is_refused(name: str) -> None:
    with pytest.raises(MigrationRefused, match="is no name"):
        quoted(name)


def test_a_usual_identifier_is_quoted() -> None:
    assert quoted("points_machinery") == '"points_machinery"'


class TestRoles:
    async def test_the_api_role_reads_one_tenant_and_how_far_the_worker_is(
        self, database: "asyncpg.Connection[asyncpg.Record]", service: Path
    ) -> None:
        await migrate_worker(database, "points", (service,))
        await database.execute("insert into points.wallets values ('acme', 'a'), ('other', 'b')")
        await database.execute("insert into points.clocks values (0, 'acme', now()), (0, 'other', now())")
        await database.execute("set role points_api")
        assert await database.fetch("select * from points.wallets") == []
        async with database.transaction():
            await database.fetchval("select set_config('regulars.tenant', 'acme', true)")
            assert [tuple(row) for row in await database.fetch("select * from points.wallets")] == [("acme", "a")]
            assert [row["tenant"] for row in await database.fetch("select tenant from points.clocks")] == ["acme"]
        assert await database.fetch("select * from points.wallets") == []
        for table in ("positions", "relays", "answers"):
            assert await database.fetch("select * from points_machinery." + table) == []

    @pytest.mark.parametrize(
        "forbidden",
        [
            "insert into points.wallets values ('acme', 'z')",
            "delete from points.wallets",
            "select * from points_machinery.outbox",
            "update points_machinery.positions set version = 1",
            "create table points.mine (id int)",
        ],
    )
    async def test_the_api_role_writes_nothing(
        self, database: "asyncpg.Connection[asyncpg.Record]", service: Path, forbidden: str
    ) -> None:
        await migrate_worker(database, "points", (service,))
        await database.execute("set role points_api")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.execute(forbidden)

    async def test_every_state_table_with_a_tenant_is_bound_by_row_level_security(
        self, database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        await migrate_worker(database, "points")
        records = await database.fetch(
            "select relname, relrowsecurity from pg_class join pg_attribute on attrelid = pg_class.oid"
            " where relnamespace = 'points'::regnamespace and relkind = 'r' and attname = 'tenant'"
        )
        assert {record["relname"]: record["relrowsecurity"] for record in records} == {
            "subjects": True,
            "requests": True,
            "clocks": True,
            "parked": True,
        }

    async def test_the_replay_role_writes_scratch_and_cannot_read_the_live_schema(
        self, database: "asyncpg.Connection[asyncpg.Record]", service: Path
    ) -> None:
        await migrate_worker(database, "points", (service,))
        await migrate(database, "points_scratch", (STATE_SQL, service))
        await open_to_replay(database, "points_scratch")
        await database.execute("set role " + REPLAY_ROLE)
        await database.execute("insert into points_scratch.steps (what) values ('one')")
        for schema in ("points", "points_machinery"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await database.fetch("select * from " + schema + ".migrations")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.execute("create table points_scratch.mine (id int)")

    async def test_a_login_without_the_right_to_make_roles_gets_advice(
        self, database: "asyncpg.Connection[asyncpg.Record]"
    ) -> None:
        name = await database.fetchval("select current_database()")
        owner, worker = "owner_" + name, "worker_" + name
        await database.execute("create role " + quoted(owner))
        await database.execute("grant create on database " + quoted(name) + " to " + quoted(owner))
        try:
            await database.execute("set role " + quoted(owner))
            with pytest.raises(MigrationRefused, match="as a superuser run"):
                await migrate_worker(database, worker)
        finally:
            await database.execute("reset role")
            await database.execute("drop owned by " + quoted(owner))
            await database.execute("drop role " + quoted(owner))


def test_the_machinery_and_the_state_do_not_share_a_tables_name() -> None:
    made = [
        {line.split()[2] for line in migration.sql.splitlines() if line.startswith("create table ")}
        for folder in (STATE_SQL, MACHINERY_SQL)
        for migration in read_migrations((folder,))
    ]
    names = [name for each in made for name in each]
    assert len(names) == len(set(names)) >= 10
