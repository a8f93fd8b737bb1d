"""Many seeds, over several processes, and one seed again.

    python -m shared.testing.simulator.soak --seed 17
    python -m shared.testing.simulator.soak --first 1000 --count 200 --run tests.simulator.every:run_seed

`--run` names the function that runs one seed (`shared.testing.simulator.outcome.RunSeed`); left out, the toy workers'.
The exit code is 0 when all seeds are clean, 1 when one is not, 2 when they prove too little.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple, cast

from shared.testing.simulator.loop import SimulationStuck
from shared.testing.simulator.outcome import NEEDED, RunSeed, Totals
from shared.testing.simulator.stream import LawBroken

TOY: Final = "shared.testing.simulator.toy.run:run_seed"
CHUNK: Final = 4
"""Seeds that one process runs before it reports."""

SHOWN: Final = ("batches", *NEEDED, "backlog_rows", "duplicate_requests")


class Found(NamedTuple):
    """A seed that is not clean."""

    seed: int
    what: str


class Chunk(NamedTuple):
    """What some consecutive seeds showed."""

    totals: Totals
    found: list[Found]


@dataclass
class Summary:
    """What a set of seeds showed: `first` to `last`, all of them."""

    run: str
    first: int
    last: int = -1
    totals: Totals = field(default_factory=Totals)
    found: list[Found] = field(default_factory=list)
    elapsed_seconds: float = 0.0

    @property
    def seeds(self) -> int:
        return self.last - self.first + 1

    @property
    def clean(self) -> bool:
        return not self.found

    def lines(self) -> list[str]:
        """For people: which seeds, what befell them, how to see one again."""
        totals, tally = self.totals, self.totals.tally
        told = [f"seeds {self.first}..{self.last}: {'clean' if self.clean else f'{len(self.found)} NOT clean'}"]
        told.append(
            f"  {self.seeds} seeds in {self.elapsed_seconds:.0f} s: {totals.steps} steps, {totals.seconds:.0f} virtual "
            f"seconds, {totals.events} events, {totals.answers} answers, {totals.reads} reads"
        )
        told.append(
            f"  {tally.killed.total()} kills at {len(tally.killed)} of {len(tally.passed)} points, "
            f"{tally.failed.total()} lost connections, {tally.stalled.total()} stalls, {tally.dropped} announcements "
            f"dropped, {tally.repeated} suffixes repeated, {tally.left} workers left, {tally.lost} databases lost"
        )
        told.append("  " + ", ".join(f"{totals.counters[name]} {name}" for name in SHOWN))
        for seed, what in self.found:
            told.append(f"seed {seed}: {what}")
            told.append(f"  again: python -m shared.testing.simulator.soak --run {self.run} --seed {seed}")
        return told


def run_of(name: str) -> RunSeed:
    """The function `module:function`."""
    module, _, function = name.partition(":")
    return cast("RunSeed", getattr(importlib.import_module(module), function))


def simulate_seeds(
    first: int,
    most: int,
    *,
    run: str = TOY,
    processes: int | None = None,
    budget_seconds: float | None = None,
    told: Callable[[str], None] = lambda _line: None,
) -> Summary:
    """Run seeds from `first` on, in order: `most` of them, or as many as begin within the budget.

    `told` hears of each seed that is not clean, as soon as it is known.
    """
    began = time.monotonic()
    workers = processes or os.cpu_count() or 1
    summary = Summary(run, first)

    def may_begin(seed: int) -> bool:
        in_time = budget_seconds is None or time.monotonic() - began < budget_seconds
        return seed < first + most and in_time

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: list[tuple[int, Future[Chunk]]] = []
        for start in count(first, CHUNK):
            while len(running) >= 2 * workers or (running and not may_begin(start)):
                end, future = running.pop(0)
                _take(summary, end, future.result(), told)
            if not may_begin(start):
                break
            end = min(start + CHUNK, first + most)
            running.append((end, pool.submit(run_chunk, run, range(start, end))))
    summary.elapsed_seconds = time.monotonic() - began
    return summary


def _take(summary: Summary, end: int, chunk: Chunk, told: Callable[[str], None]) -> None:
    summary.last = end - 1
    summary.totals.add(chunk.totals)
    summary.found += chunk.found
    for found in chunk.found:
        told(f"seed {found.seed}: {found.what}")


def run_chunk(run: str, seeds: Sequence[int]) -> Chunk:
    """Run some seeds in this process."""
    run_seed, chunk = run_of(run), Chunk(Totals(), [])
    for seed in seeds:
        try:
            chunk.totals.take(run_seed(seed))
        except (LawBroken, SimulationStuck) as error:
            chunk.found.append(Found(seed, f"{type(error).__name__}: {error}"))
        except Exception as error:  # a seed that ends otherwise is a finding, too, and the others go on
            chunk.found.append(Found(seed, f"{type(error).__name__}: {error!r}"))
    return chunk


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m shared.testing.simulator.soak", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one seed, in this process")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--processes", type=int, help="default: one for each core")
    parser.add_argument("--run", default=TOY, metavar="MODULE:FUNCTION")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        outcome = run_of(given.run)(given.seed)
        _write(f"seed {given.seed}: clean, trace {outcome.trace}, {outcome.steps} steps, {outcome.events} events")
        _write(f"  {outcome.plan}")
        return 0
    summary = simulate_seeds(given.first, given.count, run=given.run, processes=given.processes, told=_write)
    for line in summary.lines():
        _write(line)
    void = summary.totals.void()
    for reason in void:
        _write(f"proves too little: {reason}")
    return 1 if not summary.clean else 2 if void else 0


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
