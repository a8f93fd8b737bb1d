"""How a worker process of a run is made: the real worker, with a relay that sometimes publishes a suffix again."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.log.port import At, Entry, Log, LogError
from shared.runtime.partition import OwnedPartition, Tuning
from shared.runtime.relay import Relay
from shared.runtime.store import Store
from shared.runtime.turn import Context
from shared.runtime.worker import Worker

Point = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class Seat:
    """What a worker process has around it."""

    context: Context
    log: Log
    store: Store
    owner: str
    tuning: Tuning
    point: Point
    publish_keys: Callable[[], Awaitable[None]]
    repeats: Callable[[int], int]
    """How many of so many entries, the last ones, a relay appends again."""


class MakeWorker(Protocol):
    """How a worker process is built; a test of the simulator builds a broken one."""

    def __call__(self, seat: Seat) -> Worker: ...


def make_worker(seat: Seat, partition: type[OwnedPartition] = OwnedPartition) -> Worker:
    """The real one, its partitions of this class."""
    worker = Worker(
        seat.context,
        seat.log,
        seat.store,
        seat.owner,
        publish_keys=seat.publish_keys,
        tuning=seat.tuning,
        point=seat.point,
    )
    worker.partition_class = _with_repeats(partition, seat)
    return worker


def _with_repeats(partition: type[OwnedPartition], seat: Seat) -> type[OwnedPartition]:
    """As where an answer of the log was lost: what it had acknowledged comes again, right behind."""

    class Repeating(partition.relay_class):  # type: ignore[name-defined,misc]
        async def _append(self, at: At, entries: Sequence[Entry]) -> int:
            first: int = await super()._append(at, entries)
            if again := seat.repeats(len(entries)):
                try:
                    await seat.log.append(at, entries[-again:])
                except LogError:
                    self._counters["repeats_failed"] += 1
            return first

    class Partition(partition):  # type: ignore[valid-type,misc]
        relay_class: type[Relay] = Repeating

    return Partition
