"""Each planted bug is found within SEEDS_MAX seeds, and as what it is; without one the same seeds are clean."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shared.runtime.rules import Rules
from shared.testing.simulator.plan import Plan
from shared.testing.simulator.stream import LawBroken
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.others import ClockRules
from shared.testing.simulator.toy.run import run_seed, toy_rules
from shared.testing.simulator.workers import make_worker
from tests.simulator.planted import (
    AcceptsRepeats,
    AnswersEarly,
    Careless,
    Forgetful,
    Mixing,
    TwoTransactions,
    over,
    with_partitions,
)

pytestmark = pytest.mark.slow

SEEDS_MAX = 100

QUIET = Plan(
    0,
    partitions=2,
    batch_max=7,
    requests=40,
    yield_chance=0.3,
    delay_chance=0.02,
    delay_seconds_max=0.1,
    restart_seconds_max=3.0,
)
CRASHES = replace(QUIET, crash_chance=0.002, crashes_max=8)
STALLS = replace(CRASHES, workers=2, stall_chance=0.002, stalls_max=3)
REPEATS = replace(QUIET, repeat_chance=0.2)


def mixing() -> Sequence[Rules]:
    return [ToyRules(), Mixing(), ClockRules()]


KNOWN = {
    "the position moves before the effects": 8,
    "own and foreign events in one table": 4,
    "the version check is skipped": 1,
}
"""Where to begin: a seed that is known to find it. The others follow, and then those before."""

PLANTED = {
    "a sequence not above the last is accepted": (
        REPEATS,
        with_partitions(AcceptsRepeats),
        toy_rules,
        "law 3: partition . at .* has seen|law 6: .* which is a repetition",
    ),
    "the position moves before the effects": (CRASHES, over(TwoTransactions), toy_rules, "law [23]:|law 9: .* Hole"),
    "answered before the log has acknowledged": (
        QUIET,
        with_partitions(AnswersEarly),
        toy_rules,
        "law 2: .* was answered with .* which is not in the log",
    ),
    "own and foreign events in one table": (QUIET, make_worker, mixing, "law 4: watched"),
    "timers are dropped": (QUIET, over(Forgetful), toy_rules, "law 9: .* is due since"),
    "the version check is skipped": (STALLS, over(Careless), toy_rules, "law [2368]"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    plan, make, rules, law = PLANTED[bug]
    found: list[str] = []
    for seed in sorted(range(SEEDS_MAX), key=lambda seed: seed < KNOWN.get(bug, 0)):
        try:
            run_seed(seed, plan=replace(plan, seed=seed), make=make, rules=rules())
        except LawBroken as broken:
            found.append(str(broken))
            if re.search(law, found[-1]):
                return
    pytest.fail(f"not found within {SEEDS_MAX} seeds: {found}")


@pytest.mark.parametrize("plan", [QUIET, CRASHES, STALLS, REPEATS], ids=["quiet", "crashes", "stalls", "repeats"])
def test_without_a_planted_bug_the_same_seeds_are_clean(plan: Plan) -> None:
    for seed in range(2):
        assert run_seed(seed, plan=replace(plan, seed=seed)).answers
