"""A wire between a client and the test server that can be cut or fall silent, as networks do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, unquote, urlsplit


class Wire:
    """Forwards every connection; `url` leads through it."""

    def __init__(self, url: str) -> None:
        self._given = urlsplit(url)
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    def cut(self) -> None:
        """Break all connections on the client's side; the server still gets what was sent before."""
        for client, server in self._pairs:
            client.transport.abort()
            if server.can_write_eof():
                server.write_eof()
        self._pairs.clear()

    def silence(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        self._flowing.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        directory = parse_qs(self._given.query).get("host")
        if directory:
            to_reader, to_writer = await asyncio.open_unix_connection(unquote(directory[0]) + "/.s.PGSQL.5432")
        else:
            to_reader, to_writer = await asyncio.open_connection(self._given.hostname, self._given.port or 5432)
        self._pairs.append((writer, to_writer))
        for source, sink in ((reader, to_writer), (to_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while found := await source.read(65536):
                await self._flowing.wait()
                sink.write(found)
            sink.close()

    async def close(self) -> None:
        for client, server in self._pairs:
            client.transport.abort()
            server.transport.abort()
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    """A wire to the server of this URL, on a port of its own."""
    wire = Wire(url)
    listening = await asyncio.start_server(wire._accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    given = urlsplit(url)
    login = f"{given.username}:{given.password}" if given.password else given.username
    wire.url = f"postgresql://{login}@127.0.0.1:{port}{given.path}?sslmode=disable"
    try:
        yield wire
    finally:
        listening.close()
        await wire.close()
