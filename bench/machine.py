"""What the figures were measured on: without it they say nothing."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Final

FDATASYNC: Final = re.compile(r"fdatasync\s+([\d.]+) ops/sec")
SYNC_SECONDS_EACH: Final = 1


def described() -> str:
    """Cores, processor, memory, system and Python."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = "unknown processor"
    if (known := Path("/proc/cpuinfo")).exists() and (found := re.search(r"model name\s*: (.+)", known.read_text())):
        model = found[1]
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {model}, {memory_gib:.0f} GiB, {system}"


def busy() -> float:
    """The load average of the last minute: above 1 before the run, others were at work too."""
    return os.getloadavg()[0]


def fdatasync_microseconds(programs: Path, directory: Path) -> float | None:
    """One fdatasync of 8 KiB on that disk, by Postgres's own `pg_test_fsync`; None where it cannot be run."""
    program = programs / "pg_test_fsync"
    file = directory / "fsync.test"
    command = [str(program), "-s", str(SYNC_SECONDS_EACH), "-f", str(file)]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = FDATASYNC.search(said)
    return round(1e6 / float(found[1]), 1) if found else None
