"""The check on skipping readers must catch a log that skips: offsets from a plain sequence, taken before the commit."""

import asyncio
from collections.abc import Mapping, Sequence

import asyncpg
import pytest

from shared.log.port import At, Entry, Record, Topic
from tests.log.reading import assert_readers_skip_nothing, new_topic


class PlainSequenceLog:
    """The mistake that many outboxes make. It looks like a log and loses records of whoever commits late.

    A transaction stays open for some milliseconds now and then, as one does on a busy disk.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        self._appends = 0

    CREATE = """
    create table if not exists plain (
        "offset" bigint generated always as identity (start with 0 minvalue 0) primary key, value bytea,
        appended_at timestamptz default clock_timestamp()
    )
    """

    async def set_up(self, topics: Sequence[Topic]) -> None:
        await self._pool.execute(self.CREATE)

    async def check(self, topics: Sequence[Topic]) -> None:
        """Sees nothing wrong."""

    APPEND = """
    insert into plain (value) select * from unnest($1::bytea[]) returning "offset"
    """
    DAWDLE = """
    select pg_sleep(0.02)
    """

    async def append(self, at: At, entries: Sequence[Entry]) -> int:
        self._appends += 1
        dawdles = self._appends % 3 == 0
        async with self._pool.acquire() as connection, connection.transaction():
            offset: int = await connection.fetchval(self.APPEND, [entry.value for entry in entries])
            if dawdles:
                await connection.execute(self.DAWDLE)
        return offset

    async def reader(self, positions: Mapping[At, int]) -> "PlainSequenceReader":
        return PlainSequenceReader(self._pool, positions)

    async def ends(self, at: Sequence[At]) -> dict[At, int]:
        return dict.fromkeys(at, 0)

    async def starts(self, at: Sequence[At]) -> dict[At, int]:
        return dict.fromkeys(at, 0)

    async def report(self, group: str, positions: Mapping[At, int]) -> None:
        """Tells nobody."""

    async def close(self) -> None:
        """The test owns the pool."""


class PlainSequenceReader:
    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", positions: Mapping[At, int]) -> None:
        self._pool = pool
        self._positions = dict(positions)

    READ = """
    select "offset", value, appended_at from plain where "offset" >= $1 order by "offset" limit $2
    """

    async def wait(self, timeout_seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        position = max(self._positions.values())
        while asyncio.get_running_loop().time() < deadline:
            if await self._pool.fetch(self.READ, position, 1):
                return True
        return False

    async def take(self, at: At, most: int) -> list[Record]:
        rows = await self._pool.fetch(self.READ, self._positions[at], most)
        if rows:
            self._positions[at] = rows[-1][0] + 1
        return [Record(at, offset, b"k", value, moment) for offset, value, moment in rows]

    async def close(self) -> None:
        """Nothing is open."""


async def test_the_check_catches_a_log_on_a_plain_sequence(database_url: str) -> None:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=8) as pool:
        log = PlainSequenceLog(pool)
        with pytest.raises(AssertionError, match="the reader skipped"):
            await assert_readers_skip_nothing([log], new_topic(), patience_seconds=0.5)
