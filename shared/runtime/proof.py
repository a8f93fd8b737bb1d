"""`verify` and `rebuild`: state is what the stream folds to, or it is wrong (DESIGN §8).

`verify` takes digests, positions and own sequences in one snapshot, replays into a scratch schema as a role that
cannot read the live one, and compares every column of every state table. `rebuild` makes the state, and where each
partition goes on, from the stream alone: the one way back from a lost or an older database.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson

from shared.log.port import EVENTS, Log
from shared.runtime.migrations import (
    REPLAY_ROLE,
    STATE_SQL,
    Connection,
    close_to_replay,
    grant_reading,
    machinery_schema_of,
    migrate,
    open_to_replay,
    quoted,
)
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.replay import Bounds, Replayed, Survey, bounds_of, replay, restarts, survey
from shared.runtime.rules import Rules
from shared.runtime.state import TABLES
from shared.runtime.store import Position
from shared.runtime.tables import Table

RELAY_LOOK_SECONDS: Final = 0.05
RELAY_LOOKS_MAX: Final = 400
DIGEST_TABLE: Final = "select row_count, digest from digest_of($1)"
SELECT_POSITIONS: Final = "select partition, version, offsets::text, seen::text, sequences::text from positions"
SELECT_SENT: Final = "select partition, target, sequence from relays"
SELECT_LEASED: Final = "select owner from leases where leased_until > clock_timestamp() limit 1"


class NotProvable(Exception):
    """Verify or rebuild cannot start now; the message says what to do."""


@dataclass(frozen=True)
class TableProof:
    """One table, live and replayed."""

    table: str
    rows: int
    live: str
    replayed: str

    @property
    def equal(self) -> bool:
        return self.live == self.replayed


@dataclass
class Proof:
    """What verify found. Equal only when every table is, and something was folded."""

    worker: str
    tables: list[TableProof] = field(default_factory=list)
    events_folded: int = 0

    @property
    def equal(self) -> bool:
        return self.events_folded > 0 and all(table.equal for table in self.tables)


@dataclass(frozen=True)
class Database:
    """Where a worker's state is, and what makes its schema."""

    url: str
    worker: str
    sql_folders: Sequence[Path]
    partitions: int

    @property
    def scratch(self) -> str:
        return f"{self.worker}_scratch"


async def digests(connection: Connection, rules: Rules) -> dict[str, tuple[int, str]]:
    """(rows, digest) of every state table of this connection's search_path."""
    found = {}
    tables: Sequence[Table[Any]] = (*TABLES, *rules.tables)
    for table in tables:
        row = await connection.fetchrow(DIGEST_TABLE, table.name)
        assert row is not None
        found[table.name] = (int(row["row_count"]), str(row["digest"]))
    return found


async def positions(connection: Connection) -> dict[int, Position]:
    """All position rows of this connection's machinery."""
    return {
        int(row["partition"]): Position(
            row["partition"],
            row["version"],
            orjson.loads(row["offsets"]),
            orjson.loads(row["seen"]),
            {int(target): sequence for target, sequence in orjson.loads(row["sequences"]).items()},
        )
        for row in await connection.fetch(SELECT_POSITIONS)
    }


async def unpublished(connection: Connection, at: Mapping[int, Position]) -> int:
    """How many events that were committed at these positions the log has not acknowledged."""
    sent = {(row["partition"], row["target"]): int(row["sequence"]) for row in await connection.fetch(SELECT_SENT)}
    committed = {(q, target): last for q, row in at.items() for target, last in row.sequences.items()}
    return sum(max(0, last - sent.get(place, 0)) for place, last in committed.items())


async def verify(database: Database, rules: Rules, log: Log) -> Proof:
    """Replay up to where the worker is and compare. Waits for its relay; raises NotProvable when that takes long."""
    at, before = await _snapshot(database, rules)
    bounds = Bounds(
        {q: position.offsets.get(EVENTS, 0) for q, position in at.items()},
        {
            (f"{rules.worker}.{q}", target): sequence
            for q, position in at.items()
            for target, sequence in position.sequences.items()
        },
    )
    async with _scratch(database) as store:
        done = await replay(rules, log, store, database.partitions, bounds)
        async with _connect(database, database.scratch) as scratch:
            after = await digests(scratch, rules)
    proof = Proof(database.worker, events_folded=sum(done.folded.values()))
    for name, (rows, digest) in before.items():
        proof.tables.append(TableProof(name, rows, digest, after[name][1]))
    return proof


async def _snapshot(database: Database, rules: Rules) -> tuple[dict[int, Position], dict[str, tuple[int, str]]]:
    """Positions and digests of one instant, once all that was committed by then is published."""
    async with _connect(database, database.worker) as live:
        async with live.transaction(isolation="repeatable_read", readonly=True):
            at, found = await positions(live), await digests(live, rules)
        for _ in range(RELAY_LOOKS_MAX):
            if not await unpublished(live, at):
                return at, found
            await asyncio.sleep(RELAY_LOOK_SECONDS)
    raise NotProvable(f"{database.worker} has events that are not published: start its worker, then try again")


async def rebuild(database: Database, rules: Rules, log: Log) -> Replayed:
    """Make state and positions from the stream alone and swap them in. Raises NotProvable while a worker runs."""
    async with _connect(database, database.worker) as live:
        owner = await live.fetchval(SELECT_LEASED)
        if owner is not None:
            raise NotProvable(f"{database.worker} is running as {owner}: stop its workers, then rebuild")
    found = await survey(rules, log, database.partitions)
    async with _scratch(database) as store:
        done = await replay(rules, log, store, database.partitions, bounds_of(found), found.letters)
        async with _connect(database, database.worker) as live, live.transaction():
            await _adopt(live, database, rules, found, done)
    return done


CLEAR_OUTBOX: Final = "delete from outbox"
CLEAR_RELAYS: Final = "delete from relays"
CLEAR_ANSWERS: Final = "delete from answers"
SAVE_POSITION: Final = """
insert into positions (partition, version, offsets, seen, sequences)
values ($1, 1, $2::text::jsonb, $3::text::jsonb, $4::text::jsonb)
on conflict (partition) do update
set version = positions.version + 1, offsets = excluded.offsets, seen = excluded.seen, sequences = excluded.sequences
"""
INSERT_RELAY: Final = "insert into relays (partition, target, sequence, next_offset) values ($1, $2, $3, $4)"
INSERT_OUTBOX: Final = """
insert into outbox (partition, target, sequence, "group", letter, key, value)
values ($1, $2, $3, $4, $5, $6, $7)
"""


async def _adopt(live: Connection, database: Database, rules: Rules, found: Survey, done: Replayed) -> None:
    """Swap the scratch schema in and set every partition's position, relay record and missing letters."""
    for statement in (CLEAR_OUTBOX, CLEAR_RELAYS, CLEAR_ANSWERS):
        await live.execute(statement)
    old, new = quoted(database.worker), quoted(database.scratch)
    await live.execute("drop schema " + old + " cascade")
    await live.execute("alter schema " + new + " rename to " + old)
    await close_to_replay(live, database.worker)
    await grant_reading(live, database.worker, database.worker, machinery_schema_of(database.worker))
    for position, sent, outbox in restarts(rules, found, done, database.partitions):
        q = position.partition
        for target, last in sent.items():
            await live.execute(INSERT_RELAY, q, target, *last)
        for row in outbox:
            await live.execute(INSERT_OUTBOX, *row)
        parts = (position.offsets, position.seen, position.sequences)
        await live.execute(SAVE_POSITION, q, *(orjson.dumps(_texts(part)).decode() for part in parts))


def _texts(part: Mapping[Any, int]) -> dict[str, int]:
    return {str(key): value for key, value in part.items()}


@asynccontextmanager
async def _connect(database: Database, state_schema: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    path = ", ".join((quoted(state_schema), quoted(machinery_schema_of(database.worker))))
    connection = await asyncpg.connect(database.url, server_settings={"search_path": path, "timezone": "UTC"})
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def _scratch(database: Database) -> AsyncIterator[PostgresStore]:
    """A store over a fresh scratch schema, folding as the replay role. The schema is dropped unless it was adopted."""
    name = quoted(database.scratch)
    async with _connect(database, database.worker) as connection:
        await connection.execute("drop schema if exists " + name + " cascade")
        await migrate(connection, database.scratch, (STATE_SQL, *database.sql_folders))
        await open_to_replay(connection, database.scratch)
        store = await PostgresStore.open(database.url, database.worker, state_schema=database.scratch, role=REPLAY_ROLE)
        try:
            yield store
        finally:
            await store.close()
            await connection.execute("drop schema if exists " + name + " cascade")
