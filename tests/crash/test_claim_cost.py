"""What it costs a worker to take its partitions again: the stream behind what its relays acknowledged is not read.

A restart that read the whole stream would take longer with every event that was ever recorded, and the leases of a
short test, or of a busy machine, would be over before the partitions run.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from shared.keyring import Keyring
from shared.log.port import EVENTS, PARTITIONS, At, Entry, Log, Reader, Record, inbox
from shared.log.postgres import PostgresLog
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.turn import Context
from shared.runtime.worker import Worker, key_publisher
from shared.sealing import MasterKey
from shared.service import in_background, migrate, topics
from shared.settings import Settings
from tests.crash.process import SERVICES, plan_of
from tests.crash.rounds import ADMIN_KEY, MASTER_KEY
from tests.crash.waiting import until

LONG = 600
WITHIN_SECONDS = 30.0


class CountingReader:
    """A reader that counts the records of the stream."""

    def __init__(self, reader: Reader, log: "CountingLog") -> None:
        self._reader, self._log = reader, log
        self.wait, self.close = reader.wait, reader.close

    async def take(self, at: At, most: int) -> list[Record]:
        found = await self._reader.take(at, most)
        self._log.read += len(found) if at.topic == EVENTS else 0
        return found


class CountingLog(PostgresLog):
    """The Postgres log; `read` counts the stream's records that its readers gave out."""

    read = 0

    async def reader(self, positions: Mapping[At, int]) -> Any:
        return CountingReader(await super().reader(positions), self)


async def letters(log: Log, count: int) -> None:
    """Inputs that nobody can read: each becomes one parked fact on its own partition."""
    for number in range(count):
        await log.append(At(inbox("points"), number % PARTITIONS), [Entry(b"acme/litter", b"no JSON")])


@asynccontextmanager
async def points_worker(url: str, log: Log, owner: str) -> AsyncIterator[None]:
    _, plan = plan_of("points")
    master = MasterKey(MASTER_KEY)
    store = await PostgresStore.open(url, plan.name)
    keyring = Keyring(master, os.urandom, lambda: datetime.now(UTC))
    context = Context(plan.rules(master), keyring.seal_model, keyring.seal, PARTITIONS)
    worker = Worker(context, log, store, owner, publish_keys=key_publisher(log, keyring))
    stop = asyncio.Event()
    running = asyncio.ensure_future(in_background(worker)(stop))
    try:
        yield
    finally:
        stop.set()
        await running
        await store.close()


async def test_a_worker_that_starts_again_does_not_read_the_stream_again(database_url: str) -> None:
    settings = Settings("all", database_url, database_url, MASTER_KEY, ADMIN_KEY, "127.0.0.1", 0, "warning")
    for service in SERVICES:
        await migrate(service, settings)
    log = CountingLog(database_url)
    try:
        await log.set_up(topics(SERVICES))
        written = 0

        async def recorded() -> bool:
            ends = await log.ends([At(EVENTS, q) for q in range(PARTITIONS)])
            return sum(ends.values()) == written

        for owner, count in (("first", LONG), ("second", LONG), ("third", PARTITIONS)):
            log.read = 0
            async with points_worker(database_url, log, owner):
                await letters(log, count)
                written += count
                assert await until(recorded, WITHIN_SECONDS)
        assert log.read <= 4 * PARTITIONS, f"{log.read} records of the stream were read to record {PARTITIONS}"
    finally:
        await log.close()
