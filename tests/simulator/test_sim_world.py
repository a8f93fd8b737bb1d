"""Whole runs of the toy workers on the real runtime: repeatable, clean when all is right, loud when it is not."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import datetime

import pytest

from shared.events.envelope import Event
from shared.log.port import Log
from shared.runtime.partition import Tuning
from shared.runtime.state import TABLES
from shared.runtime.store import Due, Store, Transaction
from shared.runtime.tables import Need, Rows
from shared.runtime.turn import Context
from shared.runtime.worker import Worker
from shared.testing.memory_store import MemoryStore, MemoryTransaction
from shared.testing.simulator.plan import Plan
from shared.testing.simulator.stream import LawBroken
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.events import Gift, Granted
from shared.testing.simulator.toy.others import BonusRules, ClockRules
from shared.testing.simulator.toy.run import run_seed
from shared.testing.simulator.toy.store import WATCHED, WatchedRow
from shared.testing.simulator.world import MakeWorker, Point, make_worker

SEEDS_MAX = 100

ROUGH = Plan(
    11,
    partitions=2,
    batch_max=7,
    requests=60,
    crash_chance=0.002,
    crashes_max=8,
    fail_chance=0.002,
    fails_max=8,
    yield_chance=0.3,
    delay_chance=0.02,
    delay_seconds_max=0.1,
    drop_chance=0.2,
    restart_seconds_max=3.0,
)


def test_the_same_seed_is_the_same_run_whatever_the_hash_seed_is() -> None:
    here = run_seed(11, plan=ROUGH)
    assert here.tally.killed.total() > 0
    assert here.tally.failed.total() > 0
    script = (
        "import sys; sys.path.insert(0, 'tests/simulator')\n"
        "from test_sim_world import ROUGH\n"
        "from shared.testing.simulator.toy.run import run_seed\n"
        "print(run_seed(11, plan=ROUGH).trace)"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": root}
        there = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=root, check=True, capture_output=True, text=True
        )
        assert int(there.stdout) == here.trace


def test_other_seeds_are_other_runs() -> None:
    assert len({run_seed(seed, plan=replace(ROUGH, seed=seed, requests=10)).trace for seed in range(3)}) == 3


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("partitions", [1, 12])
def test_a_calm_run_keeps_every_law(workers: int, partitions: int) -> None:
    outcome = run_seed(3, plan=Plan(3, workers=workers, partitions=partitions, batch_max=7, requests=60))
    assert outcome.answers > 50
    assert outcome.reads > 50
    assert outcome.counters["parked"] > 0
    assert outcome.counters["duplicate_requests"] > 0
    assert {"deposits", "transfers", "nicknames", "entries", "rates"} <= outcome.rows["toy"].keys()


POINTS = [
    "batch.2",
    "batch.4",
    "batch.6",
    "batch.7",
    "batch.committed",
    "log.append",
    "log.append.durable",
    "log.take",
    "relay.append",
    "relay.acknowledged",
    "store.claim.durable",
    "store.commit",
    "store.committed",
    "store.hold",
    "store.record_sent",
    "store.record_sent.durable",
    "store.save",
    "store.send",
]


@pytest.mark.parametrize("point", POINTS)
def test_a_process_may_die_at_any_named_point(point: str) -> None:
    calm = Plan(5, partitions=2, batch_max=7, requests=15, yield_chance=0.2, restart_seconds_max=2.0)
    outcome = run_seed(5, plan=replace(calm, crash_at=point, crash_visit=5))
    assert outcome.tally.killed == {point: 1}


class AnyVersion(MemoryTransaction):
    """Skips the version check: a stale owner may commit."""

    async def hold(self, partition: int, version: int) -> bool:
        row = self._content.positions.get(partition)
        return await super().hold(partition, version if row is None else row.version)


class Careless(MemoryStore):
    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._careless()

    @asynccontextmanager
    async def _careless(self) -> AsyncIterator[Transaction]:
        async with super().transaction() as real:
            assert isinstance(real, MemoryTransaction)
            yield AnyVersion(real._store, real._done)


class Forgetful(MemoryStore):
    """Drops every timer."""

    async def due(self, partition: int, now: datetime, most: int) -> list[Due]:
        await super().due(partition, now, most)
        return []

    async def next_due(self, partition: int) -> datetime | None:
        await super().next_due(partition)
        return None


def over(kind: type[MemoryStore]) -> MakeWorker:
    """Workers over a broken store."""

    def make(context: Context, log: Log, store: Store, owner: str, tuning: Tuning, point: Point) -> Worker:
        assert isinstance(store, MemoryStore)
        own = [table for table in store.tables.values() if table not in TABLES]
        broken = kind(store.content, store.worker, own, store.clock, point, store.process)
        return make_worker(context, log, broken, owner, tuning, point)

    return make


class Mixing(BonusRules):
    """Folds its own facts into a table that is fed by others."""

    def needs(self, event: Event, partition: int) -> Iterable[Need]:
        yield from super().needs(event, partition)
        if isinstance(event.data, Granted | Gift):
            yield Need(WATCHED, (event.tenant, event.subject))

    def evolve(self, rows: Rows, event: Event) -> None:
        super().evolve(rows, event)
        if isinstance(event.data, Granted):
            seen = rows.get(WATCHED, (event.tenant, event.subject)) or WatchedRow(event.tenant, event.subject)
            rows.put(WATCHED, seen._replace(amount=2 * seen.amount + event.data.amount))


STALLS = replace(ROUGH, workers=2, stall_chance=0.002, stalls_max=3, requests=40)


@pytest.mark.parametrize(
    ("plan", "make", "rules", "law"),
    [
        (STALLS, over(Careless), BonusRules(), "law [2368]"),
        (replace(ROUGH, crash_chance=0.0), over(Forgetful), BonusRules(), "law 9: .* is due since"),
        (replace(ROUGH, crash_chance=0.0), make_worker, Mixing(), "law 4: watched"),
    ],
    ids=["the version check is skipped", "timers are dropped", "own and foreign events in one table"],
)
def test_a_planted_bug_is_found(plan: Plan, make: MakeWorker, rules: BonusRules, law: str) -> None:
    found: list[str] = []
    for seed in range(SEEDS_MAX):
        try:
            run_seed(seed, plan=replace(plan, seed=seed), make=make, rules=[ToyRules(), rules, ClockRules()])
        except LawBroken as broken:
            found.append(str(broken))
            if re.search(law, found[-1]):
                return
    pytest.fail(f"not found within {SEEDS_MAX} seeds: {found}")
