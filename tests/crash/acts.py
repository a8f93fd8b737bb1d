"""What a worker process does to itself at the runtime's named points, and the counters that survive it."""

import mmap
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

STEPS: Final = ("batch.1", "batch.2", "batch.3", "batch.4", "batch.5", "batch.6", "batch.7")
"""The numbered steps of a batch: each point stands where its step is done, or (2) where its transaction has begun."""
POINTS: Final = (*STEPS, "batch.committed", "relay.append", "relay.acknowledged")
IN_TRANSACTION: Final = ("batch.2", "batch.4", "batch.5", "batch.6", "batch.7")
"""Points at which the batch's transaction is open: a process that dies there leaves it to be rolled back."""

Verb = Literal["kill", "stop"]


@dataclass(frozen=True)
class Act:
    """At the `passes`-th pass of a point: SIGKILL, or SIGSTOP until somebody sends SIGCONT."""

    verb: Verb
    point: str
    passes: int

    @property
    def name(self) -> str:
        return f"{self.verb} {self.point}"


WORKER_COUNTERS: Final = (
    "alarms",
    "append_retried",
    "backlog_rows",
    "batches",
    "claimed",
    "conflicts",
    "duplicate_requests",
    "lost",
    "parked",
    "published",
    "restarted",
    "rolled_back",
    "stale_refused",
    "store_unavailable",
    "suffix_dropped",
)
"""Of `Worker.counters`."""
VERBS: Final[tuple[Verb, ...]] = ("kill", "stop")
NAMES: Final = (*WORKER_COUNTERS, *(f"{verb} {point}" for verb in VERBS for point in POINTS))
_PLACES: Final = {name: place * 8 for place, name in enumerate(NAMES)}


class Tally:
    """Counters of one life of a process in a mapped file: what was counted before a kill -9 is still there."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(NAMES)))
        with path.open("r+b") as file:
            self._counts = mmap.mmap(file.fileno(), 0)

    def put(self, counts: Mapping[str, int]) -> None:
        """Take over these counters; names that nobody asks for are left out."""
        for name in counts.keys() & _PLACES.keys():
            struct.pack_into("q", self._counts, _PLACES[name], counts[name])

    def read(self) -> Counter[str]:
        return Counter({name: struct.unpack_from("q", self._counts, place)[0] for name, place in _PLACES.items()})

    def close(self) -> None:
        self._counts.close()


class Switch:
    """One mapped byte that all processes of a round see: while it is off, nobody does anything to itself."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(b"\0")
        with path.open("r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 0)

    @property
    def on(self) -> bool:
        return self._byte[0] == 1

    def turn(self, on: bool) -> None:
        self._byte[0] = int(on)

    def close(self) -> None:
        self._byte.close()


class Actor:
    """The `point` of a worker: counts, and does what this life is told to do, one act after the other."""

    def __init__(self, acts: tuple[Act, ...], tally: Tally, switch: Switch, do: Callable[[Verb], None]) -> None:
        self._acts, self._tally, self._switch, self._do = list(acts), tally, switch, do
        self._done: Counter[str] = Counter()
        self._passed = 0
        self.counters: Mapping[str, int] = {}
        """The worker's, once there is one."""

    async def point(self, name: str) -> None:
        if not self._acts or self._acts[0].point != name or not self._switch.on:
            return
        self._passed += 1
        if self._passed < self._acts[0].passes:
            return
        act = self._acts.pop(0)
        self._passed = 0
        self._done[act.name] += 1
        self.record()
        self._do(act.verb)

    def record(self) -> None:
        """Bring the counters to where a kill cannot reach them."""
        self._tally.put(self.counters)
        self._tally.put(self._done)
