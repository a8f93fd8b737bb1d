"""A service as processes run it: its workers, its API, and one way to open and close what both need.

`services/<service>/__main__.py` describes itself as a `Service`; `shared.command` and the all-in-one server run it.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
from fastapi import APIRouter

from shared.http.credentials import Credentials
from shared.http.database import api_pool
from shared.http.serve import Background
from shared.keyring import Keyring
from shared.log.lanes import Lanes
from shared.log.open import open_log
from shared.log.port import EVENTS, KEYS, Log, Topic, inbox
from shared.runtime.front import Front
from shared.runtime.migrations import migrate_worker
from shared.runtime.partition import Tuning
from shared.runtime.postgres_session import LOST
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.proof import Database
from shared.runtime.rules import Rules
from shared.runtime.turn import Context
from shared.runtime.worker import Worker, key_publisher
from shared.sealing import MasterKey
from shared.settings import Settings

INBOX_RETENTION_DAYS: Final = 30
CREDENTIALS_SQL: Final = Path(__file__).parent / "http" / "sql"
CREDENTIALS_REFRESH_SECONDS: Final = 5.0


@dataclass(frozen=True)
class WorkerPlan:
    """One worker of a service: how its rules are made and which SQL folders make its state schema."""

    name: str
    rules: Callable[[MasterKey], Rules]
    sql: Sequence[Path]


@dataclass(frozen=True)
class Access:
    """What an API may use: the way to each of its workers, and reading pools bound to one tenant at a time."""

    fronts: Mapping[str, Front]
    pools: Mapping[str, "asyncpg.Pool[asyncpg.Record]"]
    master: MasterKey
    now: Callable[[], datetime]


@dataclass(frozen=True)
class Service:
    """A service and everything that is its own."""

    name: str
    workers: Sequence[WorkerPlan]
    routers: Callable[[Access], Sequence[APIRouter]]
    credentials_worker: str
    """Whose state schema holds this service's copy of the credentials."""

    def database(self, plan: WorkerPlan, settings: Settings, partitions: int) -> Database:
        return Database(settings.database_url, plan.name, plan.sql, partitions)


def topics(services: Sequence[Service], generation: int = 1) -> list[Topic]:
    """Every topic these services use."""
    names = [plan.name for service in services for plan in service.workers]
    return [
        Topic(EVENTS),
        Topic(KEYS, compacted=True),
        *(Topic(inbox(name, generation), retention_days=INBOX_RETENTION_DAYS) for name in names),
    ]


@asynccontextmanager
async def opened_log(settings: Settings, services: Sequence[Service]) -> AsyncIterator[Log]:
    """The log of these settings, its topics made where they are missing and checked. Raises TopicUnsafe."""
    log = open_log(settings.log_url)
    try:
        wanted = topics(services, settings.inbox_generation)
        await log.set_up(wanted)
        await log.check(wanted)
        yield log
    finally:
        await log.close()


async def migrate(service: Service, settings: Settings) -> list[str]:
    """Bring all schemas of a service up to date; returns what was applied now."""
    done: list[str] = []
    connection = await asyncpg.connect(settings.database_url)
    try:
        for plan in service.workers:
            done += await migrate_worker(connection, plan.name, plan.sql)
    finally:
        await connection.close()
    return done


def owner_name() -> str:
    """Names this process in leases and logs."""
    return f"{socket.gethostname()}-{os.getpid()}"


@asynccontextmanager
async def opened_workers(
    service: Service, settings: Settings, log: Log, *, partitions: int, tuning: Tuning | None = None
) -> AsyncIterator[list[Worker]]:
    """The service's workers, ready to run: their stores close at the end."""
    master = MasterKey(settings.master_key)
    tuning = tuning or Tuning(generation=settings.inbox_generation)
    async with AsyncExitStack() as stack:
        workers = []
        for plan in service.workers:
            store = await PostgresStore.open(settings.database_url, plan.name)
            stack.push_async_callback(store.close)
            keyring = Keyring(master, os.urandom, lambda: datetime.now(UTC))
            context = Context(plan.rules(master), keyring.seal_model, keyring.seal, partitions)
            publish = key_publisher(log, keyring)
            name = f"{plan.name}@{owner_name()}"
            workers.append(Worker(context, log, store, name, publish_keys=publish, tuning=tuning))
        yield workers


def in_background(worker: Worker) -> Background:
    """The worker as a background task of a process: ends in order when the process is asked to."""

    async def run(stop: asyncio.Event) -> None:
        running = asyncio.create_task(worker.run())
        asked = asyncio.create_task(stop.wait())
        await asyncio.wait((running, asked), return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        asked.cancel()
        await running

    return run


@asynccontextmanager
async def opened_access(service: Service, settings: Settings, log: Log, *, partitions: int) -> AsyncIterator[Access]:
    """What the service's API needs."""
    async with AsyncExitStack() as stack:
        fronts: dict[str, Front] = {}
        pools: dict[str, asyncpg.Pool[asyncpg.Record]] = {}
        lanes = Lanes(log)
        stack.push_async_callback(lanes.close)
        for plan in service.workers:
            store = await PostgresStore.open(settings.database_url, plan.name)
            stack.push_async_callback(store.close)
            front = Front(plan.name, log, lanes, store, partitions=partitions, generation=settings.inbox_generation)
            await front.open()
            stack.push_async_callback(front.close)
            fronts[plan.name] = front
            pools[plan.name] = await stack.enter_async_context(api_pool(settings.database_url, plan.name, plan.name))
        yield Access(fronts, pools, MasterKey(settings.master_key), lambda: datetime.now(UTC))


def known_credentials(service: Service, settings: Settings, access: Access) -> Credentials:
    """The API keys as this service's own database knows them."""
    return Credentials(settings.admin_key, access.pools[service.credentials_worker])


def refreshing(credentials: Credentials, pool: Any) -> Background:
    """Read all live keys now and every few seconds: a revoked key ends; all stay while the database is away."""

    async def run(stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(*LOST, asyncpg.PostgresError, asyncpg.InterfaceError):
                await credentials.refresh(pool)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), CREDENTIALS_REFRESH_SECONDS)

    return run
