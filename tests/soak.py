"""The long proof: a thousand simulator seeds, and crash rounds on each log. `make soak` runs it as it stands.

    python -m tests.soak --seeds 200 --rounds 4 --log postgres
    python -m tests.soak --seeds 0 --round 17 --log kafka

The second line runs one round again, by its seed. The exit code is 0 when everything held, 1 when something did not,
and 2 when it held but proves too little: a point that nobody died at, a counter that stayed at 0.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.embedded_postgres import THROWAWAY, EmbeddedPostgres
from shared.testing.kafka_rungs import KafkaNotRun, KafkaRung, climb
from shared.testing.simulator.soak import simulate_seeds
from tests.crash.notes import Defect
from tests.crash.rounds import Round, Site, crash_round, missing

HELD, FAILED, VOID = 0, 1, 2
SEEDS: Final = 1_000
ROUNDS: Final = 20
SIMULATED: Final = ("tests.simulator.every:run_seed",)
"""What the seeds are run over, as `module:function`."""


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"simulator seeds; default {SEEDS}")
    parser.add_argument("--first", type=int, default=0, help="the first seed, of the simulator and of the rounds")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"crash rounds on each log; default {ROUNDS}")
    parser.add_argument("--round", type=int, help="one round again, by its seed")
    parser.add_argument("--log", choices=("postgres", "kafka", "both"), default="both")
    given = parser.parse_args(arguments)
    began = time.monotonic()
    seeds = [given.round] if given.round is not None else list(range(given.first, given.first + given.rounds))
    results = [_simulate(given.first, given.seeds)] if given.seeds else []
    if seeds and given.log in ("postgres", "both"):
        results.append(_on_postgres(seeds))
    if seeds and given.log in ("kafka", "both"):
        results.append(_on_kafka(seeds))
    code = FAILED if FAILED in results else max(results, default=VOID)
    verdict = {HELD: "everything held", FAILED: "NOT everything held", VOID: "held, but proves too little"}[code]
    say(f"soak: {verdict}, {time.monotonic() - began:.0f} s")
    return code


def _simulate(first: int, seeds: int) -> int:
    results = []
    for run in SIMULATED:
        summary = simulate_seeds(first, seeds, run=run, told=say)
        for line in summary.lines():
            say(line)
        void = summary.totals.void()
        for reason in void:
            say(f"proves too little: {reason}")
        results.append(FAILED if not summary.clean else VOID if void else HELD)
    return FAILED if FAILED in results else max(results)


def _on_postgres(seeds: Sequence[int]) -> int:
    with _postgres() as url:
        return _rounds(Site(url), seeds)


def _on_kafka(seeds: Sequence[int]) -> int:
    """Where no Kafka runs this says so; with REGULARS_REQUIRE=kafka that is a failure."""
    try:
        rung: KafkaRung = climb()
    except KafkaNotRun as reason:
        say(f"Kafka: NOT RUN ({reason})")
        return FAILED if "kafka" in os.environ.get("REGULARS_REQUIRE", "").split(",") else HELD
    say(f"Kafka: {rung.name}")
    try:
        with _postgres() as url:
            return _rounds(Site(url, rung), seeds)
    finally:
        rung.stop()


def _rounds(site: Site, seeds: Sequence[int]) -> int:
    done: list[Round] = []
    failed = 0
    for seed in seeds:
        try:
            done.append(asyncio.run(crash_round(site, seed)))
            say(done[-1].line())
        except Defect as defect:
            failed += 1
            say(f"FAILED: {defect}\nagain: python -m tests.soak --seeds 0 --round {seed}")
    void = missing(done)
    name = "Kafka" if site.kafka else "Postgres log"
    say(f"{name}: {len(done)} of {len(seeds)} rounds held")
    if void:
        say(f"{name}: proves too little, not seen: {', '.join(void)}")
    return FAILED if failed else VOID if void else HELD


@contextmanager
def _postgres() -> Iterator[str]:
    """A throwaway server's URL."""
    directory = Path(tempfile.mkdtemp(prefix="regulars-soak-"))
    server = EmbeddedPostgres(directory / "postgres", THROWAWAY)
    try:
        yield server.start()
    finally:
        server.stop(immediate=True)
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
