"""`python -m bench`: throughput, latency and rebuild of a real installation, beside bare floors, in one run.

It starts its own server, database and log in a directory that it removes again. Reading the figures:
`docs/performance.md`.
"""

import asyncio
import random
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console

from bench.machine import busy, described, fdatasync_microseconds
from bench.measures import BenchWrong
from bench.report import show
from bench.rounds import Plan, Run
from bench.system import running_system
from regulars.cdnow import FileMissing, read_orders
from regulars.client import ProblemError
from shared.embedded_postgres import EmbeddedPostgresError
from shared.testing.native_kafka import KafkaNotRun

EVENTS: Final = 30_000
QUICK_EVENTS: Final = 3_000
SEED: Final = 1
WIDTH: Final = 180


class LogName(StrEnum):
    """The log's engine."""

    postgres = "postgres"
    kafka = "kafka"


Events = Annotated[int, typer.Option(min=3, max=60_000, help="Purchases in all rounds together.")]
Rounds = Annotated[int, typer.Option(min=1, max=100, help="Each measures everything once; figures are medians.")]
Rates = Annotated[list[int], typer.Option("--rate", min=1, max=1_000, help="Redemptions a second; may be given again.")]
Seconds = Annotated[float, typer.Option(min=0.1, max=600, help="Of redemptions at each rate in each round.")]
Quick = Annotated[
    bool, typer.Option(help="A look in under a minute: one round of 3,000, 3 s each rate, no fsync test.")
]


def bench(
    log: Annotated[LogName, typer.Option(help="kafka needs Java 17 and Maven.")] = LogName.postgres,
    events: Events = EVENTS,
    rounds: Rounds = 3,
    rates: Rates = [50, 100],  # noqa: B006  typer copies it
    seconds: Seconds = 10.0,
    quick: Quick = False,
) -> None:
    """Print every figure as a table and one line of JSON."""
    if quick:
        events, rounds, seconds = min(events, QUICK_EVENTS), 1, min(seconds, 3.0)
    console = Console(width=None if Console().is_terminal else WIDTH)
    directory = Path(tempfile.mkdtemp(prefix="regulars-bench-"))
    directory.chmod(0o755)
    try:
        _run(console, directory, log.value, _plan(events, rounds, rates, seconds), quick)
    except (BenchWrong, httpx.TransportError, ProblemError, FileMissing, KafkaNotRun, EmbeddedPostgresError) as error:
        console.print(f"No figures: {type(error).__name__} {error}", style="red", highlight=False)
        raise typer.Exit(1) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _plan(events: int, rounds: int, rates: list[int], seconds: float) -> Plan:
    orders = random.Random(SEED).sample(read_orders(), events)
    return Plan(orders, rounds, rates, seconds)


def _run(console: Console, directory: Path, log: str, plan: Plan, quick: bool) -> None:
    about: dict[str, Any] = {"machine": described(), "load_before": busy()}
    with running_system(directory, log) as system:
        about["log"] = system.log_name
        about["fdatasync_us"] = None if quick else fdatasync_microseconds(system.programs, directory)
        console.print(f"{about['machine']}\nlog {system.log_name}, load before {busy():.1f}", highlight=False)
        if about["fdatasync_us"] is not None:
            console.print(f"fdatasync (pg_test_fsync): {about['fdatasync_us']} us", highlight=False)
        run = Run(system, plan, lambda what: console.print(f"{what} ...", highlight=False))
        asyncio.run(run.measure())
        show(console, run.figures(), {**about, "events": len(plan.orders), "rounds": plan.rounds})


if __name__ == "__main__":
    typer.run(bench)
