"""The command line: what it says, and with which exit code it ends."""

import pytest
from typer.testing import CliRunner

from regulars.__main__ import command_line
from services.points.service import SERVICE as POINTS
from shared import command as service_command
from tests.demo.running import command, settings

RUN = CliRunner()


EVERY = "/up/demo/clock advance/verify/rebuild/migrate/log copy/log check/parked list/parked retry"


@pytest.mark.parametrize("arguments", [line.split() for line in EVERY.split("/")])
def test_every_command_explains_itself(arguments: list[str]) -> None:
    result = RUN.invoke(command_line({}), [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage: " in result.output


def test_a_service_has_the_commands_of_its_own() -> None:
    result = RUN.invoke(service_command.command_line(POINTS, {}), ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("api", "worker", "all", "migrate", "rebuild", "verify", "parked"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["demo", "--batch", "0"], 2, "--batch"),
        (["up", "--role", "apis"], 2, "apis"),
        (["up", "--only", "poinst"], 1, "no service poinst; there are contacts, points"),
        (["clock", "advance", "tomorrow", "--key", "k"], 1, "tomorrow is not a time"),
        (["clock", "advance", "2026-01-01T00:00:00", "--key", "k"], 1, "has no zone"),
        (["clock", "advance", "2026-01-01T00:00:00Z", "--key", "k", "--url", "http://127.0.0.1:9"], 1, "start the API"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], code: int, said: str) -> None:
    result = RUN.invoke(command_line({}), arguments)
    assert result.exit_code == code, result.output
    assert said in result.output


def test_a_missing_setting_is_one_line() -> None:
    given = {"REGULARS_DATABASE_URL": "postgresql://regulars@db/regulars"}
    result = RUN.invoke(command_line(given), ["verify"])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("REGULARS_MASTER_KEY is not set; set it")
    result = RUN.invoke(service_command.command_line(POINTS, {}), ["worker"])
    assert result.exit_code == 1
    assert result.output.startswith("REGULARS_POINTS_DATABASE_URL is not set") or "DATABASE_URL" in result.output


async def test_an_unreachable_database_is_one_line() -> None:
    ended = await command(settings("postgresql://regulars@127.0.0.1:9/regulars"), "migrate")
    assert ended.code == 1
    assert ended.complained.count("\n") == 1, ended.complained


async def test_a_new_database_is_migrated_checked_and_not_proved_by_nothing(database_url: str) -> None:
    environment = settings(database_url)
    ended = await command(environment, "migrate")
    assert (ended.code, ended.complained) == (0, "")
    assert "contacts: 0001_" in ended.said
    assert (await command(environment, "migrate")).said.count("up to date") == 2
    assert (await command(environment, "log", "check")).said == "every topic is as it must be\n"
    proved = await command(environment, "verify", "points")
    assert proved.code == 1
    assert "nothing was folded" in proved.said
    assert "accounts" in proved.said
    unknown = await command(environment, "verify", "poinst")
    assert (unknown.code, unknown.complained) == (
        1,
        "there is no worker poinst here; there are door, contacts, points\n",
    )
    assert (await command(environment, "parked", "list")).said.splitlines() == [
        "door: 0 parked",
        "contacts: 0 parked",
        "points: 0 parked",
    ]
    alone = await command(environment, "migrate", module="services.points")
    assert (alone.code, alone.said) == (0, "points: up to date\n")
