"""A worker process of one service: takes a fair share of the partitions by leases and runs each of them."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import starmap
from typing import Final

from shared.keyring import Keyring
from shared.log.port import At, Entry, Log, LogError, partition_of
from shared.runtime.accept import PartitionStopped
from shared.runtime.commit import Stale
from shared.runtime.partition import OwnedPartition, Parts, Tuning
from shared.runtime.relay import Point, no_point
from shared.runtime.store import Reached, Store, StoreError
from shared.runtime.turn import Context

RESTART_SECONDS: Final = 0.1
FAILURES_COUNTED_MAX: Final = 8
STOP_SECONDS: Final = 20.0
ANNOUNCE_SECONDS: Final = 0.005
"""After one announcement the next gathers what comes meanwhile; an answer waits no longer for it than this."""
ANNOUNCE_ELSEWHERE_SECONDS: Final = 0.05
"""The same where this process has an API of its own, which is told at once."""


class Worker:
    """Owns partitions of one worker; `run` until `stop`.

    `counters` counts every numbered step for metrics and fault tests; `alarms` says which partitions stopped and why.
    """

    partition_class = OwnedPartition

    def __init__(
        self,
        context: Context,
        log: Log,
        store: Store,
        owner: str,
        *,
        publish_keys: Callable[[], Awaitable[None]],
        tuning: Tuning | None = None,
        point: Point = no_point,
    ) -> None:
        self.owner = owner
        self.counters: Counter[str] = Counter()
        self.alarms: dict[int, str] = {}
        self._context, self._log, self._store = context, log, store
        self._tuning = tuning or Tuning()
        self._stopping = asyncio.Event()
        self._running: dict[int, tuple[OwnedPartition, asyncio.Task[None]]] = {}
        self._failed, self._failures = False, 0
        """Whether a partition ended by a fault since the last look, and how many looks in a row found that."""
        self._wall = (datetime.min.replace(tzinfo=UTC), 0.0)
        self._told: dict[int, Reached] = {}
        self._heard_here: list[Callable[[Reached], None]] = []
        self._tell = asyncio.Event()
        self._parts = Parts(
            context,
            log,
            store,
            tuning=self._tuning,
            wall=self.wall,
            publish_keys=publish_keys,
            announce=self._announce,
            counters=self.counters,
            point=point,
        )

    def wall(self) -> datetime:
        """The store's clock, carried on by this process: it says when to run a timer, and decides nothing."""
        at, then = self._wall
        return at + timedelta(seconds=asyncio.get_running_loop().time() - then)

    def tell_here(self, heard: Callable[[Reached], None]) -> None:
        """Somebody in this process hears of each step at once; other processes hear by the store, a little later."""
        self._heard_here.append(heard)

    def stop(self) -> None:
        """Finish the batches, relay them, give up the leases, leave."""
        self._stopping.set()

    def owned(self) -> Sequence[int]:
        """The partitions that this process runs now."""
        return sorted(self._running)

    async def run(self) -> None:
        """Until `stop`; faults of log and store are retried for ever, an alarm stops its partition only."""
        announcer = asyncio.create_task(self._announcer(), name="announcer")
        try:
            while not self._stopping.is_set():
                try:
                    await self._lease()
                except StoreError:
                    self.counters["store_unavailable"] += 1
                await self._pause()
                if announcer.done():
                    announcer.result()
            await self._leave()
        finally:
            left = [announcer, *(task for _, task in self._running.values())]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self._parts.close()

    async def _pause(self) -> None:
        """Until the leases need renewing, something ended, or stop; longer when partitions fail again and again."""
        if self._failures:
            patience = min(self._tuning.lease_seconds / 4, RESTART_SECONDS * 2 ** (self._failures - 1))
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._stopping.wait()
        waiting = [asyncio.ensure_future(self._stopping.wait()), *(task for _, task in self._running.values())]
        short = len(self._running) == 0 or any(task.done() for _, task in self._running.values())
        await asyncio.wait(
            waiting,
            timeout=RESTART_SECONDS if short else self._tuning.lease_seconds / 4,
            return_when=asyncio.FIRST_COMPLETED,
        )
        waiting[0].cancel()

    async def _lease(self) -> None:
        """Renew, forget what was lost, restart what failed, then take or give up partitions to hold a fair share.

        A lease that was renewed and is not run here any more (its task ended, or the answer to its claim was lost) is
        given back, or nobody would run it.
        """
        held = await self._store.renew(self.owner, self._tuning.lease_seconds)
        self._wall = (await self._store.now(), asyncio.get_running_loop().time())
        self._failed = False
        for q in list(self._running):
            self._reap(q, lost=q not in held)
        self._failures = min(self._failures + 1, FAILURES_COUNTED_MAX) if self._failed else 0
        live, holders = await self._store.owners(self._tuning.lease_seconds)
        share = -(-self._context.partitions // max(1, len(live | {self.owner})))
        surplus = [q for q in self.owned() if q not in self.alarms][share:]
        for q in surplus:
            await self._give_up(q)
        for q in self._preferred():
            if len(self._running) + len(self.alarms) >= share:
                break
            free = q not in holders or holders[q] == self.owner
            if q not in self._running and q not in self.alarms and q not in surplus and free:
                await self._claim(q)
        idle = held.difference(self._running, self.alarms)
        if idle:
            await self._store.release(self.owner, idle)

    async def _claim(self, q: int) -> None:
        position = await self._store.claim(self.owner, q, self._tuning.lease_seconds)
        if position is not None:
            partition = self.partition_class(self._parts, position)
            name = f"{self._context.rules.worker}.{q}"
            self._running[q] = (partition, asyncio.create_task(partition.run(), name=name))
            self.counters["claimed"] += 1

    def _preferred(self) -> Sequence[int]:
        """Partitions in an order of this owner's own, so that two that start at once do not race for the same."""
        first = partition_of("owner", self.owner, self._context.partitions)
        return [(first + step) % self._context.partitions for step in range(self._context.partitions)]

    def _reap(self, q: int, *, lost: bool) -> None:
        _, task = self._running[q]
        if task.done():
            del self._running[q]
            error = None if task.cancelled() else task.exception()
            match error:
                case None | Stale():
                    self.counters["restarted"] += 1
                case StoreError() | LogError():
                    self.counters["restarted"] += 1
                    self._failed = True
                case PartitionStopped():
                    self.alarms[q] = f"{type(error).__name__}: {error}"
                    self.counters["alarms"] += 1
                case _:
                    raise error
        elif lost:
            self.counters["lost"] += 1
            task.cancel()

    async def _give_up(self, q: int) -> None:
        partition, task = self._running[q]
        partition.stopping.set()
        await asyncio.wait((task,), timeout=self._tuning.lease_seconds)
        self._reap(q, lost=True)
        await self._store.release(self.owner, [q])

    async def _leave(self) -> None:
        for partition, _ in self._running.values():
            partition.stopping.set()
        if self._running:
            await asyncio.wait([task for _, task in self._running.values()], timeout=STOP_SECONDS)
        with suppress(StoreError):  # the leases end by themselves
            await self._store.retire(self.owner)

    def _announce(self, reached: Reached) -> None:
        for heard in self._heard_here:
            heard(reached)
        self._told[reached.partition] = reached
        self._tell.set()

    async def _announcer(self) -> None:
        """Coalesce what the partitions tell and announce it outside their transactions."""
        while True:
            await self._tell.wait()
            self._tell.clear()
            told, self._told = list(self._told.values()), {}
            try:
                await self._store.announce(told)
            except StoreError:
                self.counters["announcements_lost"] += 1
            await asyncio.sleep(ANNOUNCE_ELSEWHERE_SECONDS if self._heard_here else ANNOUNCE_SECONDS)


def key_publisher(log: Log, keyring: Keyring) -> Callable[[], Awaitable[None]]:
    """Append the turn's new data keys to the key topic; the turn commits only after they are acknowledged."""

    async def publish() -> None:
        new = keyring.take_new()
        entries: dict[At, list[Entry]] = {}
        for key in new:
            entries.setdefault(key.at, []).append(key.entry)
        try:
            done = await asyncio.gather(*starmap(log.append, entries.items()), return_exceptions=True)
            for answer in done:
                if isinstance(answer, BaseException):
                    raise answer
        except BaseException:
            keyring.forget(new)
            raise
        keyring.acknowledged(new)

    return publish


async def no_keys() -> None:
    """For workers that seal nothing."""
