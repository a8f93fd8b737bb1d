"""The seeds of CI: as many as fit in three minutes, all clean, and together they have seen enough."""

import os
import sys

import pytest

from shared.testing.simulator.outcome import Totals
from shared.testing.simulator.soak import main, run_chunk, simulate_seeds
from tests.simulator.every import RUN, run_seed

FIRST = 1000
FLOOR = 200
"""So many seeds must run, or the machine is too slow for its answer to count."""
MOST = 100_000
BUDGET_SECONDS = float(os.environ.get("REGULARS_SEEDS_SECONDS", "145"))
"""Seeds begin within this time; those that have begun are run to their ends."""
BROKE_A_LAW_ONCE = (1289, 1456)
NOT_A_RUN = "tests.simulator.test_sim_seeds:raises"


def raises(seed: int) -> None:
    raise ValueError(f"no seed at all: {seed}")


@pytest.mark.slow
def test_as_many_seeds_as_fit_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    summary = simulate_seeds(FIRST, MOST, run=RUN, budget_seconds=BUDGET_SECONDS)
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(summary.lines()) + "\n")
    assert summary.clean, "\n".join(summary.lines())
    assert summary.seeds >= FLOOR
    assert summary.totals.seeds == summary.seeds
    assert not summary.totals.void()


@pytest.mark.parametrize("seed", BROKE_A_LAW_ONCE)
def test_a_seed_that_broke_a_law_once_is_clean(seed: int) -> None:
    run_seed(seed)


def test_a_set_of_seeds_in_which_nothing_happened_is_void() -> None:
    assert "conflicts is 0" in Totals().void()
    assert "databases lost: 0" in Totals().void()


def test_a_seed_that_is_not_clean_is_named_with_the_command_that_runs_it_again() -> None:
    summary = simulate_seeds(17, 2, run=NOT_A_RUN, processes=1)
    assert not summary.clean
    assert [found.seed for found in summary.found] == [17, 18]
    assert f"  again: python -m shared.testing.simulator.soak --run {NOT_A_RUN} --seed 18" in summary.lines()


def test_a_chunk_goes_on_behind_a_seed_that_is_not_clean() -> None:
    assert [found.seed for found in run_chunk(NOT_A_RUN, range(3)).found] == [0, 1, 2]


def test_one_seed_runs_again_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert main(["--seed", "3"]) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("seed 3: clean, trace ")
