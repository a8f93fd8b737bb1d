"""The way from an API to its worker: append to the inbox, wait for what was decided, read the outcome (DESIGN §7)."""

import asyncio
import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from shared.events.envelope import Event, encode
from shared.log.port import EVENTS, At, Entry, Log, inbox, partition_of
from shared.runtime.state import REQUESTS, RequestRow
from shared.runtime.store import Reached, Store

NET_SECONDS: Final = 1.0
"""How often a waiter asks the database, in case an announcement was lost."""


class AheadOfLog(ValueError):
    """A position beyond the log's end: it is not from this system, or the log lost its tail."""


class Appender(Protocol):
    """Appends one entry among many callers (`shared.log.lanes.Lanes`)."""

    async def append(self, at: At, entry: Entry) -> int: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a request. `outcome` is None while it is not decided; then `offset` is where to wait on."""

    partition: int
    offset: int
    outcome: RequestRow | None
    published: int
    """The stream offset of `partition` that includes the outcome, 0 when there is none yet."""


class Front:
    """One API process's view of how far its worker is."""

    def __init__(
        self, worker: str, log: Log, appender: Appender, store: Store, *, partitions: int, generation: int = 1
    ) -> None:
        self.worker, self.partitions = worker, partitions
        self._log, self._appender, self._store = log, appender, store
        self.inbox_topic = inbox(worker, generation)
        self._reached: dict[int, Reached] = {}
        self._waiters: dict[tuple[int, str], list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._order = count()
        self._stop_listening: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Start hearing announcements."""
        self._stop_listening = await self._store.listen(self.hear)

    async def close(self) -> None:
        """Stop hearing; waiters run into their time-out."""
        self._stop_listening()

    async def append(self, event: Event) -> tuple[int, int]:
        """Append an input to the inbox, keyed by its subject; returns its partition and offset once durable."""
        partition = partition_of(event.tenant, event.subject, self.partitions)
        key = f"{event.tenant}/{event.subject}".encode()
        offset = await self._appender.append(At(self.inbox_topic, partition), Entry(key, encode(event)))
        return partition, offset

    async def ask(self, event: Event, wait_seconds: float) -> Asked:
        """Append a request and wait for its outcome; with none in time, `outcome` is None and it is still decided.

        A repeated request is answered from the recorded outcome, which may be of another body (compare `body_hash`) or
        of another partition, whose own relay the log must have acknowledged.
        """
        partition, offset = await self.append(event)
        if not await self.wait(inbox={partition: offset + 1}, events={}, wait_seconds=wait_seconds):
            return Asked(partition, offset, None, 0)
        outcome = await self.outcome(event.tenant, event.request_key)
        if outcome is None or outcome.partition == partition:
            return Asked(partition, offset, outcome, self._reached[partition].published)
        decided = await self.recall(event.tenant, event.request_key, wait_seconds)
        return decided if decided is not None and decided.published else Asked(partition, offset, None, 0)

    async def outcome(self, tenant: str, key: str) -> RequestRow | None:
        """The recorded outcome of a request."""
        rows = await self._store.load(REQUESTS, [(tenant, key)])
        return rows[0] if rows else None

    async def recall(self, tenant: str, key: str, wait_seconds: float) -> Asked | None:
        """What became of a request asked earlier; None: it was not decided. `published` is 0 while the log has not
        acknowledged its outcome within the wait."""
        outcome = await self.outcome(tenant, key)
        if outcome is None:
            return None
        position = await self._store.position(outcome.partition)
        offset = 0 if position is None else position.offsets.get(self.inbox_topic, 0)
        told = await self.wait(inbox={outcome.partition: offset}, events={}, wait_seconds=wait_seconds)
        published = self._reached[outcome.partition].published if told else 0
        return Asked(outcome.partition, offset - 1, outcome, published)

    async def wait(self, *, inbox: Mapping[int, int], events: Mapping[int, int], wait_seconds: float) -> bool:
        """Wait until the worker has answered the inbox, and applied the stream, up to these next offsets.

        Returns False when the time is out.
        """
        wanted = [(q, "inbox", offset) for q, offset in inbox.items()]
        wanted += [(q, "events", offset) for q, offset in events.items()]
        deadline = asyncio.get_running_loop().time() + wait_seconds
        for q, name, offset in wanted:
            if not await self._wait_one(q, name, offset, deadline):
                return False
        return True

    async def refuse_ahead(self, *, inbox: Mapping[int, int], events: Mapping[int, int]) -> None:
        """Raise AheadOfLog for a position that the log has not given out."""
        wanted = {At(self.inbox_topic, q): offset for q, offset in inbox.items()}
        wanted |= {At(EVENTS, q): offset for q, offset in events.items()}
        if not wanted:
            return
        ends = await self._log.ends(list(wanted))
        for at, offset in wanted.items():
            if offset > ends[at]:
                raise AheadOfLog(f"position {offset} of {at.topic}/{at.partition} is beyond its end {ends[at]}")

    async def stream_ends(self) -> dict[int, int]:
        """The stream's next offset on every partition: a position that includes all the log has acknowledged."""
        ends = await self._log.ends([At(EVENTS, q) for q in range(self.partitions)])
        return {at.partition: end for at, end in ends.items()}

    async def _wait_one(self, q: int, name: str, offset: int, deadline: float) -> bool:
        loop = asyncio.get_running_loop()
        if q not in self._reached:
            self.hear(await self._store.reached(q))
        while self._at(q, name) < offset:
            left = deadline - loop.time()
            if left <= 0:
                return False
            future: asyncio.Future[None] = loop.create_future()
            heapq.heappush(self._waiters.setdefault((q, name), []), (offset, next(self._order), future))
            await asyncio.wait((future,), timeout=min(left, NET_SECONDS))
            if not future.done():
                future.cancel()
                self.hear(await self._store.reached(q))
        return True

    def _at(self, q: int, name: str) -> int:
        known = self._reached.get(q)
        if known is None:
            return 0
        return known.inbox if name == "inbox" else known.events

    def hear(self, told: Reached) -> None:
        """An announcement, in whatever order they come: positions only grow here."""
        q = told.partition
        known = self._reached.get(q, Reached(q, 0, 0, 0))
        now = Reached(q, *(max(ours, theirs) for ours, theirs in zip(known[1:], told[1:], strict=True)))
        self._reached[q] = now
        for name, offset in (("inbox", now.inbox), ("events", now.events)):
            waiting = self._waiters.get((q, name), [])
            while waiting and (waiting[0][0] <= offset or waiting[0][2].done()):
                _, _, future = heapq.heappop(waiting)
                if not future.done():
                    future.set_result(None)
