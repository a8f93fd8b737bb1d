"""Waking those who wait, by NOTIFY and LISTEN, each on a connection of its own.

A NOTIFY inside the batches' transactions would serialise every commit of the server, so it goes out after the commit,
on one connection that does not wait for the disk. An announcement may be lost; `Store.reached` is the slow net.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from shared.runtime.postgres_session import Connection, answers
from shared.runtime.store import Reached, StoreError, StoreUnavailable

PER_PAYLOAD: Final = 80
"""Four numbers of at most 20 digits each stay under the 8,000 bytes of a NOTIFY."""
PING_SECONDS: Final = 10.0
PING_TIMEOUT_SECONDS: Final = 5.0
BACK_OFF_SECONDS: Final = (0.05, 0.2, 1.0, 3.0)

NOTIFY = "select pg_notify($1, payload) from unnest($2::text[]) as payload"
PING = "select 1"


def to_payloads(reached: Sequence[Reached]) -> list[str]:
    """`partition,inbox,events,published` joined by semicolons."""
    texts = [",".join(map(str, each)) for each in reached]
    return [";".join(texts[at : at + PER_PAYLOAD]) for at in range(0, len(texts), PER_PAYLOAD)]


def from_payload(payload: str) -> list[Reached]:
    return [Reached(*map(int, text.split(","))) for text in payload.split(";")]


class Announcer:
    """Sends; the connection is made when first needed and again after it was lost."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], channel: str) -> None:
        self._connect = connect
        self._channel = channel
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def announce(self, reached: Sequence[Reached]) -> None:
        """Raises StoreUnavailable; what was not announced then is lost."""
        if not reached:
            return
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            try:
                with answers(self._connection):
                    await self._connection.execute(NOTIFY, self._channel, to_payloads(reached))
            except StoreError as error:
                self.close()
                raise StoreUnavailable(str(error)) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Listener:
    """Hears; one connection serves all who listen, is tried out when it is silent, and made again when it is lost."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], channel: str, timeout_seconds: float) -> None:
        self._connect = connect
        self._channel = channel
        self._timeout_seconds = timeout_seconds
        self._heard: dict[object, Callable[[Reached], None]] = {}
        self._ready = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def listen(self, heard: Callable[[Reached], None]) -> Callable[[], None]:
        """Returns once the database listens for us. Raises StoreUnavailable when that takes too long."""
        ticket = object()
        self._heard[ticket] = heard
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_listening(), name=f"listen {self._channel}")
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._ready.wait()
        except TimeoutError:
            del self._heard[ticket]
            raise StoreUnavailable("the database does not listen for announcements") from None
        return lambda: self._heard.pop(ticket, None) and None

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None

    async def _keep_listening(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen_once()
                failures = 0
            except StoreError:
                await asyncio.sleep(BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS) - 1)])
                failures += 1

    async def _listen_once(self) -> None:
        """Listen until the connection is lost."""
        connection = await self._connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _connection: lost.set())
            with answers(connection):
                await connection.add_listener(self._channel, self._hear)
            self._ready.set()
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PING_SECONDS):
                        await lost.wait()
                if not lost.is_set():
                    with answers(connection):
                        await connection.execute(PING, timeout=PING_TIMEOUT_SECONDS)
        finally:
            self._ready.clear()
            connection.terminate()

    def _hear(self, _connection: Any, _process: int, _channel: str, payload: object) -> None:
        for reached in from_payload(str(payload)):
            for heard in list(self._heard.values()):
                heard(reached)
