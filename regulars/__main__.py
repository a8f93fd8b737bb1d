"""The command line of Regulars: the all-in-one server, the demo, and the operator's work on all services.

Exit codes: 0 done, 1 it could not be done or is not as it should be, 2 the command was misspelt. What only the demo and
`clock` need, they import themselves: all other commands start half a second sooner.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from regulars.apart import working_apart
from regulars.log_commands import add_log
from regulars.server import ADMIN_KEY_FILE, RELAXED, SERVICES, Busy, NoInstallation, chosen, is_embedded, surroundings
from shared.command import Host, Port, add_care, attempt, fail, listening, serve_parts, url_of
from shared.embedded_postgres import DURABLE, EmbeddedPostgresError
from shared.operations import migrate_all
from shared.process import Part
from shared.service import Service
from shared.settings import SettingsError

HELP: Final = """Regulars: loyalty and customer care on one append-only stream.

Without REGULARS_DATABASE_URL all of it is in one directory (--var): an embedded Postgres and the keys.
"""

Var = Annotated[Path, typer.Option(help="Directory of the embedded database and keys.", envvar="REGULARS_VAR")]
Only = Annotated[list[str] | None, typer.Option(help="Run this service alone; may be given again for a second one.")]
Relaxed = Annotated[
    bool,
    typer.Option(help="The embedded database does not wait for the disk: for demos, a power cut may lose a moment."),
]
WorkersApart = Annotated[
    list[str] | None,
    typer.Option("--apart", help="Run this service's workers in a process of their own, for a second core."),
]
Batch = Annotated[int, typer.Option(min=1, max=500, envvar="DEMO_BATCH", help="Events in one request.")]
Seed = Annotated[
    int | None, typer.Option(envvar="DEMO_SEED", help="Replay a random tenth of the customers; the seed says which.")
]
Leave = Annotated[bool, typer.Option("--exit", help="End when the figures are shown, instead of staying up.")]
Report = Annotated[Path | None, typer.Option(help="Also write the figures to this file, as JSON.")]
Url = Annotated[str, typer.Option(envvar="REGULARS_URL", help="Where the API is.")]
Key = Annotated[str, typer.Option(envvar="REGULARS_API_KEY", help="An API key with the scope clock:write.")]
To = Annotated[str, typer.Argument(help="An RFC 3339 time with a zone, as 2026-01-31T12:00:00Z.")]


class RoleName(StrEnum):
    """What a process does."""

    all = "all"
    api = "api"
    worker = "worker"


RunAs = Annotated[RoleName, typer.Option(help="Workers and API in one process, or one of them.")]


@dataclass
class Home:
    """Where the command finds its services: the environment, and the directory that --var names."""

    environment: Mapping[str, str]
    directory: Path = Path("var")

    @contextmanager
    def parts(
        self,
        services: Sequence[Service] = SERVICES,
        *,
        alone: bool = False,
        postgres: Mapping[str, str] = DURABLE,
        say: Callable[[str], None] = lambda _: None,
    ) -> Iterator[Sequence[Part]]:
        """As `surroundings`; what an operator can act on becomes one line and exit code 1."""
        try:
            with surroundings(
                self.directory, self.environment, services, alone=alone, postgres=postgres, say=say
            ) as parts:
                yield parts
        except (SettingsError, EmbeddedPostgresError, Busy, NoInstallation) as error:
            fail(error)


def command_line(environment: Mapping[str, str]) -> typer.Typer:
    """All commands."""
    app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
    home = Home(environment)

    @app.callback()
    def _options(var: Var = Path("var")) -> None:
        home.directory = var

    _add_up(app, home)
    _add_demo(app, home)
    _add_clock(app)
    add_care(app, home.parts)
    add_log(app, home.parts)
    return app


def _add_up(app: typer.Typer, home: Home) -> None:
    @app.command("up")
    def _up(
        only: Only = None,
        role: RunAs = RoleName.all,
        host: Host = "",
        port: Port = -1,
        relaxed: Relaxed = False,
        apart: WorkersApart = None,
    ) -> None:
        """Start everything in one process on one port, or with --only and --role a part of it."""
        try:
            services = chosen(only or [])
            if unknown := set(apart or []) - {service.name for service in services}:
                raise ValueError(f"--apart {', '.join(sorted(unknown))}: this process runs no such service")
        except ValueError as error:
            fail(error)
        postgres = RELAXED if relaxed else DURABLE
        with home.parts(services, alone=True, postgres=postgres, say=typer.echo) as parts:
            attempt(migrate_all(parts))
            parts = listening(parts, host, port)
            with working_apart(parts, [] if role is RoleName.api else apart or []) as others:
                serve_parts(parts, role.value, lambda at: _say_where(home, parts, role.value, at), others)


def _say_where(home: Home, parts: Sequence[Part], role: str, port: int) -> None:
    url = url_of(parts, port)
    what = {"all": "workers and API", "api": "API", "worker": "workers"}[role]
    typer.echo(f"Regulars listens on {url} ({', '.join(part.service.name for part in parts)}: {what})")
    typer.echo(f"  every address, to try    {url}/docs" if role != "worker" else f"  health    {url}/readyz")
    if is_embedded(home.environment, [part.service for part in parts]):
        typer.echo(f"  operator's key           {home.directory / ADMIN_KEY_FILE}")
    typer.echo("  Ctrl-C or SIGTERM ends it in order")


def _add_demo(app: typer.Typer, home: Home) -> None:
    @app.command("demo")
    def _demo(
        batch: Batch = 200,
        seed: Seed = None,
        leave: Leave = False,
        report: Report = None,
        host: str = "127.0.0.1",
        port: Port = 0,
    ) -> None:
        """Replay 69,659 real purchases through the API of a server of its own, and show what came of them.

        It has its own directory, demo/ in the one that --var names, and begins it anew each time.
        """
        import httpx
        from rich.console import Console

        from regulars.cdnow import FileMissing
        from regulars.client import ProblemError
        from regulars.demo import DemoFailed, Wanted, run_demo
        from regulars.replay import ReplayWrong

        wanted = Wanted(home.directory / "demo", batch, seed, host, port, not leave, report)
        try:
            code = run_demo(wanted, home.environment, Console())
        except (DemoFailed, FileMissing, ProblemError, ReplayWrong, httpx.HTTPError) as error:
            fail(error)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        raise typer.Exit(code)


def _add_clock(app: typer.Typer) -> None:
    clock = typer.Typer(help="The clock of a tenant that was created with clock_at.", no_args_is_help=True)
    app.add_typer(clock, name="clock")

    @clock.command("advance")
    def _advance(to: To, key: Key, url: Url = "http://127.0.0.1:8080") -> None:
        """Move it forward, a day at most at a time, and wait until every service has followed."""
        try:
            until = datetime.fromisoformat(to)
        except ValueError:
            fail(f"{to} is not a time: send it as 2026-01-31T12:00:00Z")
        if until.tzinfo is None:
            fail(f"{to} has no zone: send it as 2026-01-31T12:00:00Z")
        attempt(_moved(url, key, until))
        typer.echo(f"the clock stands at {until.astimezone(UTC).isoformat()}")


async def _moved(url: str, key: str, until: datetime) -> None:
    import httpx

    from regulars.client import ProblemError, Regulars, Unfinished

    try:
        async with Regulars(url, key) as client:
            at = await client.advance_clock(until)
    except httpx.TransportError as error:
        fail(f"no answer from {url} ({error}): start the API with `regulars up`, or name it with --url")
    except (ProblemError, Unfinished, httpx.HTTPError) as error:
        fail(error)
    if at > until:
        fail(f"the clock stands at {at.isoformat()} already and moves forward only")


def main() -> None:
    """The entry of `regulars`."""
    command_line(dict(os.environ))(prog_name="regulars")


if __name__ == "__main__":
    main()
