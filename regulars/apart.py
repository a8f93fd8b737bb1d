"""A service's workers in a process of their own, so that an all-in-one server uses more than one core.

The server starts it, shows its health beside its own, ends it in order, and ends itself when it dies. It has no
terminal: whoever stops the server stops it too, and it ends by itself when the server is gone.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from regulars.server import chosen
from shared.command import serve_parts, url_of
from shared.process import Apart, Part
from shared.settings import Settings

END_SECONDS_MAX: Final = 30.0
"""For its batches to end; then it is cut off, which loses nothing."""


@contextmanager
def working_apart(parts: Sequence[Part], names: Sequence[str]) -> Iterator[list[Apart]]:
    """The workers of the named services, each in a process that runs at least until the block ends."""
    with ExitStack() as stack:
        yield [stack.enter_context(_child(part)) for part in parts if part.service.name in names]


@contextmanager
def _child(part: Part) -> Iterator[Apart]:
    ours, theirs = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_work, args=(part.service.name, part.settings, theirs))
    process.start()
    theirs.close()
    child = _Child(part, process, ours)
    try:
        yield Apart(part.service.name, child.run, child.check)
    finally:
        process.terminate()
        process.join(END_SECONDS_MAX)
        process.kill()
        process.join()
        ours.close()


class _Child:
    """What the server sees of it."""

    def __init__(self, part: Part, process: SpawnProcess, connection: Connection) -> None:
        self._part, self._process, self._connection = part, process, connection
        self._url = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when it has ended: by itself, or in order because `stop` is set."""
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        asked = asyncio.create_task(stop.wait())
        gone = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
            self._process.terminate()
            await gone
        finally:
            loop.remove_reader(self._process.sentinel)
            asked.cancel()
            gone.cancel()

    async def check(self) -> str:
        """What its own `/readyz` says."""
        import httpx  # costs every command a quarter of a second

        if not self._url:
            if not self._connection.poll():
                return "starting"
            self._url = self._connection.recv()
        async with httpx.AsyncClient(timeout=2) as client:
            answer = await client.get(f"{self._url}/readyz")
        if answer.status_code == 200:
            return ""
        checks = answer.json().get("checks", {})
        wrong = "; ".join(f"{name}: {found}" for name, found in checks.items() if found != "ok")
        return wrong or f"answers {answer.status_code}"


def _work(name: str, settings: Settings, connection: Connection) -> None:
    """The child: runs the workers until it is told to end, or the server's end of the pipe closes."""
    os.setsid()
    parts = [Part(chosen([name])[0], replace(settings, port=0))]

    def started(port: int) -> None:
        connection.send(url_of(parts, port))
        loop = asyncio.get_running_loop()

        def server_gone() -> None:
            loop.remove_reader(connection.fileno())
            signal.raise_signal(signal.SIGTERM)

        loop.add_reader(connection.fileno(), server_gone)

    serve_parts(parts, "worker", started)
