"""The relay: publishes a partition's outbox in order, one batch in flight per target (DESIGN §6 step 7)."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from shared.log.port import BATCH_BYTES_MAX, EVENTS, AppendFailed, At, Entry, Log, LogUnavailable
from shared.runtime.recorder import Recorder
from shared.runtime.store import OutboxRow, Sent, Store

BACKLOG_ROWS: Final = 5_000
WAITING_BYTES_MAX: Final = 16 * 1024 * 1024
RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)

Point = Callable[[str], Awaitable[None]]
"""Awaited before and after each named step: where a test kills, delays or counts."""


async def no_point(_name: str) -> None:
    """The point of production: nothing."""


class Relay:
    """Publishes what a partition committed, and says up to which inbox offset the outcomes are in the log.

    A row may be appended twice (an answer lost, a suffix repeated): readers drop it by its sequence.
    """

    def __init__(
        self,
        log: Log,
        store: Store,
        recorder: Recorder,
        partition: int,
        told: Callable[[], None],
        counters: Counter[str],
        point: Point,
    ) -> None:
        self.sent: dict[int, Sent] = {}
        self.answered = 0
        """The next inbox offset whose outcome the log has not acknowledged yet."""
        self._log, self._store, self._recorder, self._q, self._told = log, store, recorder, partition, told
        self._counters, self._point = counters, point
        self._queue: deque[tuple[Sequence[OutboxRow], int]] = deque()
        self._waiting_bytes = 0
        self._pushed, self._progressed = asyncio.Event(), asyncio.Event()
        self._unnoted: dict[int, Sent] = {}

    async def catch_up(self, answered: int) -> None:
        """Publish what an earlier owner left; then the outcomes of inputs before `answered` are in the log."""
        while rows := await self._store.unsent(self._q, self.sent, BACKLOG_ROWS):
            await self._publish(rows)
            self._counters["backlog_rows"] += len(rows)
        self.answered = max(self.answered, answered)
        self._unnoted = dict(self.sent)
        self._note()

    def push(self, rows: Sequence[OutboxRow], answered: int) -> None:
        """Hand over the rows of a commit, and the inbox offset it reached."""
        self._queue.append((rows, answered))
        self._waiting_bytes += sum(len(row.value) for row in rows)
        self._pushed.set()

    async def room(self) -> None:
        """Wait while more than WAITING_BYTES_MAX are not published, so that memory stays bounded."""
        while self._waiting_bytes > WAITING_BYTES_MAX:
            self._progressed.clear()
            await self._progressed.wait()

    async def drained(self) -> None:
        """Wait until everything pushed is acknowledged and recorded."""
        while self._queue:
            self._progressed.clear()
            await self._progressed.wait()
        await self._recorder.flushed(self._q)

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            while not self._queue:
                self._pushed.clear()
                await self._pushed.wait()
            taken = list(self._queue)
            rows = [row for pushed, _ in taken for row in pushed]
            await self._publish(rows)
            self.answered = max(self.answered, taken[-1][1])
            self._note()
            await self._point("relay.acknowledged")
            for _ in taken:
                self._queue.popleft()
            self._waiting_bytes -= sum(len(row.value) for row in rows)
            self._progressed.set()

    def _note(self) -> None:
        """Tell those who wait, and have it recorded where the next owner goes on."""
        self._told()
        sent, self._unnoted = self._unnoted, {}
        self._recorder.note(self._q, sent, self.answered)

    async def _publish(self, rows: Iterable[OutboxRow]) -> None:
        for wave in _waves(rows):
            targets: dict[int, list[OutboxRow]] = {}
            for row in wave:
                targets.setdefault(row.target, []).append(row)
            await asyncio.gather(*(self._to(target, found) for target, found in sorted(targets.items())))

    async def _to(self, target: int, rows: Sequence[OutboxRow]) -> None:
        last = self.sent.get(target, Sent(0, 0)).sequence
        for batch in _batches([row for row in rows if row.sequence > last]):
            entries = [Entry(row.key, row.value) for row in batch]
            first = await self._append(At(EVENTS, target), entries)
            self.sent[target] = self._unnoted[target] = Sent(batch[-1].sequence, first + len(entries))
            self._counters["published"] += len(entries)

    async def _append(self, at: At, entries: Sequence[Entry]) -> int:
        attempt = 0
        while True:
            try:
                await self._point("relay.append")
                return await self._log.append(at, entries)
            except (AppendFailed, LogUnavailable):
                self._counters["append_retried"] += 1
                await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
                attempt += 1


def _waves(rows: Iterable[OutboxRow]) -> Iterator[list[OutboxRow]]:
    """Split rows so that letters start only after the facts before them are acknowledged.

    A wave is the facts of some groups, or the letters of one; waves are published one after the other, which also
    keeps each target's sequences in order.
    """
    ordered = sorted(rows, key=lambda row: (row.group, row.letter, row.target, row.sequence))
    for _letter, wave in groupby(ordered, key=lambda row: row.group if row.letter else 0):
        yield list(wave)


def _batches(rows: Sequence[OutboxRow]) -> Iterator[list[OutboxRow]]:
    """Whole groups up to BATCH_BYTES_MAX: what one input yields on a target is never split."""
    batch: list[OutboxRow] = []
    size = 0
    for _group, found in groupby(rows, key=lambda row: row.group):
        group = list(found)
        weight = sum(len(row.key) + len(row.value) for row in group)
        if batch and size + weight > BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
        batch = [*batch, *group]
        size += weight
    if batch:
        yield batch
