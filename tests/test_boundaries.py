"""The boundaries of DESIGN §11 hold, and each contract bites: `pyproject.toml` [tool.importlinter] says why.

Where to fix: the import that lint-imports names. What two services need belongs on the stream, or in `shared/` when it
holds no word of loyalty.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("regulars", "services", "shared")
LINT_SECONDS_MAX = 120


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "lint-imports"
    command = [str(program), "--config", str(tree / "pyproject.toml"), "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LINT_SECONDS_MAX)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the packages, to plant an import in."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


PLANTED = [
    ("services/points/rules.py", "import services.contacts.rules", "services never import each other"),
    ("shared/log/port.py", "import services.points.rules", "regulars composes services"),
    ("services/points/rules.py", "import regulars.__main__", "regulars composes services"),
    ("shared/log/port.py", "import shared.runtime.rules", "inside shared each layer"),
    ("services/points/ledger/store.py", "import shared.testing.native_kafka", "nothing that is shipped"),
    ("services/points/ledger/domain.py", "import random", "decisions are pure"),
    ("services/contacts/door/domain.py", "import asyncpg", "decisions are pure"),
    ("shared/runtime/tables.py", "import time", "decisions are pure"),
]


@pytest.mark.slow
def test_every_planted_import_is_found(tree: Path) -> None:
    for path, statement, contract in PLANTED:
        source = tree / path
        before = source.read_text()
        source.write_text(f"{before}\n{statement}\n")
        result = lint(tree)
        source.write_text(before)
        assert result.returncode == 1, f"{statement} in {path} was not found\n{result.stdout}{result.stderr}"
        broken = [line for line in result.stdout.splitlines() if " BROKEN" in line]
        assert any(line.startswith(contract) for line in broken), f"{statement} in {path}: {broken}"
