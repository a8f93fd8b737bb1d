"""Schemas of a worker: plain SQL files, each applied once per schema, and the roles that may read them.

A worker `points` has a state schema (its service's files after `STATE_SQL`) and a machinery schema `points_machinery`
(`MACHINERY_SQL`). Files write no schema's name: they run with `search_path` set to the one schema, so the same files
make the scratch schema that a replay folds into. A file is `NNNN_what.sql` and opens with a one-line description.
"""

import contextlib
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from shared.runtime.postgres_session import Connection as Connection

STATE_SQL: Final = Path(__file__).parent / "sql" / "state"
MACHINERY_SQL: Final = Path(__file__).parent / "sql" / "machinery"

REPLAY_ROLE: Final = "regulars_replay"
"""Replays facts for `verify` and `rebuild`; it sees scratch schemas and nothing else."""

READABLE_MACHINERY: Final = ("positions", "relays", "answers")
"""What the API role needs of the machinery to tell how far a worker is."""

IDENTIFIER: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
FILE_NAME: Final = re.compile(r"[0-9]{4}_[a-z0-9_]+\.sql")


class MigrationRefused(Exception):
    """The schema was not changed; the message names the file, the role or the name, and says what to do."""


@dataclass(frozen=True)
class Migration:
    """One SQL file. `checksum` is the SHA-256 of its text, so that an edit of an applied one is noticed."""

    name: str
    description: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def quoted(identifier: str) -> str:
    """An identifier for SQL that takes no parameter in its place. Raises MigrationRefused on an unusual one."""
    if not IDENTIFIER.fullmatch(identifier):
        raise MigrationRefused(
            f"{identifier!r} is no name for a schema, table or role: use [a-z][a-z0-9_]*, at most 63"
        )
    return '"' + identifier + '"'


def machinery_schema_of(worker: str) -> str:
    return f"{worker}_machinery"


def api_role_of(worker: str) -> str:
    return f"{worker}_api"


def read_migrations(folders: Sequence[Path]) -> list[Migration]:
    """All files of the folders, folder by folder, each in the order of its numbers. Raises MigrationRefused."""
    found: dict[str, Migration] = {}
    for folder in folders:
        paths = sorted(folder.glob("*.sql"))
        if not paths:
            raise MigrationRefused(f"{folder} holds no .sql files: is the package complete?")
        for path in paths:
            sql = path.read_text(encoding="utf-8").replace("\r\n", "\n")
            first = sql.partition("\n")[0]
            if not FILE_NAME.fullmatch(path.name):
                raise MigrationRefused(f"{path.name}: name it NNNN_what.sql, in lower case")
            if not first.startswith("-- "):
                raise MigrationRefused(f"{path.name}: open it with a one-line description, as in `-- What it makes.`")
            if path.name in found:
                raise MigrationRefused(f"{path.name} is in two folders of one schema: rename the newer one")
            found[path.name] = Migration(path.name, first.removeprefix("-- "), sql)
    return list(found.values())


LOCK_MIGRATIONS = "select pg_advisory_xact_lock(hashtextextended('regulars.migrations', 0))"
SET_SEARCH_PATH = "select set_config('search_path', $1, true)"
CREATE_MIGRATIONS = """
create table if not exists migrations (
    name text primary key,
    description text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp()
)
"""
SELECT_MIGRATIONS = "select name, checksum from migrations"
INSERT_MIGRATION = "insert into migrations (name, description, checksum) values ($1, $2, $3)"


async def migrate(connection: Connection, schema: str, folders: Sequence[Path]) -> list[str]:
    """Bring a schema up to its files and return the names of those that were applied now.

    One transaction under one lock of the database: two starters do not race, and a file that fails leaves nothing.
    Files applied by a newer release are passed over, so that old code starts beside it. Raises MigrationRefused when
    an applied file was edited since.
    """
    name, wanted = quoted(schema), read_migrations(folders)
    async with connection.transaction():
        await connection.execute(LOCK_MIGRATIONS)
        await connection.execute("create schema if not exists " + name)
        await connection.fetchval(SET_SEARCH_PATH, name)
        await connection.execute(CREATE_MIGRATIONS)
        applied = {str(row["name"]): str(row["checksum"]) for row in await connection.fetch(SELECT_MIGRATIONS)}
        new = _not_applied(schema, wanted, applied)
        for migration in new:
            await connection.execute(migration.sql)
            await connection.execute(INSERT_MIGRATION, migration.name, migration.description, migration.checksum)
    return [migration.name for migration in new]


def _not_applied(schema: str, wanted: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    for migration in wanted:
        if migration.name in applied and applied[migration.name] != migration.checksum:
            raise MigrationRefused(
                f"{migration.name} was edited after it was applied to schema {schema}: "
                "put its released text back and write the change as a new file with the next number"
            )
    return [migration for migration in wanted if migration.name not in applied]


async def migrate_worker(
    connection: Connection,
    worker: str,
    folders: Sequence[Path] = (),
    state_schema: str | None = None,
    machinery_schema: str | None = None,
) -> list[str]:
    """Both schemas of a worker, its API role and what that role may read. Raises MigrationRefused.

    `folders` are the service's own; the owner of it all is the role that is connected.
    """
    state, machinery = state_schema or worker, machinery_schema or machinery_schema_of(worker)
    done = await migrate(connection, state, (STATE_SQL, *folders))
    done += await migrate(connection, machinery, (MACHINERY_SQL,))
    await create_role(connection, api_role_of(worker))
    await create_role(connection, REPLAY_ROLE)
    await grant_reading(connection, worker, state, machinery)
    return done


SELECT_ROLE = "select pg_has_role(current_user, oid, 'member') from pg_roles where rolname = $1"


async def create_role(connection: Connection, role: str) -> None:
    """Make the role if it is missing, without login, and let the connected role take it (`set role`)."""
    name = quoted(role)
    member = await connection.fetchval(SELECT_ROLE, role)
    try:
        if member is None:
            # Another starter may make it just now: roles belong to the server, not to the database that is locked.
            with contextlib.suppress(asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
                await connection.execute("create role " + name + " nologin")
            member = await connection.fetchval(SELECT_ROLE, role)
        if not member:
            await connection.execute("grant " + name + " to current_user")
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationRefused(
            f"role {role} cannot be made or taken ({error}): as a superuser run "
            f"`create role {role} nologin; grant {role} to` the role that Regulars connects as"
        ) from error


async def grant_reading(connection: Connection, worker: str, state: str, machinery: str) -> None:
    """Let the worker's API role read the state (row-level security binds it) and how far the worker is.

    Also after a rebuild has swapped in another state schema: grants belong to the schema that went away.
    """
    role, of_state, of_machinery = quoted(api_role_of(worker)), quoted(state), quoted(machinery)
    async with connection.transaction():
        await connection.execute(LOCK_MIGRATIONS)
        await connection.execute("grant usage on schema " + of_state + ", " + of_machinery + " to " + role)
        await connection.execute("grant select on all tables in schema " + of_state + " to " + role)
        for table in READABLE_MACHINERY:
            await connection.execute("grant select on " + of_machinery + "." + quoted(table) + " to " + role)


async def open_to_replay(connection: Connection, schema: str) -> None:
    """Let the replay role fold into this scratch schema."""
    role, name = quoted(REPLAY_ROLE), quoted(schema)
    async with connection.transaction():
        await connection.execute(LOCK_MIGRATIONS)
        await connection.execute("grant usage on schema " + name + " to " + role)
        await connection.execute("grant select, insert, update, delete on all tables in schema " + name + " to " + role)
        await connection.execute("grant usage on all sequences in schema " + name + " to " + role)
        for table in await _policed(connection, schema):
            await connection.execute("alter table " + table + " disable row level security")


async def close_to_replay(connection: Connection, schema: str) -> None:
    """Take the replay role's rights away again and bind readers to their tenant: the schema becomes the live one."""
    role, name = quoted(REPLAY_ROLE), quoted(schema)
    async with connection.transaction():
        await connection.execute(LOCK_MIGRATIONS)
        for kind in ("tables", "sequences"):
            await connection.execute("revoke all on all " + kind + " in schema " + name + " from " + role)
        await connection.execute("revoke all on schema " + name + " from " + role)
        for table in await _policed(connection, schema):
            await connection.execute("alter table " + table + " enable row level security")


SELECT_POLICED = "select distinct tablename from pg_policies where schemaname = $1 order by tablename"


async def _policed(connection: Connection, schema: str) -> list[str]:
    """The schema's tables that have a row-level policy."""
    found = await connection.fetch(SELECT_POLICED, schema)
    return [quoted(schema) + "." + quoted(str(row["tablename"])) for row in found]
