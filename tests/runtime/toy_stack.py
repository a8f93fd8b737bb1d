"""The toy workers on a real Postgres and a real log, in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from shared.events.catalogue import Data, type_of
from shared.events.envelope import Event
from shared.log.lanes import Lanes
from shared.log.open import open_log
from shared.log.port import EVENTS, KEYS, Log, Topic, inbox
from shared.runtime.front import Asked, Front
from shared.runtime.migrations import migrate_worker
from shared.runtime.partition import Tuning
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.proof import Database
from shared.runtime.relay import Point, no_point
from shared.runtime.rules import Rules
from shared.runtime.turn import Context, seal_nothing
from shared.runtime.worker import Worker, no_keys
from shared.testing.simulator import toy
from shared.testing.simulator.loop import EPOCH
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.others import BonusRules, ClockRules

PARTITIONS = 12
RULES: Sequence[Rules] = (ToyRules(), BonusRules(), ClockRules())


@dataclass
class Running:
    """Workers, and the way to them."""

    url: str
    log_url: str
    log: Log
    folder: Path
    fronts: dict[str, Front] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)

    def database(self, worker: str) -> Database:
        return Database(self.url, worker, (self.folder,), PARTITIONS)

    async def ask(self, worker: str, tenant: str, subject: str, key: str, data: Data) -> Asked:
        """Ask and wait for the outcome."""
        event = Event(
            key,
            "/test",
            type_of(data).name,
            tenant,
            subject,
            EPOCH,
            data,
            request_key=key,
            request_hash=str(hash(data)),
        )
        asked = await self.fronts[worker].ask(event, 20)
        assert asked.outcome is not None, f"{data} was not decided in time: {[w.alarms for w in self.workers]}"
        return asked

    async def settled(self) -> None:
        """Wait until every worker has applied the whole stream, and what that caused."""
        known: dict[int, int] = {}
        while (ends := await self.ends()) != known:
            known = ends
            for front in self.fronts.values():
                assert await front.wait(inbox={}, events=ends, wait_seconds=20), (
                    f"{front.worker} is not at {ends}: {front._reached} {[w.alarms for w in self.workers]}"
                )

    async def ends(self) -> dict[int, int]:
        from shared.runtime.replay import stream_ends

        return await stream_ends(self.log, PARTITIONS)


def toy_folder(directory: Path) -> Path:
    """The toy workers' schema as a folder of migrations."""
    folder = directory / "sql"
    folder.mkdir(exist_ok=True)
    text = (Path(toy.__file__).parent / "toy.sql").read_text()
    (folder / "0002_toy.sql").write_text(text)
    return folder


async def set_up(url: str, log_url: str, folder: Path) -> None:
    """Topics and schemas."""
    log = open_log(log_url)
    names = [EVENTS, KEYS, *(inbox(rules.worker) for rules in RULES)]
    topics = [Topic(name, compacted=name == KEYS, retention_days=30 if "inbox" in name else None) for name in names]
    await log.set_up(topics)
    await log.check(topics)
    await log.close()
    connection = await asyncpg.connect(url)
    for rules in RULES:
        await migrate_worker(connection, rules.worker, (folder,))
    await connection.close()


@asynccontextmanager
async def running(
    url: str,
    log_url: str,
    folder: Path,
    *,
    batch_max: int = 1000,
    copies: int = 1,
    point: Point = no_point,
    rules: Sequence[Rules] = RULES,
    lease_seconds: float = 5.0,
) -> AsyncIterator[Running]:
    """All toy workers, `copies` processes' worth of each, until the block ends."""
    async with AsyncExitStack() as stack:
        log = open_log(log_url)
        stack.push_async_callback(log.close)
        lanes = Lanes(log)
        stack.push_async_callback(lanes.close)
        found = Running(url, log_url, log, folder)
        tasks: list[asyncio.Task[None]] = []
        for each in rules:
            for copy in range(copies):
                store = await PostgresStore.open(url, each.worker)
                stack.push_async_callback(store.close)
                context = Context(each, seal_nothing, lambda _t, _s, text: text, PARTITIONS)
                worker = Worker(
                    context,
                    log,
                    store,
                    f"{each.worker}-{copy}",
                    publish_keys=no_keys,
                    tuning=Tuning(batch_max=batch_max, lease_seconds=lease_seconds),
                    point=point,
                )
                found.workers.append(worker)
                tasks.append(asyncio.create_task(worker.run()))
            store = await PostgresStore.open(url, each.worker)
            stack.push_async_callback(store.close)
            front = Front(each.worker, log, lanes, store, partitions=PARTITIONS)
            await front.open()
            stack.push_async_callback(front.close)
            found.fronts[each.worker] = front
        try:
            yield found
        finally:
            for worker in found.workers:
                worker.stop()
            await asyncio.gather(*tasks)


async def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for a condition of this process."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.01)
