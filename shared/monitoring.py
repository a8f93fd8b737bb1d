"""How far the workers are: sampled for `/readyz`, for Prometheus and for the log's own lag tools; and their upkeep.

Nothing here decides anything, and nothing that fails here stops a worker.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from shared.http.health import Check
from shared.http.serve import Background
from shared.log.port import EVENTS, At, Log, LogError, inbox
from shared.log.postgres import PostgresLog
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.store import StoreError
from shared.runtime.worker import Worker
from shared.telemetry import Metric, Metrics

SAMPLE_SECONDS: Final = 5.0
UPKEEP_SECONDS: Final = 3600.0
BEHIND_RECORDS_MAX: Final = 100_000
"""Waiting records of one worker above which `/readyz` fails."""

WORKER_STEPS: Final = Metric(
    "regulars_worker_steps_total",
    "counter",
    ("worker", "step"),
    "Steps of the batch loop, and events decided by type.",
)
WORKER_WAITING: Final = Metric(
    "regulars_worker_waiting_records",
    "gauge",
    ("worker", "input"),
    "Records of inbox and stream that the worker has not answered or applied yet.",
)
WORKER_PARTITIONS: Final = Metric(
    "regulars_worker_partitions", "gauge", ("worker",), "Partitions that this process runs."
)
WORKER_ALARMS: Final = Metric(
    "regulars_worker_alarms", "gauge", ("worker",), "Partitions that stand still in this process until a person acts."
)
WORKER_METRICS: Final[tuple[Metric, ...]] = (WORKER_STEPS, WORKER_WAITING, WORKER_PARTITIONS, WORKER_ALARMS)

log = logging.getLogger("regulars.monitoring")


@dataclass(eq=False)
class Watched:
    """One worker as seen from this process; `worker` is None where only its API runs."""

    name: str
    store: PostgresStore
    worker: Worker | None = None
    waiting: int = 0
    counted: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Monitor:
    """Samples every few seconds; also tells the log how far each worker has read."""

    log: Log
    watched: Sequence[Watched]
    partitions: int
    metrics: Metrics
    generation: int = 1
    """Of the inboxes."""

    def checks(self) -> dict[str, Check]:
        """For `/readyz`: database, log, and of each worker its alarms and how far it is behind."""
        found: dict[str, Check] = {"database": self._database, "log": self._log}
        for one in self.watched:
            found[one.name] = _check_of(one)
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """The background task of a process."""
        while not stop.is_set():
            for one in self.watched:
                with suppress(StoreError, LogError):
                    await self.sample(one)
            await _until(stop, SAMPLE_SECONDS)

    async def sample(self, one: Watched) -> None:
        """Read how far a worker is. Raises StoreError, LogError."""
        reached = [await one.store.reached(q) for q in range(self.partitions)]
        asked = {At(inbox(one.name, self.generation), each.partition): each.inbox for each in reached}
        events = {At(EVENTS, each.partition): each.events for each in reached}
        ends = await self.log.ends([*asked, *events])
        behind = {
            name: sum(max(0, ends[at] - offset) for at, offset in offsets.items())
            for name, offsets in (("inbox", asked), ("stream", events))
        }
        one.waiting = sum(behind.values())
        for name, records in behind.items():
            self.metrics.set(WORKER_WAITING, records, worker=one.name, input=name)
        if one.worker is not None:
            self._count(one, one.worker)
            await self.log.report(f"regulars.{one.name}", asked | events)

    def _count(self, one: Watched, worker: Worker) -> None:
        now = Counter(worker.counters)
        for step, amount in (now - one.counted).items():
            self.metrics.count(WORKER_STEPS, amount, worker=one.name, step=step)
        one.counted = now
        self.metrics.set(WORKER_PARTITIONS, len(worker.owned()), worker=one.name)
        self.metrics.set(WORKER_ALARMS, len(worker.alarms), worker=one.name)

    async def _database(self) -> str:
        for one in self.watched:
            await one.store.now()
        return ""

    async def _log(self) -> str:
        await self.log.ends([At(EVENTS, 0)])
        return ""


def _check_of(one: Watched) -> Check:
    async def check() -> str:
        alarms: Mapping[int, str] = {} if one.worker is None else one.worker.alarms
        found = [f"partition {q}: {why}" for q, why in sorted(alarms.items())]
        if one.waiting > BEHIND_RECORDS_MAX:
            found.append(f"{one.waiting} records behind: start more workers")
        return "; ".join(found)

    return check


def upkeep(stores: Sequence[PostgresStore], used: Log) -> Background:
    """Every hour: the outbox's parts are made and dropped, letterboxes are cut to their retention."""

    async def run(stop: asyncio.Event) -> None:
        while not stop.is_set():
            for store in stores:
                await _attempt("outbox", store.maintain)
            if isinstance(used, PostgresLog):
                await _attempt("letterboxes", used.trim)
            await _until(stop, UPKEEP_SECONDS)

    return run


async def _attempt(what: str, work: Callable[[], Awaitable[object]]) -> None:
    try:
        done = await work()
    except (StoreError, LogError) as error:
        log.warning("upkeep is put off", extra={"what": what}, exc_info=error)
    else:
        log.debug("upkeep", extra={"what": what, "done": done})


async def _until(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
