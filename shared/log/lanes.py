"""Lanes: many concurrent callers append single entries, and each partition sees one batch at a time.

An API server has hundreds of requests in flight and the log wants few, big appends in a known order. Per partition
there is a lane: what waits in it while an append is in flight makes up the next one. The queue is bounded, and so
are a batch and the time that a failed append is tried again.
"""

import asyncio
from collections import deque
from typing import Final, NamedTuple

from shared.log.port import (
    BATCH_BYTES_MAX,
    ENTRY_BYTES_MAX,
    AppendFailed,
    At,
    Entry,
    EntryRefused,
    Log,
    LogError,
    LogUnavailable,
)

ENTRIES_PER_BATCH: Final = 500
WAITING_MAX: Final = 5_000
"""Entries that may wait in one lane; at 1,000 appends of one entry a second that is five seconds of them."""
KEY_BYTES_MAX: Final = 1_024
RETRY_SECONDS: Final = 10.0
PAUSE_SECONDS_FIRST: Final = 0.02
PAUSE_SECONDS_MAX: Final = 1.0


class _Waiting(NamedTuple):
    entry: Entry
    offset: asyncio.Future[int]


class Lanes:
    """Appends single entries through one lane per partition."""

    def __init__(self, log: Log, *, waiting_max: int = WAITING_MAX, retry_seconds: float = RETRY_SECONDS) -> None:
        self._log = log
        self._waiting_max = waiting_max
        self._retry_seconds = retry_seconds
        self._lanes: dict[At, deque[_Waiting]] = {}
        self._runners: dict[At, asyncio.Task[None]] = {}
        self._closed = False

    async def append(self, at: At, entry: Entry) -> int:
        """Append one entry and return its offset once it is durable.

        Raises EntryRefused at once for a tombstone or more than ENTRY_BYTES_MAX; LogUnavailable when the lane is
        full or closed, with nothing appended; AppendFailed when the log gave no answer in time: append it again.
        A caller that is cancelled while its entry waits takes it back; once it is in flight it may be appended.
        """
        if entry.value is None:
            raise EntryRefused(f"{at}: a tombstone, but a letterbox is not compacted")
        if len(entry.value) > ENTRY_BYTES_MAX or len(entry.key) > KEY_BYTES_MAX:
            raise EntryRefused(
                f"{at}: {len(entry.value)} bytes under a key of {len(entry.key)}; "
                f"at most {ENTRY_BYTES_MAX} and {KEY_BYTES_MAX} are taken"
            )
        lane = self._lanes.setdefault(at, deque())
        if self._closed or len(lane) >= self._waiting_max:
            raise LogUnavailable(f"{at}: {'closing' if self._closed else 'too many appends wait'}; try again later")
        waiting = _Waiting(entry, asyncio.get_running_loop().create_future())
        lane.append(waiting)
        if at not in self._runners:
            self._runners[at] = asyncio.create_task(self._run(at, lane), name=f"lane-{at.topic}-{at.partition}")
        return await waiting.offset

    async def close(self) -> None:
        """Take nothing more, and return when what waits has been answered (at most the retry time per batch)."""
        self._closed = True
        while self._runners:
            await asyncio.wait(self._runners.values())

    async def _run(self, at: At, lane: deque[_Waiting]) -> None:
        try:
            while batch := _next_batch(lane):
                await self._append(at, batch)
        finally:
            del self._runners[at]

    async def _append(self, at: At, batch: list[_Waiting]) -> None:
        try:
            base = await self._append_with_retries(at, [waiting.entry for waiting in batch])
        except Exception as error:
            for waiting in batch:
                if not waiting.offset.done():
                    waiting.offset.set_exception(_failure(at, error))
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.offset.cancel()
            raise
        else:
            for nth, waiting in enumerate(batch):
                if not waiting.offset.done():
                    waiting.offset.set_result(base + nth)

    async def _append_with_retries(self, at: At, entries: list[Entry]) -> int:
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._retry_seconds, PAUSE_SECONDS_FIRST
        while True:
            try:
                return await self._log.append(at, entries)
            except AppendFailed:
                if loop.time() + pause >= deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_SECONDS_MAX)


def _next_batch(lane: deque[_Waiting]) -> list[_Waiting]:
    """Take from the lane what fits one append, passing over what its callers gave up."""
    batch: list[_Waiting] = []
    size = 0
    while lane and len(batch) < ENTRIES_PER_BATCH:
        waiting = lane[0]
        if not waiting.offset.done():
            size += len(waiting.entry.key) + len(waiting.entry.value or b"")
            if size > BATCH_BYTES_MAX:
                break
            batch.append(waiting)
        lane.popleft()
    return batch


def _failure(at: At, error: Exception) -> LogError:
    """An exception for one caller: each gets its own, or they would share one traceback."""
    failure = type(error)(str(error)) if isinstance(error, LogError) else AppendFailed(f"{at}: {error!r}")
    failure.__cause__ = error
    return failure
