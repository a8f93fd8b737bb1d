"""The README's five-minute tour, run as written against a server of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
READY_SECONDS_MAX = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Path]]:
    """(base URL, var directory) of `regulars up`."""
    directory = Path(tempfile.mkdtemp(prefix="regulars-tour-"))
    var = directory / "var"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGULARS_")}
    log = directory / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "regulars", "--var", str(var), "up", "--port", "0"],
            env=environment,
            stdout=file,
            stderr=file,
        )
    try:
        yield _listening(process, log), var
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        shutil.rmtree(directory)


def _listening(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        found = re.search(r"listens on (http://[0-9.:]+)", log.read_text())
        if found and httpx.get(f"{found[1]}/readyz").status_code == 200:
            return found[1]
    raise AssertionError(log.read_text())


@pytest.mark.server
def test_the_tour_does_what_it_says(server: tuple[str, Path]) -> None:
    base, var = server
    tour = "\n".join(re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S))
    assert "http://127.0.0.1:8080" in tour
    script = (
        tour.replace("http://127.0.0.1:8080", base)
        .replace("var/admin.key", str(var / "admin.key"))
        .replace("var/headers", str(var / "headers"))
        .replace(".venv/bin/regulars verify", f"{sys.executable} -m regulars --var {var} verify")
    )
    done = subprocess.run(["bash", "-eu", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    assert said.count('"balance_after":400') == 2, "the repeated redemption has the same answer"
    assert len(set(re.findall(r'"redemption":"(\w+)"', said))) == 1
    assert '"type":"/problems/not-enough-points"' in said
    assert '"level":"silver"' in said
    assert '"rule":"yuan"' in said
    assert '"balanced":true' in said
    for worker in ("door", "contacts", "points"):
        assert f"{worker}: equal" in said
