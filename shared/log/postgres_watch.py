"""Who waits for the embedded log: what this process knows of each partition's extent, and how it hears of more.

One connection per process listens and notifies for all its readers. It is never the connection of an append: NOTIFY
in a transaction serialises all commits of the server. What is lost on the way (a restart, a dead connection) is found
by a slow poll of the head rows.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Final, NamedTuple

import asyncpg

from shared.log.port import LogError, LogUnavailable

CHANNEL: Final = "regulars_log"
POLL_SECONDS: Final = 1.0
GATHER_SECONDS: Final = 0.005
"""After one notification the next gathers what comes meanwhile; this process's own readers wait for none."""
PLACES_PER_NOTIFY: Final = 150
"""A payload has at most 8,000 bytes; a place and its end need at most 43."""

CONNECTION_ERRORS: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What may be over when it is tried again; any other error of the server is a bug and goes up as it is.

asyncpg raises InternalClientError when a statement meets the server's farewell on an idle connection.
"""

NOTIFY = "select pg_notify($1, $2)"


class Place(NamedTuple):
    """One partition of one topic, by the topic's number."""

    topic_id: int
    partition: int


class Extent(NamedTuple):
    """The offset of the first record that is kept, and that of the next one to come."""

    start: int
    end: int


Connect = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]
Heads = Callable[[Iterable[Place]], Awaitable[Mapping[Place, Extent]]]


class Waiter:
    """A reader's place in the watch: `event` is set whenever one of its places may have something to take.

    `doubtful` are places whose position was seen outside of the topic: taking tells whether it is lost.
    """

    def __init__(self, positions: dict[Place, int]) -> None:
        self.positions = positions
        self.doubtful: set[Place] = set()
        self.event = asyncio.Event()


class Watch:
    """Known ends, waiting readers, and the two tasks that keep both up to date."""

    def __init__(self, connect: Connect, heads: Heads, lost: Callable[[], None]) -> None:
        """`lost` is called when the connection ends, before a server that comes back can answer anything."""
        self._connect = connect
        self._heads = heads
        self._lost = lost
        self._ends: dict[Place, int] = {}
        self._waiters: dict[Waiter, None] = {}
        self._untold: dict[Place, int] = {}
        self._to_do = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def may_take(self, waiter: Waiter, place: Place) -> bool:
        """Whether a record is there, or the position looks lost."""
        return self._ends.get(place, 0) > waiter.positions[place] or place in waiter.doubtful

    def appended(self, place: Place, end: int) -> None:
        """This process appended up to `end`: wake its readers now and tell the other processes soon."""
        self._rise(place, end)
        self._untold[place] = max(end, self._untold.get(place, 0))
        self._start(self._talk)
        self._to_do.set()

    def taken(self, place: Place, end: int) -> None:
        """A reader has seen records up to `end`, so they are there."""
        self._ends[place] = max(end, self._ends.get(place, 0))

    async def add(self, waiter: Waiter) -> None:
        """Begin to watch a reader's places; raises LogUnavailable."""
        self._waiters[waiter] = None
        self._start(self._talk)
        self._start(self._poll)
        await self.refresh(waiter.positions)

    def remove(self, waiter: Waiter) -> None:
        self._waiters.pop(waiter, None)

    async def refresh(self, places: Iterable[Place]) -> Mapping[Place, Extent]:
        """Read the head rows, and wake the readers that are behind, or outside, of what they say."""
        known = dict(self._ends)
        found = await self._heads(places)
        for place, extent in found.items():
            if extent.end < self._ends.get(place, 0) == known.get(place):
                self._ends[place] = extent.end  # The database is an older one than before.
            self._rise(place, extent.end)
            for waiter in self._waiters:
                position = waiter.positions.get(place, extent.end)
                if not extent.start <= position <= extent.end:
                    waiter.doubtful.add(place)
                    waiter.event.set()
        return found

    def raise_if_dead(self) -> None:
        """Raise LogUnavailable when a task of the watch ended by a bug: no one would ever be woken."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise LogUnavailable("the log's watch has died; restart this process") from error

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _rise(self, place: Place, end: int) -> None:
        if end <= self._ends.get(place, 0):
            return
        self._ends[place] = end
        for waiter in self._waiters:
            if place in waiter.positions:
                waiter.event.set()

    def _start(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        name = f"log-{work.__name__.lstrip('_')}"
        if all(task.get_name() != name for task in self._tasks):
            task = asyncio.create_task(work(), name=name)
            task.add_done_callback(self._wake_all)
            self._tasks.append(task)

    def _wake_all(self, _ended: object) -> None:
        for waiter in self._waiters:
            waiter.event.set()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            places = {place for waiter in self._waiters for place in waiter.positions}
            if places:
                with contextlib.suppress(LogError):
                    await self.refresh(places)

    async def _talk(self) -> None:
        """Listen and notify until cancelled, over as many connections as it takes."""
        while True:
            with contextlib.suppress(*CONNECTION_ERRORS):
                connection = await self._connect()
                try:
                    connection.add_termination_listener(self._terminated)
                    await connection.add_listener(CHANNEL, self._hear)
                    await self._tell(connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(POLL_SECONDS)

    def _terminated(self, _connection: object) -> None:
        self._lost()
        self._to_do.set()

    async def _tell(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        while not connection.is_closed():
            await self._to_do.wait()
            self._to_do.clear()
            told, self._untold = self._untold, {}
            places = list(told.items())
            for first in range(0, len(places), PLACES_PER_NOTIFY):
                some = places[first : first + PLACES_PER_NOTIFY]
                payload = " ".join(f"{place.topic_id}:{place.partition}:{end}" for place, end in some)
                await connection.execute(NOTIFY, CHANNEL, payload)
            await asyncio.sleep(GATHER_SECONDS)

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        for word in str(payload).split():
            topic_id, partition, end = word.split(":")
            self._rise(Place(int(topic_id), int(partition)), int(end))
