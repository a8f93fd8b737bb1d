"""The command line of services: run them in a role, and look after them.

`services/<service>/__main__.py` is `main(SERVICE)`; `regulars` adds the same commands over all services.
Exit codes: 0 done, 1 it could not be done or is not as it should be, 2 the command was misspelt.
"""

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Annotated, Any, Final, NoReturn, TypeVar

import asyncpg
import typer

from shared.http.serve import BackgroundDied, PortTaken, run
from shared.log.port import LogError
from shared.operations import (
    OperationRefused,
    Place,
    cause_of,
    migrate_all,
    parked,
    places,
    rebuild_one,
    retry_parked,
    verify_one,
)
from shared.process import Apart, Part, Role, run_process
from shared.runtime.migrations import MigrationRefused
from shared.runtime.proof import NotProvable, Proof
from shared.runtime.replay import ReplayFailed
from shared.runtime.store import StoreError
from shared.sealing import SealingError
from shared.service import Service
from shared.settings import Settings, SettingsError
from shared.telemetry import log_to_stderr

T = TypeVar("T")
Surroundings = Callable[[], AbstractContextManager[Sequence[Part]]]
"""Gives a command its services with their settings; may bring an embedded database for as long as the command runs."""

EXPECTED: Final = (
    SettingsError,
    OperationRefused,
    NotProvable,
    ReplayFailed,
    MigrationRefused,
    SealingError,
    StoreError,
    LogError,
    BackgroundDied,
    PortTaken,
    asyncpg.PostgresError,
    OSError,
)
"""What an operator can understand and act on: shown as one line, without a trace."""

Host = Annotated[str, typer.Option(help="Address to listen on; without it REGULARS_HOST, else 127.0.0.1.")]
Port = Annotated[
    int,
    typer.Option(
        help="Port to listen on, 0 for any free one; without it REGULARS_PORT, else 8080.", show_default=False
    ),
]
Workers = Annotated[list[str] | None, typer.Argument(help="Names of workers; without any, all.")]
OneWorker = Annotated[str, typer.Argument(help="The worker's name.")]
Cause = Annotated[str, typer.Argument(help="topic/partition/offset, as `parked list` shows it.")]


def fail(message: object) -> NoReturn:
    """End with one line on stderr and exit code 1."""
    typer.echo(f"{type(message).__name__}: {message}" if isinstance(message, OSError) else str(message), err=True)
    raise typer.Exit(1)


def attempt(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what an operator can act on becomes one line and exit code 1."""
    try:
        return run(work)
    except EXPECTED as error:
        fail(error)


def listening(parts: Sequence[Part], host: str, port: int) -> list[Part]:
    """The parts with the address of the command line, where it was given."""
    settings = parts[0].settings
    chosen = replace(settings, host=host or settings.host, port=settings.port if port < 0 else port)
    return [replace(parts[0], settings=chosen), *parts[1:]]


def url_of(parts: Sequence[Part], port: int) -> str:
    """Where these parts answer, for people."""
    host = parts[0].settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve_parts(
    parts: Sequence[Part],
    role: Role,
    started: Callable[[int], None] = lambda _: None,
    apart: Sequence[Apart] = (),
) -> None:
    """Run a process until it is told to end."""
    settings = parts[0].settings
    log_to_stderr("regulars" if len(parts) > 1 else parts[0].service.name, settings.log_level)
    try:
        run(run_process(parts, role, started=started, apart=apart))
    except EXPECTED as error:
        fail(error)


def show_proof(proof: Proof) -> None:
    """Rows and verdict of every table, and how many events were folded."""
    rows = sum(table.rows for table in proof.tables)
    typer.echo(
        f"{proof.worker}: {'equal' if proof.equal else 'NOT EQUAL'}, "
        f"{proof.events_folded:,} events folded, {rows:,} rows in {len(proof.tables)} tables"
    )
    width = max(len(table.table) for table in proof.tables)
    for table in proof.tables:
        verdict = "equal" if table.equal else f"NOT EQUAL: live {table.live[:12]}, replayed {table.replayed[:12]}"
        typer.echo(f"  {table.table:<{width}}  {table.rows:>9,} rows  {verdict}")
    if not proof.events_folded:
        typer.echo("  nothing was folded: a proof of nothing is none")


def add_care(app: typer.Typer, surroundings: Surroundings) -> None:
    """Add migrate, verify, rebuild and parked."""

    @app.command("migrate")
    def _migrate() -> None:
        """Bring the database's schemas up to this release."""
        with surroundings() as parts:
            for service, applied in attempt(migrate_all(parts)).items():
                typer.echo(f"{service}: {', '.join(applied) if applied else 'up to date'}")

    @app.command("verify")
    def _verify(workers: Workers = None) -> None:
        """Fold the stream again and compare it with the state: exit code 1 unless every table is equal."""
        with surroundings() as parts:
            proofs = [attempt(verify_one(place)) for place in _places(parts, workers or [])]
        for proof in proofs:
            show_proof(proof)
        if not all(proof.equal for proof in proofs):
            raise typer.Exit(1)

    @app.command("rebuild")
    def _rebuild(worker: OneWorker) -> None:
        """Make a worker's state from the stream alone: after a lost or restored database. Stop its workers first."""
        with surroundings() as parts:
            done = attempt(rebuild_one(_place(parts, worker)))
        typer.echo(f"{worker}: rebuilt from {sum(done.folded.values()):,} events")
        if done.missing_letters:
            typer.echo(f"{len(done.missing_letters):,} letters were missing on the stream and will be sent again")

    waiting = typer.Typer(help="Inputs that could not be read or decided and wait for a person.", no_args_is_help=True)
    app.add_typer(waiting, name="parked")

    @waiting.command("list")
    def _list(workers: Workers = None) -> None:
        """Show them, oldest first, with the reason."""
        with surroundings() as parts:
            for place in _places(parts, workers or []):
                rows = attempt(parked(place))
                typer.echo(f"{place.plan.name}: {len(rows)} parked")
                for row in rows:
                    typer.echo(f"  {cause_of(row)}  {row.parked_at:%Y-%m-%d %H:%M:%S}  {row.tenant}  {row.reason}")

    @waiting.command("retry")
    def _retry(worker: OneWorker, cause: Cause) -> None:
        """Have one decided again, as after a release that can read it."""
        with surroundings() as parts:
            at, offset = attempt(retry_parked(_place(parts, worker), cause))
        typer.echo(f"asked again at {at.topic}/{at.partition}/{offset}; see `parked list` for what became of it")


def _places(parts: Sequence[Part], names: Sequence[str]) -> list[Place]:
    try:
        return places(parts, names)
    except OperationRefused as error:
        fail(error)


def _place(parts: Sequence[Part], name: str) -> Place:
    return _places(parts, [name])[0]


def command_line(service: Service, environment: Mapping[str, str]) -> typer.Typer:
    """The commands of one service."""
    app = typer.Typer(
        help=f"The {service.name} service of Regulars.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
    )

    def parts() -> AbstractContextManager[Sequence[Part]]:
        try:
            return nullcontext([Part(service, Settings.from_environment(environment, service.name))])
        except SettingsError as error:
            fail(error)

    def add_role(role: Role, meaning: str) -> None:
        @app.command(role, help=meaning)
        def _run(host: Host = "", port: Port = -1) -> None:
            with parts() as found:
                chosen = listening(found, host, port)
                serve_parts(
                    chosen, role, lambda at: typer.echo(f"{service.name} {role} listens on {url_of(chosen, at)}")
                )

    add_role("api", "Serve the HTTP API alone.")
    add_role("worker", "Run the workers alone; the port serves /livez, /readyz and /metrics.")
    add_role("all", "Run workers and API in one process.")
    add_care(app, parts)
    return app


def main(service: Service) -> None:
    """The entry of `python -m services.<service>`."""
    command_line(service, os.environ)(prog_name=f"python -m services.{service.name}")
