"""The house rules as tests: each says why it stands and where to fix what it finds.

They read the files that git tracks or would track. What ruff, mypy and import-linter hold is not repeated here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60


class Source(NamedTuple):
    """One file of the repository; `tree` is empty for anything but Python."""

    path: str
    text: str
    tree: ast.Module


@cache
def listed() -> tuple[str, ...]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(sorted(path for path in set(found) if (ROOT / path).is_file() and not path.startswith(".venv/")))


@cache
def python_files() -> tuple[Source, ...]:
    texts = {path: (ROOT / path).read_text() for path in listed() if path.endswith(".py")}
    return tuple(Source(path, text, ast.parse(text, path)) for path, text in texts.items())


def none(found: Iterator[str], rule: str) -> None:
    lines = sorted(found)
    assert not lines, f"{rule}\n  " + "\n  ".join(lines)


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def test_the_rules_look_at_this_repository() -> None:
    assert {"shared/log/port.py", "tests/test_tidy.py"} <= {source.path for source in python_files()}


def test_files_are_short_enough_to_read_at_once() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            lines = source.text.count("\n")
            if lines > FILE_LINES_MAX:
                yield f"{source.path}: {lines} lines"

    none(found(), f"A file has at most {FILE_LINES_MAX} lines: move one noun out of it into a file of its own.")


def test_functions_fit_on_a_screen() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            for node in ast.walk(source.tree):
                if isinstance(node, FUNCTIONS):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    if lines > FUNCTION_LINES_MAX:
                        yield f"{source.path}:{node.lineno} {node.name}: {lines} lines"

    none(found(), f"A function has at most {FUNCTION_LINES_MAX} lines: name its steps and move them out.")


BANNED_NAME = re.compile(r"(?:^|_)(manager|helpers?|utils?)(?:_|$)|Manager|Helper|Utils?(?![a-z])")


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()):
                yield node.lineno, name
            case _:
                pass


def test_names_are_the_fields_own() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            if any(BANNED_NAME.search(part) for part in Path(source.path).with_suffix("").parts):
                yield f"{source.path}: the file's name"
            for line, name in defined_names(source.tree):
                if BANNED_NAME.search(name):
                    yield f"{source.path}:{line} {name}"

    none(found(), "A name says what the thing is in the field (wallet, lot, relay): not manager, helper or utils.")


MAY_PRINT = ("regulars/", "bench/", "tests/soak")


def test_only_the_command_line_prints() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            if source.path.startswith(MAY_PRINT):
                continue
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                    yield f"{source.path}:{node.lineno}"

    none(found(), "Services tell operators through logs and metrics (shared.telemetry); printing is for `regulars`.")


def called(node: ast.Call) -> str:
    parts: list[str] = []
    at: ast.expr = node.func
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    return ".".join(reversed([*parts, at.id if isinstance(at, ast.Name) else ""]))


SLEEPS = {"time.sleep", "asyncio.sleep", "anyio.sleep", "sleep"}


def test_tests_wait_on_conditions_and_never_sleep() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            for node in ast.walk(source.tree) if source.path.startswith("tests/") else ():
                if (
                    isinstance(node, ast.Call)
                    and called(node) in SLEEPS
                    and [ast.unparse(argument) for argument in node.args] != ["0"]
                ):
                    yield f"{source.path}:{node.lineno} {ast.unparse(node)}"

    none(
        found(), "A sleep is too long or too short: wait on a condition with a deadline. sleep(0) only lets others run."
    )


PATCHES = re.compile(r"(?:^|\.)(?:mock\.)?patch(?:\.object|\.dict)?$|(?:^|\.)monkeypatch\.(?:setattr|delattr)$")


def test_tests_never_patch_modules() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            for node in ast.walk(source.tree) if source.path.startswith("tests/") else ():
                if isinstance(node, ast.Call) and PATCHES.search(called(node)):
                    yield f"{source.path}:{node.lineno} {called(node)}"

    none(found(), "A patched module is another program: pass what varies (a clock, a store) as an argument.")


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from ((node.lineno, f"{module}.{name.name}") for name in names)
            case _:
                pass


IMPURE = {"asyncio", "logging", "os", "random", "secrets", "socket", "subprocess", "time", "uuid"}
PURE_PACKAGES = {"orjson", "pydantic"}
VOCABULARY = ("shared.events", "shared.runtime.rules.")
"""What a decision is made of: events, and the words Input, Draft and Refused."""


def may_import(service: str, name: str) -> bool:
    top, own = name.split(".")[0], f"services.{service}."
    if top in PURE_PACKAGES or name.startswith(VOCABULARY):
        return True
    if name.startswith(own):
        module, _, member = name.rpartition(".")
        outward = module.endswith((".api", ".app", ".worker", ".settings"))
        return not outward and (not module.endswith(".store") or member.endswith("Row"))
    return top in sys.stdlib_module_names and top not in IMPURE


def test_domains_import_the_standard_library_events_and_each_other() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            if re.fullmatch(r"services/\w+/\w+/domain\.py", source.path):
                service = source.path.split("/")[1]
                yield from (
                    f"{source.path}:{at} {name}" for at, name in imported(source.tree) if not may_import(service, name)
                )

    none(
        found(),
        "domain.py is pure: the standard library without clocks, random and I/O, shared.events, Draft and Refused, "
        "and of its own service other pure files and the rows (not the tables) of a store.",
    )


CLOCK = re.compile(r"(?:datetime\.)?(?:date|datetime)\.(?:now|utcnow|today)")


def test_decisions_ask_no_clock() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            pure = source.path.startswith("services/") and not source.path.endswith(("api.py", "app.py", "__main__.py"))
            for node in ast.walk(source.tree) if pure else ():
                if isinstance(node, ast.Call) and CLOCK.fullmatch(called(node)):
                    yield f"{source.path}:{node.lineno} {called(node)}"

    none(found(), "No host's clock reaches a decision (DESIGN §5): take `now` of the input.")


SQL = re.compile(
    r"^\s*(?:select\b(?=[\s\S]*\bfrom\b)|select\s+\w+\(|insert\s+into\b|update\s+\S+\s+set\b|delete\s+from\b|copy\s+\S+\s+from\b)",
    re.IGNORECASE,
)
SQL_FILES = re.compile(
    r"services/(?:\w+/)+(?:read_)?store\.py|shared/runtime/\w+\.py|shared/log/postgres\w*\.py|shared/http/(?:credentials|database)\.py"
    r"|shared/testing/\w+/\w+/store\.py|tests/.*|bench/.*"
)


def docstrings(tree: ast.Module) -> set[ast.AST]:
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    skipped = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node


def constants(tree: ast.Module) -> Iterator[ast.AST]:
    """All parts of what is assigned to an UPPER_CASE name of the module or of a class."""
    bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name.isupper():
                yield from ast.walk(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if name.isupper():
                yield from ast.walk(value)
            case _:
                pass


def test_sql_stands_in_the_store_as_a_named_constant() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            if source.path.startswith("tests/"):
                continue
            named = set(constants(source.tree))
            for node in texts(source.tree):
                if not SQL.match(str(node.value)):
                    continue
                if not SQL_FILES.fullmatch(source.path):
                    yield f"{source.path}:{node.lineno} is not a store"
                elif node not in named:
                    yield f"{source.path}:{node.lineno} is not an UPPER_CASE constant"

    none(
        found(), "SQL stands in store.py (or in the runtime's and log's own Postgres files), named, above its function."
    )


def test_sql_is_never_glued() -> None:
    def found() -> Iterator[str]:
        for source in python_files():
            for node in ast.walk(source.tree):
                if isinstance(node, ast.JoinedStr):
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
                    if SQL.match(text):
                        yield f"{source.path}:{node.lineno}"

    none(found(), "What varies in SQL is a parameter ($1): a glued statement is one quote away from another meaning.")


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def test_every_link_to_a_file_leads_to_it() -> None:
    def found() -> Iterator[str]:
        for path in listed():
            if not path.endswith(".md"):
                continue
            text = re.sub(r"```.*?```", "", (ROOT / path).read_text(), flags=re.DOTALL)
            for target in (one or other for one, other in LINK.findall(text)):
                if re.match(r"[a-z]+:|#", target):
                    continue
                start = ROOT if target.startswith("/") else (ROOT / path).parent
                if not (start / target.lstrip("/").split("#")[0]).exists():
                    yield f"{path}: {target}"

    none(found(), "A link in the documentation leads nowhere: write the file or mend the link.")


MACHINE = re.compile(r"(?<![\w.])/(?:home/\w+|root/|Users/\w+|work/\w+|tmp/\w+)")
PROSE = (".py", ".md", ".toml", ".yml", ".yaml", ".sql", ".sh", ".xml", "Makefile", "run", ".example")


def test_no_path_of_somebodys_machine() -> None:
    def found() -> Iterator[str]:
        for path in listed():
            if not path.endswith(PROSE) or path == "tests/test_tidy.py":
                continue
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
                if MACHINE.search(line):
                    yield f"{path}:{number} {line.strip()[:80]}"

    none(found(), "This path exists on one machine only: take it from a setting, or from tempfile.")


@pytest.mark.parametrize(
    ("pattern", "hits", "passes"),
    [
        (BANNED_NAME, ["lot_manager", "helpers", "LotManager", "utils"], ["async_context", "manages", "utility_cost"]),
        (SQL, ["select a from b", "\n  INSERT INTO t", "update t set a = 1"], ["select the rows", "updated", "insert"]),
        (PATCHES, ["mock.patch", "patch", "mock.patch.object", "monkeypatch.setattr"], ["client.patch2", "dispatch"]),
        (MACHINE, ["see /home/li/x", '"/root/a"'], ["/v1/tmp", "https://x/home/li", "/usr/share/x"]),
        (LINK, ["[a](b.md)", "![a](b.png)"], ["[a] (b)", "a(b)"]),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], hits: list[str], passes: list[str]) -> None:
    assert all(pattern.search(text) for text in hits)
    assert not any(pattern.search(text) for text in passes)
