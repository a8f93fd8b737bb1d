"""`regulars up` as its own process, as an operator would run it, for tests that speak HTTP to it."""

import asyncio
import base64
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

ADMIN_KEY = "an-admin-key-of-the-demo-tests"
MASTER_KEY = base64.b64encode(b"m" * 32).decode()
START_SECONDS_MAX = 60
END_SECONDS_MAX = 60
COMMAND_SECONDS_MAX = 600


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    said: str
    complained: str


def settings(database_url: str, log_url: str = "", **more: str) -> dict[str, str]:
    """The environment of a process on this database; nothing of ours is taken over from the tests' own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REGULARS_", "DEMO_"))}
    given = {
        "REGULARS_DATABASE_URL": database_url,
        "REGULARS_LOG_URL": log_url or database_url,
        "REGULARS_MASTER_KEY": MASTER_KEY,
        "REGULARS_ADMIN_KEY": ADMIN_KEY,
        "REGULARS_LOG_LEVEL": "warning",
    }
    return {**kept, **given, **more}


async def command(environment: Mapping[str, str], *arguments: str, module: str = "regulars") -> Ended:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, env=environment, stdout=-1, stderr=-1
    )
    async with asyncio.timeout(COMMAND_SECONDS_MAX):
        said, complained = await process.communicate()
    return Ended(process.returncode or 0, said.decode(), complained.decode())


def up(environment: Mapping[str, str], *arguments: str) -> AbstractAsyncContextManager[str]:
    """`regulars up`, see `serving`."""
    return serving(environment, "regulars", "up", *arguments)


@asynccontextmanager
async def serving(environment: Mapping[str, str], module: str, *arguments: str) -> AsyncIterator[str]:
    """The URL of a process that listens. Ended by SIGTERM, which must end it in order, without a complaint."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, "--port", "0", env=environment, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            said = ""
            while (found := re.search(r"listens on (\S+)", said)) is None:
                line = await process.stdout.readline()
                assert line, f"it ended: {(await process.communicate())[1].decode()}"
                said += line.decode()
        yield found[1]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(END_SECONDS_MAX):
            _, complained = await process.communicate()
        assert (process.returncode, complained.decode()) == (0, "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
