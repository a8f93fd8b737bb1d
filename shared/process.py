"""One process of an installation: some services in one role on one port, and everything around them in order.

`python -m services.points worker` and the all-in-one `regulars up` are this, with one service and with all of them.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Literal

from fastapi import APIRouter, FastAPI

from shared.http.admission import Admission, Limits
from shared.http.app import build_app
from shared.http.credentials import Credentials
from shared.http.health import Check
from shared.http.serve import Background, serve
from shared.log.port import PARTITIONS, Log
from shared.monitoring import WORKER_METRICS, Monitor, Watched, upkeep
from shared.runtime.postgres_store import PostgresStore
from shared.service import (
    Service,
    in_background,
    known_credentials,
    opened_access,
    opened_log,
    opened_workers,
    refreshing,
)
from shared.settings import Settings, SettingsError
from shared.telemetry import CATALOGUE, Metrics

Role = Literal["all", "api", "worker"]
TITLE: Final = "Regulars"

log = logging.getLogger("regulars.process")


@dataclass(frozen=True)
class Part:
    """A service of this process, and its settings."""

    service: Service
    settings: Settings


@dataclass(frozen=True)
class Apart:
    """The workers of one service of this process, where they run in another one that this one looks after."""

    service: str
    run: Background
    check: Check


@dataclass
class _Running:
    """What is gathered while the parts are opened one by one."""

    routers: list[APIRouter] = field(default_factory=list)
    background: dict[str, Background] = field(default_factory=dict)
    watched: list[Watched] = field(default_factory=list)
    credentials: Credentials | None = None


async def run_process(
    parts: Sequence[Part],
    role: Role,
    *,
    started: Callable[[int], None] = lambda _: None,
    limits: Limits | None = None,
    partitions: int = PARTITIONS,
    apart: Sequence[Apart] = (),
) -> None:
    """Serve until SIGTERM or SIGINT: last the requests that run, then the batches, then the leases.

    Host and port are the first part's. `started` is called with the port once it listens. Raises SettingsError when
    the parts name different logs, BackgroundDied when a worker ends by itself, PortTaken, OSError.
    """
    settings = parts[0].settings
    if len({part.settings.log_url for part in parts}) > 1:
        raise SettingsError("one process has one log: give all its services the same REGULARS_LOG_URL")
    metrics = Metrics(CATALOGUE + WORKER_METRICS)
    async with AsyncExitStack() as stack:
        used = await stack.enter_async_context(opened_log(settings, [part.service for part in parts]))
        running = _Running()
        for one in apart:
            running.background[f"workers of {one.service}"] = one.run
        for part in parts:
            works = role != "api" and all(one.service != part.service.name for one in apart)
            await _open(stack, running, part, used, partitions, works=works, answers=role != "worker")
        monitor = Monitor(used, running.watched, partitions, metrics, settings.inbox_generation)
        running.background["monitor"] = monitor.run
        if role != "api":
            running.background["upkeep"] = upkeep([one.store for one in running.watched], used)
        checks = monitor.checks() | {f"workers of {one.service}": one.check for one in apart}
        app = _app(running, settings, checks, metrics, limits)
        log.info("starting", extra={"services": [part.service.name for part in parts], "role": role})
        await serve(app, settings.host, settings.port, running.background, started=started)
    log.info("ended")


async def _open(
    stack: AsyncExitStack, running: _Running, part: Part, used: Log, partitions: int, *, works: bool, answers: bool
) -> None:
    """`works`: its workers run here; `answers`: its API does."""
    service, settings = part.service, part.settings
    workers = {}
    if works:
        opened = await stack.enter_async_context(opened_workers(service, settings, used, partitions=partitions))
        workers = {plan.name: worker for plan, worker in zip(service.workers, opened, strict=True)}
        running.background |= {f"worker {name}": in_background(worker) for name, worker in workers.items()}
    for plan in service.workers:
        store = await PostgresStore.open(settings.database_url, plan.name)
        stack.push_async_callback(store.close)
        running.watched.append(Watched(plan.name, store, workers.get(plan.name)))
    if answers:
        access = await stack.enter_async_context(opened_access(service, settings, used, partitions=partitions))
        for name, worker in workers.items():
            worker.tell_here(access.fronts[name].hear)
        running.routers += service.routers(access)
        if running.credentials is None:
            running.credentials = known_credentials(service, settings, access)
            pool = access.pools[service.credentials_worker]
            running.background["credentials"] = refreshing(running.credentials, pool)


def _app(
    running: _Running, settings: Settings, checks: Mapping[str, Check], metrics: Metrics, limits: Limits | None
) -> FastAPI:
    return build_app(
        TITLE,
        running.routers,
        credentials=running.credentials or Credentials(settings.admin_key),
        admission=Admission(limits or Limits(), time.monotonic, metrics),
        metrics=metrics,
        checks=checks,
    )
