"""Where the relays of one worker process record what the log has acknowledged, all in one statement, at leisure.

Without it nothing is lost: the next owner of a partition reads the stream a little further back.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from shared.runtime.store import Acknowledged, Sent, Store, StoreError

RECORD_SECONDS: Final = 0.1
"""Acknowledgements are recorded at most this often; those who wait for them are told at once."""
AGAIN_SECONDS: Final = 1.0
"""After the database could not be reached."""

NOTHING: Final = Acknowledged({}, 0)

log = logging.getLogger("regulars.runtime")


class Recorder:
    """Gathers acknowledgements until they are recorded, through faults of the database too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[int, Acknowledged] = {}
        self._in_flight: Mapping[int, Acknowledged] = {}
        self._hurry, self._recorded = asyncio.Event(), asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        """Of the last attempt."""

    def note(self, partition: int, sent: Mapping[int, Sent], answered: int) -> None:
        """What was acknowledged since the partition's last note, and the inbox offset answered."""
        self._noted[partition] = self._noted.get(partition, NOTHING).then(Acknowledged(sent, answered))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="record what was sent")

    async def flushed(self, partition: int) -> None:
        """Wait until all that was noted of this partition is recorded, which it is at once.

        Raises what an attempt at it raised; it is tried again without the caller.
        """
        while partition in self._noted or partition in self._in_flight:
            self._hurry.set()
            self._recorded.clear()
            await self._recorded.wait()
            if self._error is not None:
                raise self._error

    async def close(self) -> None:
        """Record no more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        while self._noted:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECORD_SECONDS):
                    await self._hurry.wait()
            self._hurry.clear()
            self._in_flight, self._noted = self._noted, {}
            try:
                await self._store.record_sent(self._in_flight)
            except Exception as error:  # whatever it was: what was noted must not be lost
                if not isinstance(error, StoreError):
                    log.exception("what was sent cannot be recorded")
                self._put_back(error)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._in_flight, self._error = {}, None
                self._recorded.set()

    def _put_back(self, error: Exception) -> None:
        for partition, failed in self._in_flight.items():
            self._noted[partition] = failed.then(self._noted.get(partition, NOTHING))
        self._in_flight, self._error = {}, error
        self._recorded.set()
