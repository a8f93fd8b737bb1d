"""Bare floors, measured in the same run: what log, database and HTTP cost with nothing of ours around them."""

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import httpx

from bench.load import opened_client, posted, send_all, succeeded
from shared.log.open import open_log
from shared.log.port import PARTITIONS, At, Entry, Log, Topic

FLOOR: Final = "bench.floor"
BATCH: Final = 500
AT_ONCE: Final = 4

CREATE_ROWS = """
create table if not exists bench_rows (
    partition int not null, "offset" bigint not null, key bytea not null, value bytea not null,
    primary key (partition, "offset")
)
"""
EMPTY_ROWS = "truncate bench_rows"


class Floors:
    """One round's floors; each returns seconds."""

    def __init__(self, log: Log, database: "asyncpg.Connection[asyncpg.Record]", bare: httpx.AsyncClient) -> None:
        self._log, self._database, self._bare = log, database, bare

    async def append(self, values: Sequence[bytes]) -> float:
        """Append the values to a topic, 500 at a time, to one partition after the other."""
        began = time.perf_counter()
        for nth, batch in enumerate(_batches(values)):
            await self._log.append(At(FLOOR, nth % PARTITIONS), [Entry(b"bench", value) for value in batch])
        return time.perf_counter() - began

    async def copy(self, values: Sequence[bytes]) -> float:
        """COPY the values into a table with a sequential key, 500 a transaction."""
        await self._database.execute(EMPTY_ROWS)
        began, offset = time.perf_counter(), 0
        for nth, batch in enumerate(_batches(values)):
            rows = [(nth % PARTITIONS, offset + place, b"bench", value) for place, value in enumerate(batch)]
            offset += len(rows)
            await self._database.copy_records_to_table("bench_rows", records=rows)
        return time.perf_counter() - began

    async def answer(self, bodies: Sequence[bytes]) -> float:
        """POST the bodies to a server that reads them and answers their length."""
        began = time.perf_counter()
        await send_all(self._bare, "/", bodies, AT_ONCE, {"Content-Type": "application/json"}, lambda _: None)
        return time.perf_counter() - began

    async def answer_one(self, body: bytes) -> None:
        succeeded(await posted(self._bare, "/", body, {}))


def _batches(values: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for at in range(0, len(values), BATCH):
        yield values[at : at + BATCH]


@asynccontextmanager
async def opened_floors(database_url: str, log_url: str, bare_url: str) -> AsyncIterator[Floors]:
    """The floors' own topic, table and connections."""
    log = open_log(log_url)
    database = await asyncpg.connect(database_url)
    try:
        await log.set_up([Topic(FLOOR, retention_days=1)])
        await database.execute(CREATE_ROWS)
        async with opened_client(bare_url, {}) as bare:
            yield Floors(log, database, bare)
    finally:
        await database.close()
        await log.close()
