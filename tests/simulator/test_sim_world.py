"""Whole runs of the toy workers on the real runtime: repeatable, and clean when all is right."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from shared.testing.simulator.plan import Plan
from shared.testing.simulator.toy.run import run_seed

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
    repeat_chance=0.1,
    restart_seconds_max=3.0,
    leaves_max=1,
    losses_max=1,
)


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_whatever_the_hash_seed_is() -> None:
    here = run_seed(11, plan=ROUGH)
    assert here.tally.killed.total() > 0
    assert here.tally.failed.total() > 0
    assert here.tally.lost > 0
    script = (
        "from tests.simulator.test_sim_world import ROUGH\n"
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
    outcome = run_seed(4, plan=Plan(4, workers=workers, partitions=partitions, batch_max=7, requests=100))
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
