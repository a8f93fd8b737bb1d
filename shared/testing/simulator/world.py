"""A whole run: worker and API processes over one log and a database per worker, breaking as the plan says.

Everything durable is in the contents, which the laws are held against at every point that any process passes.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context as Variables
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from shared.log.port import EVENTS, KEYS, At, Entry, Log, Topic, inbox
from shared.runtime.front import Front
from shared.runtime.partition import Tuning
from shared.runtime.rules import Rules
from shared.runtime.store import Position, Store, StoreError
from shared.runtime.turn import Context, seal_nothing
from shared.runtime.worker import Worker, no_keys
from shared.testing.memory_log import MemoryLog, MemoryLogContent
from shared.testing.memory_store import MemoryStore, MemoryStoreContent
from shared.testing.simulator.laws import (
    check_caught_up,
    check_causes,
    check_inbox,
    check_positions,
    check_same,
    check_seen,
)
from shared.testing.simulator.loop import SimLoop, elapse
from shared.testing.simulator.plan import LEASE_SECONDS, Faults, Plan
from shared.testing.simulator.processes import Process
from shared.testing.simulator.refold import refold
from shared.testing.simulator.stream import Breach, Stream, enforce

HEAL_SECONDS_MAX: Final = 300.0
"""Law 9: after the last fault, everything is caught up within this virtual time."""

Point = Callable[[str], Awaitable[None]]
Watch = Callable[["World", str], list[Breach]]
"""A service's own laws, held against the world whenever a batch of this worker was committed."""


class MakeWorker(Protocol):
    """How a worker process is built; a test of the simulator builds a broken one."""

    def __call__(
        self, context: Context, log: Log, store: Store, owner: str, tuning: Tuning, point: Point
    ) -> Worker: ...


def make_worker(context: Context, log: Log, store: Store, owner: str, tuning: Tuning, point: Point) -> Worker:
    """The real one."""
    return Worker(context, log, store, owner, publish_keys=no_keys, tuning=tuning, point=point)


class Direct:
    """Appends without lanes: one call, one append."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def append(self, at: At, entry: Entry) -> int:
        return await self._log.append(at, [entry])


@dataclass
class Api:
    """The API process of a worker, as callers reach it now."""

    process: Process
    front: Front
    log: Log
    store: MemoryStore


@dataclass
class World:
    """One run's contents and processes."""

    loop: SimLoop
    plan: Plan
    rules: Sequence[Rules]
    make: MakeWorker = make_worker
    watch: Watch = lambda _world, _worker: []
    log: MemoryLogContent = field(default_factory=MemoryLogContent)
    stores: dict[str, MemoryStoreContent] = field(default_factory=dict)
    apis: dict[str, Api] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Processes that ended by an exception, and partitions that stopped with an alarm."""

    def __post_init__(self) -> None:
        self.faults = Faults(self.plan)
        self.stream = Stream(self.plan.partitions)
        self._known: dict[str, dict[int, Position]] = {each.worker: {} for each in self.rules}
        self._rows: dict[str, dict[int, Position]] = {each.worker: {} for each in self.rules}
        self._workers: dict[str, tuple[Process, Worker]] = {}
        for each in self.rules:
            self.stores[each.worker] = MemoryStoreContent(lambda _reached: self.faults.drops())

    async def open(self) -> None:
        """Create the topics and start all processes."""
        names = [EVENTS, KEYS, *(inbox(each.worker) for each in self.rules)]
        topics = [Topic(name, self.plan.partitions, compacted=name == KEYS) for name in names]
        await MemoryLog(self.log, self.loop.now).set_up(topics)
        for each in self.rules:
            for number in range(self.plan.workers):
                self._start_worker(each, f"{each.worker}-{number}", 0)
            self._start_api(each, 0)

    def look(self) -> None:
        """Hold laws 1-3, 6 and 8 against what is durable now; raises LawBroken."""
        breaches: list[Breach] = []
        for q in range(self.plan.partitions):
            records = self.log.records[At(EVENTS, q)]
            if len(records) > self.stream.ends[q]:
                breaches += self.stream.read(records[self.stream.ends[q] :])
        for worker, store in self.stores.items():
            known, rows = self._known[worker], self._rows[worker]
            moved = [
                q for q, row in store.positions.items() if rows.get(q) is not row or known[q].version != row.version
            ]
            for q in moved:
                rows[q] = store.positions[q]
                before, after = known.get(q), _copied(rows[q])
                known[q] = after
                breaches += check_seen(self.stream, before, after)
                if before is not None:
                    breaches += check_positions({q: before}, {q: after})
            if moved:
                breaches += self.watch(self, worker)
        enforce(breaches, f"at second {self.loop.time():.3f}, step {self.loop.steps}")

    def heal(self) -> None:
        """From now on nothing breaks any more."""
        self.faults.heal()

    async def rest(self) -> None:
        """Wait until everything is read, sent, due and answered; raises LawBroken (law 9) when it does not come."""
        deadline = self.loop.time() + HEAL_SECONDS_MAX
        while behind := self.lag():
            if self.loop.time() > deadline:
                enforce([*self.troubles(), *behind], "long after the last fault")
            await elapse(1.0)

    def lag(self) -> list[Breach]:
        """What is not caught up yet."""
        ends = {at: len(records) for at, records in self.log.records.items()}
        breaches = []
        for worker, store in self.stores.items():
            partitions = self.plan.partitions
            breaches += check_caught_up(worker, inbox(worker), partitions, store.positions, store.relays, ends)
            clocks = store.rows.get("clocks", {})
            for row in store.rows.get("subjects", {}).values():
                clock = clocks.get((row.partition, row.tenant))
                now = self.loop.now() if clock is None else clock.at
                if row.due_at is not None and row.due_at <= now:
                    breaches.append(Breach(9, f"{worker}: {row} is due since {row.due_at}"))
        return breaches

    def judge(self) -> None:
        """At rest: each input has one fate, each decision its input, and the live rows are what the log folds to."""
        self.look()
        breaches = self.troubles()
        breaches += check_causes(self.stream, self.log.records)
        for each in self.rules:
            for q in range(self.plan.partitions):
                breaches += check_inbox(self.stream, each.worker, self.log.records[At(inbox(each.worker), q)])
            breaches += check_same(4, self.rows(each.worker), refold(each, self.stream))
        enforce(breaches, "at rest")

    def rows(self, worker: str) -> dict[str, list[tuple[Any, ...]]]:
        """The live rows of a worker by table, in the order in which they were first committed."""
        return {name: list(rows.values()) for name, rows in self.stores[worker].rows.items()}

    def tallied(self) -> Counter[str]:
        """The counters of all workers that lived."""
        return sum((worker.counters for _, worker in self._workers.values()), Counter(self.counters))

    def troubles(self) -> list[Breach]:
        """What nobody may need to look at in a run without loss: alarms, and processes that an exception ended."""
        alarms = [f"{name}: {text}" for name, (_, worker) in self._workers.items() for text in worker.alarms.values()]
        return [Breach(9, text) for text in [*self.failures, *alarms]]

    def _point(self, process: Process) -> Point:
        async def point(name: str) -> None:
            if process.alive:
                self.look()
            await process.point(name)

        return point

    def _start_worker(self, rules: Rules, name: str, life: int) -> None:
        process, log, store = self._process(rules, f"{name}.{life}")
        tuning = Tuning(batch_max=self.plan.batch_max, lease_seconds=LEASE_SECONDS)
        context = Context(rules, seal_nothing, lambda _tenant, _subject, text: text, self.plan.partitions)
        worker = self.make(context, log, store, process.name, tuning, self._point(process))
        self._workers[name] = (process, worker)

        def again() -> None:
            self.counters += worker.counters
            self.failures += [f"{process.name}: {text}" for text in worker.alarms.values()]
            if process.failure is not None:
                self.failures.append(f"{process.name} ended: {process.failure!r}")
            del self._workers[name]
            self._later(lambda: self._start_worker(rules, name, life + 1))

        process.at_death(again)
        process.start(worker.run(), "run")

    def _start_api(self, rules: Rules, life: int) -> None:
        process, log, store = self._process(rules, f"{rules.worker}-api.{life}")
        front = Front(rules.worker, log, Direct(log), store, partitions=self.plan.partitions)
        self.apis[rules.worker] = Api(process, front, log, store)

        def again() -> None:
            if process.failure is not None and not isinstance(process.failure, StoreError):
                self.failures.append(f"{process.name} ended: {process.failure!r}")
            self._later(lambda: self._start_api(rules, life + 1))

        process.at_death(again)
        process.start(front.open(), "open")

    def _process(self, rules: Rules, name: str) -> tuple[Process, MemoryLog, MemoryStore]:
        process = Process(self.loop, name, self.faults)
        content, point = self.stores[rules.worker], self._point(process)
        process.at_death(lambda: content.kill(name))
        log = MemoryLog(self.log, self.loop.now, point)
        return process, log, MemoryStore(content, rules.worker, rules.tables, self.loop.now, point, name)

    def _later(self, start: Callable[[], None]) -> None:
        """In nobody's name: who restarts a process is not part of it."""
        self.loop.call_later(self.faults.restart_seconds(), start, context=Variables())


def _copied(row: Position) -> Position:
    return Position(row.partition, row.version, dict(row.offsets), dict(row.seen), dict(row.sequences))
