"""One owned partition of a worker: the numbered batch of DESIGN §6, again and again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from shared.events.envelope import head
from shared.gathered import Gathered
from shared.log.port import EVENTS, At, Log, Reader, Record, inbox, partition_of
from shared.runtime.accept import DatabaseOlderThanLog, Unreadable, Work, accept, timers
from shared.runtime.commit import Batch, Committer, Stale
from shared.runtime.recorder import Recorder
from shared.runtime.relay import Point, Relay, no_point
from shared.runtime.store import Due, Position, Reached, Sent, Store
from shared.runtime.tables import Kept, Key, Table
from shared.runtime.turn import Context, Failed, Turn

FLUSH_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 5.0
SCAN_RECORDS: Final = 5_000
PASSED_OVER_MAX: Final = 5_000
"""Records without work that a restart may have to read again; where there is a pause, they are committed before."""
STREAM_FIRST_SECONDS: Final = 0.005


@dataclass(frozen=True)
class Tuning:
    """What an operator may set of the batch loop."""

    batch_max: int = 1_000
    """Records of one batch at the most."""
    lease_seconds: float = 10.0
    linger_seconds: float = 0.005
    """T: how long a batch without a request waits for more of the stream, so that small ones become one."""
    generation: int = 1
    """Of the inbox topics; raised by `regulars log copy`."""


class Parts:
    """What all partitions of a worker process share."""

    def __init__(
        self,
        context: Context,
        log: Log,
        store: Store,
        *,
        tuning: Tuning,
        wall: Callable[[], datetime],
        publish_keys: Callable[[], Awaitable[None]],
        announce: Callable[[Reached], None],
        counters: Counter[str],
        point: Point = no_point,
    ) -> None:
        self.context, self.log, self.store, self.tuning = context, log, store, tuning
        self.wall, self.announce = wall, announce
        self.counters, self.point = counters, point
        self.committer = Committer(context, store, tuning.batch_max, publish_keys, counters, point)
        self.recorder = Recorder(store)
        self.due = Gathered(self._due, "due timers")
        self.due_most = max(1, tuning.batch_max // 4)
        self.inbox = inbox(context.rules.worker, tuning.generation)

    async def _due(self, partitions: Sequence[int]) -> Mapping[int, list[Due]]:
        return await self.store.due(partitions, self.wall(), self.due_most)

    async def close(self) -> None:
        """End what runs for all partitions."""
        await self.committer.close()
        await self.recorder.close()
        await self.due.close()


class OwnedPartition:
    """Runs one partition from the position it was claimed with until it is stopped or lost."""

    relay_class = Relay

    def __init__(self, parts: Parts, position: Position) -> None:
        self.position = position
        self.stopping = asyncio.Event()
        self._parts, self._q = parts, position.partition
        self._inbox, self._events = At(parts.inbox, self._q), At(EVENTS, self._q)
        self._relay = self.relay_class(
            parts.log, parts.store, parts.recorder, self._q, self._tell, parts.counters, parts.point
        )
        self._reader: Reader
        self._stream_first = 0
        """Up to this offset the stream is read before any request: configuration and clocks stand there."""
        self._tenants: set[bytes] = set()
        """Whose requests have come: the stream was read as far as it went when the first of each came."""
        self._held: list[Record] = []
        """Requests that wait for that."""
        self._passed_over = 0
        self._kept = Kept()
        self._next_due: datetime | None = None
        self._timers_ready = True
        self._flush_at = 0.0
        self._lingers = False
        """Something came while this partition was idle: when it is no request, more of the stream is worth a moment."""

    async def run(self) -> None:
        """Raises Stale, PartitionStopped, StoreError or LogError; ends quietly when `stopping` is set."""
        parts, position = self._parts, self.position
        await self._refuse_older_database()
        if self.stopping.is_set():
            return
        await self._relay.catch_up(position.offsets.get(self._inbox.topic, 0))
        if parts.context.rules.settles:
            self._next_due = await parts.store.next_due(self._q)
        self._reader = await parts.log.reader(
            {at: position.offsets.get(at.topic, 0) for at in (self._inbox, self._events)}
        )
        relay = asyncio.create_task(self._relay.run(), name=f"relay {parts.context.rules.worker}.{self._q}")
        batches = asyncio.create_task(self._batches(), name=f"batches {parts.context.rules.worker}.{self._q}")
        drained: asyncio.Task[None] | None = None
        try:
            await _first(relay, batches)
            drained = asyncio.create_task(self._relay.drained(), name="drained")
            await _first(relay, drained)
        finally:
            await _end(relay, batches, *([drained] if drained else []))
            await self._reader.close()

    async def _batches(self) -> None:
        while not self.stopping.is_set():
            await self._relay.room()
            records, due = await self._take()
            if records or due:
                await self._parts.point("batch.1")
                await self._advance(records, due)
            else:
                await self._idle()
        await self._flush()

    async def _take(self) -> tuple[list[Record], list[Work]]:
        """Step 1: what is there: requests first, then the stream, then due timers, each with a minimum share."""
        most = self._parts.tuning.batch_max
        if self.position.offsets.get(EVENTS, 0) < self._stream_first:
            return await self._reader.take(self._events, most), []
        requests, self._held = self._held, []
        requests = requests or await self._reader.take(self._inbox, max(1, most * 2 // 3))
        if not requests and self._lingers:
            await asyncio.sleep(self._parts.tuning.linger_seconds)
            requests = await self._reader.take(self._inbox, max(1, most * 2 // 3))
        self._lingers = False
        if await self._hold_first(requests):
            return await self._reader.take(self._events, most), []
        events = await self._reader.take(self._events, max(1, most - len(requests)))
        due: list[Work] = []
        now = self._parts.wall()
        waiting = self._timers_ready or (self._next_due is not None and self._next_due <= now)
        if waiting and self._parts.context.rules.settles:
            found = await self._parts.due.of(self._q)
            self._timers_ready = len(found) == self._parts.due_most
            if not self._timers_ready and self._next_due is not None and self._next_due <= now:
                self._next_due = await self._parts.store.next_due(self._q)
            due = timers(found)
        return requests + events, due

    async def _hold_first(self, requests: list[Record]) -> bool:
        """Hold requests of a tenant that was not heard of: its first letter, with its clock, is on the stream before
        anybody has its key, but it may not be read here yet."""
        strangers = {record.key.partition(b"/")[0] for record in requests} - self._tenants
        if not strangers:
            return False
        self._tenants |= strangers
        self._stream_first = (await self._parts.log.ends([self._events]))[self._events]
        if self.position.offsets.get(EVENTS, 0) >= self._stream_first:
            return False
        self._held = requests
        return True

    async def _advance(self, records: Sequence[Record], due: Sequence[Work]) -> None:
        try:
            await self._batch(records, due)
        except Failed as failure:
            if len(records) + len(due) == 1:
                await self._park(records, due, failure)
                return
            for record in records:
                await self._advance([record], [])
            for work in due:
                await self._advance([], [work])

    async def _park(self, records: Sequence[Record], due: Sequence[Work], failure: Failed) -> None:
        try:
            await self._batch(records, due, park=failure)
        except Failed as again:
            raise Unreadable(f"{failure} can be neither decided nor parked; mend the rule and deploy") from again

    async def _batch(self, records: Sequence[Record], due: Sequence[Work], park: Failed | None = None) -> None:
        parts, counted = self._parts, Counter[str]()
        position = deepcopy(self.position)
        works = [*self.accept(position, records, counted), *due]
        if park is not None:
            if park.work.kind != "request":
                raise Unreadable(f"deciding on {park} raised; mend the rule and deploy") from park.error
            for work in works:
                work.unreadable = f"{type(park.error).__name__}: {park.error}"
        if not works:
            inbox, before = self._inbox.topic, self.position.offsets
            if position.offsets.get(inbox, 0) != before.get(inbox, 0):
                self._relay.push((), position.offsets[inbox])
            self.position = position
            self._passed_over += len(records)
            parts.counters.update(counted)
            self._tell()
            if self._passed_over >= PASSED_OVER_MAX:
                await self._flush()
            return
        await parts.point("batch.3")
        turn = await self._commit(position, works)
        parts.counters.update(counted)
        parts.counters["batches"] += 1
        self._remember_timers(turn)
        self._relay.push(turn.outbox, turn.position.offsets.get(self._inbox.topic, 0))
        self._tell()

    def accept(self, position: Position, records: Sequence[Record], counted: Counter[str]) -> list[Work]:
        """Step 3."""
        return accept(self._parts.context.rules, position, records, counted)

    async def _commit(self, position: Position, works: Sequence[Work]) -> Turn:
        """Steps 2 to 7."""
        turn = await self._parts.committer.commit(Batch(self.position, position, works, self._kept))
        self.position = turn.position
        self._passed_over = 0
        self._kept.keep((place, rows) for table, place, rows in turn.rows.committed() if self._owns(table, place[1]))
        return turn

    def _owns(self, table: Table[Any], group: Key) -> bool:
        """Whether nobody else writes this group: what tenant-wide letters are about belongs to one partition only."""
        if table.feed == "others":
            return True
        tenant, subject, *_ = group
        return partition_of(tenant, subject, self._parts.context.partitions) == self._q

    async def _flush(self) -> None:
        """Commit the position over records that needed no work."""
        if self._passed_over:
            await self._commit(deepcopy(self.position), ())

    async def _idle(self) -> None:
        if self.position.offsets.get(EVENTS, 0) < self._stream_first:
            await asyncio.sleep(STREAM_FIRST_SECONDS)  # requests that wait would wake the reader for nothing
            return
        loop = asyncio.get_running_loop()
        if self._passed_over and not self._flush_at:
            self._flush_at = loop.time() + FLUSH_SECONDS
        if self._passed_over and loop.time() >= self._flush_at:
            self._flush_at = 0.0
            await self._flush()
        patience = IDLE_SECONDS
        if self._next_due is not None:
            patience = max(0.0, min(patience, (self._next_due - self._parts.wall()) / timedelta(seconds=1)))
        if self._passed_over:
            patience = min(patience, FLUSH_SECONDS)
        arrival = asyncio.create_task(self._reader.wait(patience), name="arrival")
        stop = asyncio.create_task(self.stopping.wait(), name="stop")
        try:
            await _first(arrival, stop)
            self._lingers = arrival.done() and arrival.result()
        finally:
            await _end(arrival, stop)

    def _remember_timers(self, turn: Turn) -> None:
        self._timers_ready = self._timers_ready or turn.timers_ready
        if turn.next_due is not None:
            self._next_due = turn.next_due if self._next_due is None else min(self._next_due, turn.next_due)

    def _tell(self) -> None:
        published = self._relay.sent.get(self._q, Sent(0, 0)).next_offset
        applied = self.position.offsets.get(self._events.topic, 0)
        self._parts.announce(Reached(self._q, self._relay.answered, applied, published))

    async def _refuse_older_database(self) -> None:
        """Read every target from its last acknowledged offset to the end: are there own events beyond own sequences?"""
        parts, store = self._parts, self._parts.store
        sent, self._relay.answered = await store.sent(self._q)
        targets = [At(EVENTS, target) for target in range(parts.context.partitions)]
        ends = await parts.log.ends(targets)
        self._stream_first = ends[self._events]
        own = f"{parts.context.rules.worker}.{self._q}"
        for at in targets:
            if self.stopping.is_set():
                return
            known = sent.get(at.partition, Sent(0, 0))
            beyond = max(known.sequence, await self._last_own(at, known, ends[at], own))
            committed = self.position.sequences.get(at.partition, 0)
            if beyond > committed:
                await self._refuse_if_stale()
                raise DatabaseOlderThanLog(
                    f"the stream's partition {at.partition} holds sequence {beyond} of {own}, the database knows "
                    f"{committed}: it is older than the log. Run `regulars rebuild {parts.context.rules.worker}`"
                )
            sent[at.partition] = Sent(max(known.sequence, beyond), max(known.next_offset, ends[at]))
        self._relay.sent = {target: done for target, done in sent.items() if done != Sent(0, 0)}

    async def _refuse_if_stale(self) -> None:
        """What stands beyond may be a successor's: this owner stalled since its claim. Raises Stale."""
        now = await self._parts.store.position(self._q)
        if now is None or now.version != self.position.version:
            raise Stale(f"{self._parts.context.rules.worker}.{self._q}")

    async def _last_own(self, at: At, known: Sent, end: int, own: str) -> int:
        """The last own sequence on a target. What that partition of this worker has read already is not read again."""
        start, last = known.next_offset, 0
        if start >= end:
            return last
        reading = await self._parts.store.position(at.partition)
        if reading is not None and reading.offsets.get(EVENTS, 0) > start:
            start, last = reading.offsets[EVENTS], reading.seen.get(own, 0)
        if start >= end:
            return last
        reader = await self._parts.log.reader({at: start})
        try:
            while start < end:
                records = await reader.take(at, SCAN_RECORDS)
                if not records:
                    await reader.wait(FLUSH_SECONDS)
                    continue
                for record in records:
                    producer, sequence, _ = head(record.value or b"")
                    if producer == own:
                        last = max(last, sequence)
                start = records[-1].offset + 1
        finally:
            await reader.close()
        return last


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what still runs; what ended by an exception has been looked at already."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Wait until one of the tasks ends; raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
