"""From a seed to a plan: how many workers, which sizes, and how badly the world behaves."""

import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from random import Random
from typing import Final, NamedTuple

from shared.log.port import AppendFailed, LogUnavailable
from shared.runtime.store import StoreUnavailable

LEASE_SECONDS: Final = 10.0
"""The lease that simulated workers are given; a stall is longer, so that its partitions are taken over."""
CALM_CHANCE: Final = 1 / 8
KEEN_ONE_IN: Final = 6
KEEN_FACTOR: Final = 25.0
"""One point in six is visited by this many times more trouble than the others; which ones depends on the seed."""


@dataclass(frozen=True)
class Plan:
    """What one seed does. Chances are per visit of a point; the limits are per run."""

    seed: int
    workers: int = 1
    """Processes of each worker, at first; a killed one comes back under a new name."""
    apis: int = 2
    """API processes of each worker."""
    partitions: int = 12
    batch_max: int = 1000
    requests: int = 100
    crash_chance: float = 0.0
    crashes_max: int = 0
    fail_chance: float = 0.0
    """A connection is lost: before the operation, or after it became durable and before its answer."""
    fails_max: int = 0
    stall_chance: float = 0.0
    stalls_max: int = 0
    """How often a process stands still for longer than its lease and then goes on as a stale owner."""
    delay_chance: float = 0.0
    delay_seconds_max: float = 0.0
    yield_chance: float = 0.0
    drop_chance: float = 0.0
    """Of an announcement: nobody hears it."""
    repeat_chance: float = 0.0
    """Of an append: the relay appends some of it again."""
    restart_seconds_max: float = 2 * LEASE_SECONDS
    leaves_max: int = 0
    """How often a worker process is asked to leave in order, as by SIGTERM."""
    losses_max: int = 0
    """How often a worker's database is lost and made again from the log."""
    mishap_seconds_max: float = 20.0
    """Between two of these."""
    crash_at: str = ""
    """A point at whose `crash_visit`-th visit a process dies, whatever the chances are."""
    crash_visit: int = 1


POINTS: Final = (
    *("batch.1", "batch.2", "batch.3", "batch.4", "batch.5", "batch.6", "batch.7", "batch.committed"),
    *("log.append", "log.append.durable", "log.ends", "log.reader", "log.report", "log.take", "log.wait"),
    *("relay.acknowledged", "relay.append", "store.add", "store.announce", "store.begin", "store.claim"),
    *("store.claim.durable", "store.commit", "store.committed", "store.due", "store.hold", "store.listen"),
    *("store.load", "store.move", "store.next_due", "store.now", "store.owners", "store.position", "store.reached"),
    *("store.read", "store.record_sent", "store.record_sent.durable", "store.release", "store.release.durable"),
    *("store.renew", "store.renew.durable", "store.retire", "store.retire.durable", "store.save", "store.send"),
    *("store.sent", "store.unsent", "store.wait"),
)
"""Where a process may die. Each seed ends one at one of these, in turn, besides what its chances bring."""
LEAVING: Final = frozenset({"store.retire", "store.retire.durable", "store.release", "store.release.durable"})
"""Points that a run passes seldom: where workers leave, and where one has more partitions than its share."""


def plan_of(seed: int, *, requests: int = 100) -> Plan:
    """The plan of a seed; one in eight runs is calm, so that a failure without any fault is seen as such."""
    draw = Random(f"{seed}/plan")
    calm = Plan(
        seed,
        workers=draw.choice((1, 2, 3)),
        partitions=draw.choice((1, 2, 12)),
        batch_max=draw.choice((1, 7, 1000)),
        requests=requests,
        delay_chance=draw.choice((0.0, 0.02, 0.1)),
        delay_seconds_max=draw.choice((0.01, 0.5)),
        yield_chance=draw.choice((0.05, 0.5)),
    )
    if draw.random() < CALM_CHANCE:
        return calm
    worse = draw.choice((0.3, 1.0, 3.0))
    crash_at = POINTS[seed % len(POINTS)]
    return replace(
        calm,
        crash_chance=draw.choice((0.0, 0.0005, 0.002)) * worse,
        crashes_max=draw.randrange(1, 12),
        fail_chance=draw.choice((0.0, 0.001, 0.005)) * worse,
        fails_max=draw.randrange(1, 30),
        stall_chance=draw.choice((0.0, 0.0003, 0.001)) * worse,
        stalls_max=draw.randrange(1, 4),
        drop_chance=draw.choice((0.0, 0.1, 1.0)),
        restart_seconds_max=draw.choice((0.1, LEASE_SECONDS / 2, 2 * LEASE_SECONDS)),
        repeat_chance=draw.choice((0.0, 0.02, 0.2)),
        workers=3 if crash_at in LEAVING else calm.workers,
        leaves_max=3 if crash_at in LEAVING else draw.choice((0, 1, 3)),
        losses_max=draw.choice((0, 0, 1, 2)),
        crash_at=crash_at,
        crash_visit=1 if crash_at in LEAVING else draw.choice((1, 2, 8, 40)),
    )


class Kind(Enum):
    """What may happen at a point."""

    GO = "go on"
    YIELD = "let others run"
    DELAY = "wait in virtual time"
    STALL = "the whole process stands still"
    FAIL = "the connection is lost"
    KILL = "the process dies"


class Step(NamedTuple):
    """What does happen at a point, now."""

    kind: Kind
    seconds: float = 0.0
    failure: Exception | None = None


GO: Final = Step(Kind.GO)
FailureAt = Callable[[str, Random], Exception | None]
"""The error that the operation of this point raises when its connection is lost, or None if it has none."""


@dataclass
class Tally:
    """How often each point was passed, and what happened there. Sums over runs show that every step was hit."""

    passed: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    stalled: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    repeated: int = 0
    left: int = 0
    lost: int = 0

    def add(self, other: "Tally") -> None:
        self.passed += other.passed
        self.killed += other.killed
        self.failed += other.failed
        self.stalled += other.stalled
        self.dropped += other.dropped
        self.repeated += other.repeated
        self.left += other.left
        self.lost += other.lost

    def unhit(self) -> list[str]:
        """Points that were passed but at which no process has died yet."""
        return sorted(self.passed.keys() - self.killed.keys())


def connection_lost(point: str, draw: Random) -> Exception | None:  # noqa: ARG001
    """The error that the real log or store raises when the connection is lost at this point."""
    if point.startswith("log.append"):
        return AppendFailed(f"simulated at {point}: the outcome is unknown")
    if point.startswith("log."):
        return LogUnavailable(f"simulated at {point}")
    if point.startswith("store."):
        return StoreUnavailable(f"simulated at {point}")
    return None


class Faults:
    """Draws what happens at each visit of a point, within the plan's limits, until it is told to heal."""

    def __init__(self, plan: Plan, failure_at: FailureAt = connection_lost) -> None:
        self.plan = plan
        self.tally = Tally()
        self._draw = Random(f"{plan.seed}/faults")
        self._failure_at = failure_at
        self._healed = False
        self._keen: dict[str, float] = {}

    def heal(self) -> None:
        """From now on nothing breaks any more; only the order stays random."""
        self._healed = True

    def at(self, point: str) -> Step:
        """What happens at this visit."""
        tally, plan = self.tally, self.plan
        tally.passed[point] += 1
        if self._healed:
            return self._pace(self._draw.random())
        if point == plan.crash_at and tally.passed[point] == plan.crash_visit:
            return self._kill(point)
        keen = self._keenness(point)
        left = self._draw.random()
        if (left := left - plan.crash_chance * keen) < 0:
            return self._kill(point) if tally.killed.total() < plan.crashes_max else GO
        if (left := left - plan.fail_chance * keen) < 0:
            return self._fail(point) if tally.failed.total() < plan.fails_max else GO
        if (left := left - plan.stall_chance * keen) < 0:
            return self._stall(point) if tally.stalled.total() < plan.stalls_max else GO
        return self._pace(left)

    def drops(self) -> bool:
        """Whether this announcement is lost."""
        lost = not self._healed and self._draw.random() < self.plan.drop_chance
        self.tally.dropped += lost
        return lost

    def repeats(self, entries: int) -> int:
        """How many of so many entries just appended, the last ones, the relay appends again."""
        if self._healed or self._draw.random() >= self.plan.repeat_chance:
            return 0
        self.tally.repeated += 1
        return self._draw.randint(1, entries)

    def restart_seconds(self) -> float:
        """How long a killed process stays away."""
        return self._draw.uniform(0.01, self.plan.restart_seconds_max)

    def _pace(self, left: float) -> Step:
        if (left := left - self.plan.delay_chance) < 0:
            return Step(Kind.DELAY, self._draw.random() * self.plan.delay_seconds_max)
        return Step(Kind.YIELD) if left < self.plan.yield_chance else GO

    def _kill(self, point: str) -> Step:
        self.tally.killed[point] += 1
        return Step(Kind.KILL)

    def _fail(self, point: str) -> Step:
        failure = self._failure_at(point, self._draw)
        if failure is None:
            return GO
        self.tally.failed[point] += 1
        return Step(Kind.FAIL, failure=failure)

    def _stall(self, point: str) -> Step:
        self.tally.stalled[point] += 1
        return Step(Kind.STALL, self._draw.uniform(1.2, 6.0) * LEASE_SECONDS)

    def _keenness(self, point: str) -> float:
        found = self._keen.get(point)
        if found is None:
            chosen = zlib.crc32(f"{self.plan.seed}/{point}".encode()) % KEEN_ONE_IN == 0
            found = self._keen[point] = KEEN_FACTOR if chosen else 1.0
        return found
