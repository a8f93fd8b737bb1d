"""`regulars demo`: starts a server of its own, replays real purchases through its API and shows what came of them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from regulars.cdnow import CLOCK_AT, Day, days, read_orders, tenth
from regulars.client import Regulars
from regulars.replay import (
    Done,
    Figures,
    contact_of,
    figures,
    found_tenant,
    key_works,
    most_loyal,
    publish_program,
    replay,
)
from regulars.server import ADMIN_KEY_FILE, in_use
from regulars.telling import told_line, told_member
from services.points.programs.sample import SAMPLE_PROGRAM
from shared.embedded_postgres import EmbeddedPostgres
from shared.http.serve import run

READY_SECONDS_MAX: Final = 120.0
READY_AGAIN_SECONDS: Final = 0.1
END_SECONDS_MAX: Final = 60.0
PROVED: Final = ("door", "points", "contacts")
MARK: Final = "regulars-demo"
ALWAYS_SHOWN: Final = ("issued", "redeemed", "lapsed", "reversed", "outstanding")
COLUMNS: Final = {"reversed": "Taken back"}


class DemoFailed(Exception):
    """It cannot go on; the message says what to look at."""


@dataclass(frozen=True)
class Wanted:
    """What the command line asked for."""

    directory: Path
    batch: int
    seed: int | None
    host: str
    port: int
    stay: bool
    report: Path | None


@dataclass(frozen=True)
class Server:
    """The server's process and how to reach it."""

    process: "subprocess.Popen[bytes]"
    url: str
    admin_key: str
    log: Path


def run_demo(wanted: Wanted, environment: Mapping[str, str], console: Console) -> int:
    """Everything, from an empty directory to the figures; then stays up unless told not to. Returns the exit code.

    Raises DemoFailed, FileMissing, ProblemError, ReplayWrong.
    """
    orders = read_orders()
    planned = days(orders if wanted.seed is None else tenth(orders, wanted.seed))
    _empty(wanted.directory, console)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with _server(wanted, environment, console) as server:
        shown, api_key = run(_play(server, planned, wanted, console))
        if wanted.report is not None:
            wanted.report.write_text(json.dumps(asdict(shown), indent=2) + "\n")
        if wanted.stay:
            _try_next(server, api_key, wanted, console)
        if not _prove(wanted, environment, console) or not shown.balanced:
            console.print("[bold red]The proof failed: see above.[/]")
            return 1
        if wanted.stay:
            again = f"{Path(sys.argv[0])} --var {wanted.directory} verify"
            console.print(f"The proof again: {again}", highlight=False, markup=False, soft_wrap=True)
            console.print(f"The server's log is {server.log}. Ctrl-C ends it.", highlight=False)
            _wait(server)
    return 0


def _empty(directory: Path, console: Console) -> None:
    """Begin anew: only a directory that an earlier demo made is removed."""
    if directory.exists():
        if any(directory.iterdir()) and not (directory / MARK).exists():
            raise DemoFailed(f"{directory} is not a demo's: give another directory with --var")
        if in_use(directory):
            raise DemoFailed(f"a demo is still running on {directory}: end it first")
        console.print(f"Removing {directory} of an earlier demo.", highlight=False)
        EmbeddedPostgres(directory / "postgres").stop(immediate=True)
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / MARK).touch()


@contextmanager
def _server(wanted: Wanted, environment: Mapping[str, str], console: Console) -> Iterator[Server]:
    """`regulars up` as a process of its own, ready; ended in order when the block ends."""
    port = wanted.port or _free_port(wanted.host)
    url = f"http://{wanted.host}:{port}"
    log = wanted.directory / "server.log"
    command = [*_regulars(wanted), "up", "--relaxed", "--apart", "points", "--host", wanted.host, "--port", str(port)]
    given = {name: value for name, value in environment.items() if not name.startswith("REGULARS_")}
    given["REGULARS_LOG_LEVEL"] = environment.get("REGULARS_LOG_LEVEL", "warning")
    console.print("Starting Regulars on an embedded Postgres ...", highlight=False)
    with log.open("wb") as file:
        # A session of its own: Ctrl-C is for us, and we end it in order.
        process = subprocess.Popen(command, env=given, stdout=file, stderr=file, start_new_session=True)
    try:
        _wait_ready(process, url, log)
        admin_key = (wanted.directory / ADMIN_KEY_FILE).read_text("ascii").strip()
        yield Server(process, url, admin_key, log)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _regulars(wanted: Wanted) -> list[str]:
    return [sys.executable, "-m", "regulars", "--var", str(wanted.directory)]


def _free_port(host: str) -> int:
    """8080, or any free port where that is taken."""
    for port in (8080, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DemoFailed(f"no port is free on {host}")


def _wait_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailed(f"the server ended: {_end_of(log)}")
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(READY_AGAIN_SECONDS)
    raise DemoFailed(f"the server is not ready after {READY_SECONDS_MAX:.0f} s: {_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or f"{log} is empty"


async def _play(server: Server, planned: Sequence[Day], wanted: Wanted, console: Console) -> tuple[Figures, str]:
    async with Regulars(server.url, server.admin_key) as operator:
        tenant, api_key = await found_tenant(operator, planned[0])
    async with Regulars(server.url, api_key) as client:
        client.position = operator.position  # what is asked now is decided by the tenant's clock
        await key_works(client)
        version = await publish_program(client)
        orders = sum(len(day.orders) for day in planned)
        console.print(
            f"Tenant {tenant} on a test clock; program {SAMPLE_PROGRAM['name']!r} published, version {version}.\n"
            f"Replaying {orders:,} purchases of {len(planned)} days through {server.url}/v1/events ...",
            highlight=False,
        )
        began = time.monotonic()
        done = await _with_progress(client, planned, wanted.batch, console)
        took = time.monotonic() - began
        console.print(f"Replayed in {took:.0f} s, {orders / took:,.0f} purchases a second.", highlight=False)
        shown = await figures(client, done)
        _show_figures(shown, planned[-1], console)
        await _show_member(client, most_loyal(planned), console)
    return shown, api_key


async def _with_progress(client: Regulars, planned: Sequence[Day], batch: int, console: Console) -> Done:
    bar = Progress(
        TextColumn("{task.fields[day]}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("purchases"),
        TimeElapsedColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("", total=sum(len(day.orders) for day in planned), day=str(planned[0].day))
        return await replay(
            client, planned, batch, lambda day: bar.update(task, advance=len(day.orders), day=str(day.day))
        )


def _show_figures(shown: Figures, last: Day, console: Console) -> None:
    sent = shown.sent
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(
        f"\nSent: {sent['orders']:,} purchases, {sent['refunds']:,} refunds, {sent['redeemed']:,} redemptions; "
        f"{sent['refused']:,} more were refused for lack of points."
    )
    say(f"Members per tier on {last.day} at {CLOCK_AT:%H:%M} UTC:")
    levels = SAMPLE_PROGRAM["tiers"]["levels"]
    console.print(
        _table(["Tier", "Members"], [[each["name"], shown.members_per_tier[each["code"]]] for each in levels])
    )
    say("Points:")
    names = [
        name
        for name in next(iter(shown.wallets.values()))
        if name in ALWAYS_SHOWN or any(of_wallet[name] for of_wallet in shown.wallets.values())
    ]
    heading = ["Wallet", *(COLUMNS.get(name, name.capitalize()) for name in names)]
    rows = [[wallet, *(found[name] for name in names)] for wallet, found in sorted(shown.wallets.items())]
    console.print(_table(heading, rows))
    verdict = "they balance" if shown.balanced else "[bold red]they do not balance[/]"
    say(f"All postings of the ledger add up to {shown.postings_sum}: {verdict}.")


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A name, then numbers."""
    table = Table(*heading)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, *numbers in rows:
        table.add_row(str(name), *(f"{number:,}" for number in numbers))
    return table


async def _show_member(client: Regulars, customer: str, console: Console) -> None:
    """A member, and of the latest hundred lines of its ledger the oldest that a rule wrote, explained."""
    contact = await contact_of(client, customer)
    member = await client.get(f"/v1/members/{contact}")
    page = await client.get(f"/v1/members/{contact}/ledger", wallet="points", limit=100)
    earned = [entry for entry in page["items"] if entry["fact_type"] == "points.earned.v1"]
    console.print(f"\nThe customer with the most orders is {customer}:", highlight=False)
    for line in told_member(member):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if earned:
        path = f"/v1/explain/entries/{earned[-1]['entry']}"
        explained = await client.get(path)
        console.print("One line of the ledger, explained:", highlight=False)
        for line in told_line(explained):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        console.print(f"  All of it: {path}", highlight=False, markup=False, soft_wrap=True)


def _prove(wanted: Wanted, environment: Mapping[str, str], console: Console) -> bool:
    """`regulars verify` for each worker, side by side; what it prints, and whether all are equal."""
    say = "Proof: folding the whole stream again and comparing it with the state; it takes a minute or two ..."
    console.print(f"\n{say}", highlight=False)
    given = {name: value for name, value in environment.items() if not name.startswith("REGULARS_")}
    running = [
        subprocess.Popen([*_regulars(wanted), "verify", worker], env=given, stdout=subprocess.PIPE) for worker in PROVED
    ]
    equal = True
    for process in running:
        said = process.communicate()[0].decode().rstrip()
        shown = said.partition("\n")[0] if process.returncode == 0 else said
        console.print(f"  {shown}", highlight=False, markup=False)
        equal = equal and process.returncode == 0
    return equal


def _try_next(server: Server, api_key: str, wanted: Wanted, console: Console) -> None:
    kept = wanted.directory / "tenant.key"
    with open(os.open(kept, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as file:
        file.write(api_key + "\n")
    header = f'-H "Authorization: Bearer $(cat {kept})"'
    lines: Sequence[tuple[str, str]] = (
        ("Who has how many points?", f"curl -s {header} {server.url}/v1/totals"),
        ("How many members has each tier?", f"curl -s {header} {server.url}/v1/tiers"),
        ("The program, to change and publish again:", f"curl -s {header} {server.url}/v1/programs/club"),
        ("Every address, to try in a browser:", f"{server.url}/docs"),
        ("Later, when this has ended, with the same data:", f"{Path(sys.argv[0])} --var {wanted.directory} up"),
    )
    console.print("\nRegulars stays up. What to try next:", highlight=False)
    for what, line in lines:
        console.print(f"  {what}", highlight=False, markup=False)
        console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)


def _wait(server: Server) -> None:
    try:
        server.process.wait()
    except KeyboardInterrupt:
        return
    raise DemoFailed(f"the server ended: {_end_of(server.log)}")
