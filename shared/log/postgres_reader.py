"""Reading from the embedded log: a query only where the watch says that something is there."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

from shared.log.port import At, OffsetMissing, Record
from shared.log.postgres_watch import Place, Waiter, Watch

Read = Callable[[At, Place, int, int], Awaitable[list[Record]]]
"""Records of a place from a position, at most so many."""


class PostgresReader:
    """Reads by offset where the watch says that something is there."""

    def __init__(self, read: Read, watch: Watch, waiter: Waiter, places: Mapping[At, Place], gaps: set[str]) -> None:
        self._read = read
        self._watch = watch
        self._waiter = waiter
        self._places = places
        self._gaps = gaps

    async def wait(self, timeout_seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while not self._ready():
                    self._watch.raise_if_dead()
                    await self._waiter.event.wait()
                    self._waiter.event.clear()
        return self._ready()

    async def take(self, at: At, most: int) -> list[Record]:
        place = self._places[at]
        position = self._waiter.positions[place]
        if not self._watch.may_take(self._waiter, place):
            return []
        self._waiter.doubtful.discard(place)
        records = await self._read(at, place, position, most)
        if not records:
            await self._confirm(at, place, position)
            return []
        if records[0].offset != position and at.topic not in self._gaps:
            raise OffsetMissing(f"{at}: offset {position} is gone, the topic goes on at {records[0].offset}")
        self._waiter.positions[place] = records[-1].offset + 1
        self._watch.taken(place, records[-1].offset + 1)
        return records

    async def close(self) -> None:
        self._watch.remove(self._waiter)

    def _ready(self) -> bool:
        return any(self._watch.may_take(self._waiter, place) for place in self._waiter.positions)

    async def _confirm(self, at: At, place: Place, position: int) -> None:
        extent = (await self._watch.refresh([place]))[place]
        if not extent.start <= position <= extent.end:
            raise OffsetMissing(f"{at}: position {position} is outside of the topic, {extent.start} to {extent.end}")
