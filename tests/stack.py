"""Whole services in this process: embedded Postgres, a real log, real workers, one API over all their routers."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

import httpx
from fastapi import FastAPI

from shared.http.admission import Admission, Limits
from shared.http.app import build_app
from shared.http.credentials import Credentials
from shared.http.serve import Background
from shared.log.port import PARTITIONS, Log
from shared.runtime.partition import Tuning
from shared.runtime.proof import Proof, verify
from shared.runtime.worker import Worker
from shared.sealing import MasterKey
from shared.service import (
    Access,
    Service,
    in_background,
    known_credentials,
    migrate,
    opened_access,
    opened_log,
    opened_workers,
    refreshing,
)
from shared.settings import Settings
from shared.telemetry import Metrics

ADMIN_KEY = "an-admin-key-of-the-tests-0001"
MASTER_KEY = bytes(range(32))
STOP_SECONDS = 20
ROOMY = Limits(rate_per_second=100_000, burst=100_000, concurrent=2_000)


@dataclass
class Stack:
    """Running services. `client` sends no credential; `as_key` sends one."""

    client: httpx.AsyncClient
    app: FastAPI
    services: Sequence[Service]
    settings: Settings
    log: Log
    workers: Mapping[str, Worker]
    access: Mapping[str, Access]
    credentials: Credentials
    _stopping: asyncio.Event
    _running: Sequence[asyncio.Future[None]]

    def as_key(self, key: str) -> httpx.AsyncClient:
        """A client with this API key; it needs no closing."""
        headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=20"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://stack", headers=headers)

    @property
    def operator(self) -> httpx.AsyncClient:
        return self.as_key(ADMIN_KEY)

    async def tenant(self, tenant: str, **settings: Any) -> httpx.AsyncClient:
        """Create a tenant; a client with its first API key, which has all scopes."""
        body = {"tenant": tenant, "name": tenant.title(), "zone": "UTC", "currency": "USD", **settings}
        answer = await self.operator.post("/v1/tenants", json=body)
        assert answer.status_code == 201, answer.text
        return self.as_key(answer.json()["api_key"])

    async def stop(self) -> None:
        """The workers finish their batches, relay them and leave; a second call does nothing."""
        self._stopping.set()
        done, late = await asyncio.wait(self._running, timeout=STOP_SECONDS)
        for task in done:
            task.result()
        assert not late, f"did not stop: {late}"

    async def proofs(self) -> list[Proof]:
        """Stop, and compare every worker's state with what the stream folds to."""
        await self.stop()
        master = MasterKey(self.settings.master_key)
        return [
            await verify(service.database(plan, self.settings, PARTITIONS), plan.rules(master), self.log)
            for service in self.services
            for plan in service.workers
        ]

    async def assert_proven(self) -> None:
        """No partition stood still, and every worker that recorded something is equal to its replay."""
        alarms = {name: dict(worker.alarms) for name, worker in self.workers.items() if worker.alarms}
        assert not alarms, alarms
        for proof in await self.proofs():
            wrong = [table for table in proof.tables if not table.equal]
            assert not wrong, f"{proof.worker}: {wrong}"
            assert proof.equal, f"{proof.worker}: nothing was folded"


@asynccontextmanager
async def running_stack(
    database_url: str, services: Sequence[Service], log_url: str | None = None, tuning: Tuning | None = None
) -> AsyncIterator[Stack]:
    """Migrate, open and run these services until the block ends; the first one's copy of the API keys is asked."""
    settings = Settings(
        service="all",
        database_url=database_url,
        log_url=log_url or database_url,
        master_key=MASTER_KEY,
        admin_key=ADMIN_KEY,
        host="127.0.0.1",
        port=0,
        log_level="info",
    )
    async with AsyncExitStack() as exits:
        log = await exits.enter_async_context(opened_log(settings, services))
        access: dict[str, Access] = {}
        workers: dict[str, Worker] = {}
        for service in services:
            await migrate(service, settings)
            opened = opened_workers(service, settings, log, partitions=PARTITIONS, tuning=tuning)
            for worker in await exits.enter_async_context(opened):
                workers[worker.owner.partition("@")[0]] = worker
            access[service.name] = await exits.enter_async_context(
                opened_access(service, settings, log, partitions=PARTITIONS)
            )
            for name, front in access[service.name].fronts.items():
                workers[name].tell_here(front.hear)
        first = services[0]
        credentials = known_credentials(first, settings, access[first.name])
        pool = access[first.name].pools[first.credentials_worker]
        background: dict[str, Background] = {name: in_background(worker) for name, worker in workers.items()}
        background["credentials"] = refreshing(credentials, pool)
        metrics = Metrics()
        app = build_app(
            "Regulars",
            [router for service in services for router in service.routers(access[service.name])],
            credentials=credentials,
            admission=Admission(ROOMY, monotonic, metrics),
            metrics=metrics,
            checks={},
        )
        client = await exits.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stack")
        )
        stopping = asyncio.Event()
        running = [asyncio.ensure_future(one(stopping)) for one in background.values()]
        stack = Stack(client, app, services, settings, log, workers, access, credentials, stopping, running)
        exits.push_async_callback(stack.stop)
        yield stack
