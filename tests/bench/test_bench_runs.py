"""A tiny run of `python -m bench`: every figure is printed and counts what was sent. How fast it was is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVENTS = 60
SECONDS_MAX = 300
FIGURES = {
    "bare append": EVENTS,
    "bare copy": EVENTS,
    "bare answer": EVENTS,
    "door": EVENTS,
    "door to ledger": EVENTS,
    "bare answer at 20/s": 10,
    "redemption at 20/s": 10,
}
PROOFS = ("verify door", "verify points", "rebuild door", "rebuild points")


@pytest.mark.server
def test_one_run_prints_every_figure() -> None:
    command = [sys.executable, "-m", "bench", "--quick", "--events", str(EVENTS), "--rate", "20", "--seconds", "0.5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    figures = said["figures"]

    assert figures.keys() == {*FIGURES, *PROOFS}
    assert {name: figures[name]["events"] for name in FIGURES} == FIGURES
    assert all(each["value"] > 0 for each in figures.values())
    assert figures["redemption at 20/s"]["facts"].keys() == {"p99_ms", "late"}
    assert figures["door to ledger"]["cpu_seconds"].keys() == {"server", "bare server", "postgres", "client"}
    assert figures["verify door"]["events"] >= EVENTS
    assert figures["verify points"]["events"] >= 3 * EVENTS  # of a purchase: itself, what rules said, what it earned
    assert all(ratio > 0 for ratio in said["ratios"].values())
    assert said["log"] == "postgres"
    for name in figures:
        assert f"│ {name} " in done.stdout
