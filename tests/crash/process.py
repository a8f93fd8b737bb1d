"""One process of a crash round: a worker that acts at named points, or the API. The supervisor starts and kills it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from services.contacts.service import SERVICE as CONTACTS
from services.points.service import SERVICE as POINTS
from shared.http.admission import Limits
from shared.http.serve import run
from shared.keyring import Keyring
from shared.log.port import PARTITIONS, LogError
from shared.process import Part, run_process
from shared.runtime.partition import Tuning
from shared.runtime.postgres_session import SessionSettings
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.store import StoreError
from shared.runtime.turn import Context
from shared.runtime.worker import Worker, key_publisher
from shared.sealing import MasterKey
from shared.service import Service, WorkerPlan, opened_log, owner_name
from shared.settings import Settings
from shared.telemetry import log_to_stderr
from tests.crash.acts import Act, Actor, Switch, Tally, Verb

SERVICES: Final[Sequence[Service]] = (CONTACTS, POINTS)
LEASE_SECONDS: Final = 2.0
IDLE_IN_TRANSACTION_SECONDS: Final = 4.5
BATCH_MAX: Final = 40
"""Small, so that a short load makes many batches."""
TUNING: Final = Tuning(batch_max=BATCH_MAX, lease_seconds=LEASE_SECONDS)
BOUNDS: Final = SessionSettings(lock_timeout_seconds=2, idle_in_transaction_seconds=IDLE_IN_TRANSACTION_SECONDS)
ROOMY: Final = Limits(rate_per_second=100_000, burst=100_000, concurrent=2_000)
RECORD_SECONDS: Final = 0.02
NOT_YET: Final = 75
"""Exit code: the database or the log could not be reached at the start; start again (EX_TEMPFAIL of sysexits.h)."""

PartName = Literal["door", "contacts", "points", "api"]


@dataclass(frozen=True)
class Life:
    """One start of one process."""

    part: PartName
    settings: Settings
    acts: tuple[Act, ...]
    tally: Path
    switch: Path
    output: Path


def live(life: Life) -> None:
    """The target of a new process: runs until SIGTERM, or until it kills itself."""
    with life.output.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    log_to_stderr(life.part, "warning")
    try:
        run(_serve(life) if life.part == "api" else _work(life))
    except (LogError, StoreError, ConnectionError) as error:
        sys.stderr.write(f"not yet: {error!r}\n")
        sys.exit(NOT_YET)


async def _serve(life: Life) -> None:
    parts = [Part(service, life.settings) for service in SERVICES]
    await run_process(parts, "api", limits=ROOMY)


def plan_of(name: str) -> tuple[Service, WorkerPlan]:
    """The worker's plan and whose it is."""
    return next((service, plan) for service in SERVICES for plan in service.workers if plan.name == name)


async def _work(life: Life) -> None:
    service, plan = plan_of(life.part)
    master = MasterKey(life.settings.master_key)
    actor = Actor(life.acts, Tally(life.tally), Switch(life.switch), _do)
    async with opened_log(life.settings, [service]) as log:
        store = await PostgresStore.open(life.settings.database_url, plan.name, settings=BOUNDS)
        try:
            keyring = Keyring(master, os.urandom, lambda: datetime.now(UTC))
            worker = Worker(
                Context(plan.rules(master), keyring.seal_model, keyring.seal, PARTITIONS),
                log,
                store,
                f"{plan.name}@{owner_name()}",
                publish_keys=key_publisher(log, keyring),
                tuning=TUNING,
                point=actor.point,
            )
            actor.counters = worker.counters
            await _run(worker, actor)
        finally:
            await store.close()


async def _run(worker: Worker, actor: Actor) -> None:
    told: set[int] = set()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _show_tasks)
    running = asyncio.create_task(worker.run(), name="worker")
    while not running.done():
        await asyncio.wait((running,), timeout=RECORD_SECONDS)
        actor.record()
        for q in worker.alarms.keys() - told:
            told.add(q)
            sys.stderr.write(f"alarm on {worker.owner} partition {q}: {worker.alarms[q]}\n")
            sys.stderr.flush()
    running.result()


def _show_tasks() -> None:
    """For the report of a process that does not end."""
    for task in asyncio.all_tasks():
        if not task.get_name().startswith("Task-"):
            task.print_stack(limit=6, file=sys.stderr)
    sys.stderr.flush()


def _do(verb: Verb) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGKILL if verb == "kill" else signal.SIGSTOP)
