"""Running a process: its HTTP server, its background tasks, and one orderly end for all of them."""

import asyncio
import contextlib
import errno
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, TypeVar

import uvicorn
from starlette.types import ASGIApp

REQUESTS_END_SECONDS: Final = 10
KEEP_ALIVE_SECONDS: Final = 75
"""Longer than callers keep an idle connection, so that they, not we, close it."""
GARBAGE_THRESHOLDS: Final = (50_000, 20, 100)
"""Rows and events are many and hold no cycles: looking for cycles after every 700 of them cost a tenth of the time."""
BACKGROUND_END_SECONDS: Final = 20

T = TypeVar("T")
Background = Callable[[asyncio.Event], Awaitable[None]]
"""Runs until the event is set, then ends what it has begun and returns."""

log = logging.getLogger("regulars.serve")


class PortTaken(RuntimeError):
    """Somebody else listens there."""


class BackgroundDied(RuntimeError):
    """A background task ended before it was told to; the process ends, and whatever restarts it does."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a process's main coroutine on uvloop where there is one."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class _Server(uvicorn.Server):
    """Leaves signals to `serve`: the background tasks end after the last request, not before."""

    def __init__(self, config: uvicorn.Config, started: Callable[[int], None]) -> None:
        super().__init__(config)
        self._started = started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            self._started(sockets[0].getsockname()[1])

    def ask_to_end(self) -> None:
        """The first time in order; the second time without waiting for running requests."""
        log.info("asked to end")
        self.force_exit, self.should_exit = self.should_exit, True


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    background: Mapping[str, Background] | None = None,
    *,
    started: Callable[[int], None] = lambda _: None,
    background_end_seconds: float = BACKGROUND_END_SECONDS,
) -> None:
    """Serve until SIGTERM or SIGINT, or until a background task dies. Runs in the main thread.

    The end has an order: no new requests, then the running ones end (they may wait for a background task), then the
    background tasks. `started` is called with the port once the server listens (port 0 asks for any free one).
    Raises BackgroundDied; PortTaken, OSError when the address cannot be had.
    """
    stop = asyncio.Event()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with _listener(host, port, family) as listener, _signals() as call_on_signal:
        server = _Server(_configuration(app), started)
        call_on_signal(server.ask_to_end)
        tasks = {name: asyncio.ensure_future(one(stop)) for name, one in (background or {}).items()}
        listening = asyncio.create_task(server.serve([listener]))
        try:
            await asyncio.wait({*tasks.values(), listening}, return_when=asyncio.FIRST_COMPLETED)
            died = {name: task for name, task in tasks.items() if task.done()}
            server.should_exit = True
            await listening
            for name, task in died.items():
                cause = None if task.cancelled() else task.exception()
                raise BackgroundDied(f"{name} ended by itself") from cause
        finally:
            stop.set()
            listening.cancel()
            await _end(tasks, background_end_seconds)


def _listener(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortTaken(
            f"port {port} of {host} is taken: end what has it, or choose another with --port or REGULARS_PORT"
        ) from None


def _configuration(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=REQUESTS_END_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[Callable[[], None]], None]]:
    """SIGTERM and SIGINT call what the block names, until it ends."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def call(handler: Callable[[], None]) -> None:
        for number in numbers:
            loop.add_signal_handler(number, handler)

    try:
        yield call
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _end(tasks: Mapping[str, "asyncio.Future[None]"], seconds_max: float) -> None:
    if not tasks:
        return
    await asyncio.wait(tasks.values(), timeout=seconds_max)
    for name, task in tasks.items():
        if not task.done():
            log.error("a background task did not end in time and is cut off", extra={"task": name})
            task.cancel()
    results = await asyncio.gather(*tasks.values(), return_exceptions=True)
    for name, result in zip(tasks, results, strict=True):
        if isinstance(result, Exception):
            log.error("a background task failed", extra={"task": name}, exc_info=result)
