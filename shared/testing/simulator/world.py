"""A whole run: worker and API processes over one log and a database per worker, breaking as the plan says.

Everything durable is in the contents, which the laws are held against whenever something became durable.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context as Variables
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, NamedTuple

from shared.events.envelope import Event
from shared.keyring import Keyring
from shared.log.lanes import Lanes
from shared.log.port import EVENTS, KEYS, PARTITIONS, At, Topic, inbox
from shared.runtime.front import Front
from shared.runtime.partition import Tuning
from shared.runtime.rules import Rules
from shared.runtime.store import Position, StoreError
from shared.runtime.turn import Context, seal_nothing
from shared.runtime.worker import Worker, key_publisher, no_keys
from shared.sealing import MasterKey
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
from shared.testing.simulator.loss import rebuilt
from shared.testing.simulator.plan import LEASE_SECONDS, Faults, Plan
from shared.testing.simulator.processes import Process
from shared.testing.simulator.refold import refold
from shared.testing.simulator.stream import Breach, Cause, LawBroken, Stream, enforce
from shared.testing.simulator.workers import MakeWorker, Point, Seat, make_worker

HEAL_SECONDS_MAX: Final = 300.0
"""Law 9: after the last fault, everything is caught up within this virtual time."""
UNSENT_LOOKS_MAX: Final = 1_000
"""How often a loss looks for a moment at which something is committed and not yet in the log."""
UNSENT_STEPS_MAX: Final = 20
"""Others' steps from that moment on, so that some of it may be in the log and some not."""
DURABLE: Final = frozenset({"log.append.durable", "store.claim.durable", "store.committed"})
"""The points right behind a change of what the laws are held against."""

Look = Callable[[], list[Breach]]


def nothing() -> list[Breach]:
    return []


def is_known_never(_world: "World", _worker: str, _event: Event, _cause: Cause) -> bool:
    return False


class Api(NamedTuple):
    """An API process of a worker, as callers reach it now."""

    process: Process
    front: Front
    log: MemoryLog
    store: MemoryStore


@dataclass(frozen=True)
class Setting:
    """What a run is about."""

    rules: Sequence[Rules]
    watch: Callable[["World", str], Look] = lambda _world, _worker: nothing
    """Makes a service's own laws for a worker whose database is new; held whenever it has committed."""
    is_known: Callable[["World", str, Event, Cause], bool] = is_known_never
    """Whether an input without a key is one that was decided on before."""
    master: MasterKey | None = None
    """None: nothing is sealed."""


@dataclass
class World:
    """One run's contents and processes."""

    loop: SimLoop
    plan: Plan
    setting: Setting
    make: MakeWorker = make_worker
    log: MemoryLogContent = field(default_factory=MemoryLogContent)
    stores: dict[str, MemoryStoreContent] = field(default_factory=dict)
    apis: dict[str, list[Api]] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    """Processes that ended by an exception, and partitions that stopped with an alarm."""
    notes: dict[str, object] = field(default_factory=dict)
    """What a setting's own laws remember over the whole run."""

    def __post_init__(self) -> None:
        self.faults = Faults(self.plan)
        self.rules = {each.worker: each for each in self.setting.rules}
        timeless = frozenset(worker for worker, rules in self.rules.items() if not rules.settles)
        self.stream = Stream(self.plan.partitions, timeless=timeless)
        self._known: dict[str, dict[int, Position]] = {worker: {} for worker in self.rules}
        self._rows: dict[str, dict[int, Position]] = {worker: {} for worker in self.rules}
        self._watches: dict[str, Look] = {}
        self._workers: dict[str, tuple[Process, Worker, str]] = {}
        self._lost: set[str] = set()
        self._broken: LawBroken | None = None
        self._mishaps: asyncio.Task[None] | None = None
        self._healing = False

    async def open(self) -> None:
        """Create the topics and start all processes."""
        await self.set_up()
        for each in self.rules.values():
            for number in range(self.plan.workers):
                self._start_worker(each, f"{each.worker}-{number}", 0)
            self.apis[each.worker] = [self._start_api(each, number, 0) for number in range(self.plan.apis)]
        self._mishaps = asyncio.create_task(self._befall(), name="mishaps")

    async def set_up(self) -> None:
        """Create the topics and empty databases."""
        names = [EVENTS, *(inbox(worker) for worker in self.rules)]
        topics = [Topic(KEYS, PARTITIONS, compacted=True), *(Topic(name, self.plan.partitions) for name in names)]
        await MemoryLog(self.log, self.loop.now).set_up(topics)
        for worker in self.rules:
            self._adopt(worker, MemoryStoreContent(lambda _reached: self.faults.drops()))

    def look(self) -> None:
        """Hold laws 1-3, 6 and 8 against what is durable now; raises LawBroken, and the same for ever after: a worker
        that found it first may have ended by it unseen."""
        if self._broken is not None:
            raise self._broken
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
                breaches += self._watches[worker]()
        try:
            enforce(breaches, f"at second {self.loop.time():.3f}, step {self.loop.steps}")
        except LawBroken as broken:
            self._broken = broken
            raise

    async def heal(self) -> None:
        """From now on nothing breaks any more."""
        self._healing = True
        if self._mishaps is not None:
            await self._mishaps
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
        for worker, rules in self.rules.items():

            def known(event: Event, cause: Cause, worker: str = worker) -> bool:
                return self.setting.is_known(self, worker, event, cause)

            for q in range(self.plan.partitions):
                breaches += check_inbox(self.stream, worker, self.log.records[At(inbox(worker), q)], known)
            breaches += check_same(4, self.rows(worker), refold(rules, self.stream))
        enforce(breaches, "at rest")

    def rows(self, worker: str) -> dict[str, list[tuple[Any, ...]]]:
        """The live rows of a worker by table, in the order in which they were first committed."""
        return {name: list(rows.values()) for name, rows in self.stores[worker].rows.items()}

    def tallied(self) -> Counter[str]:
        """The counters of all workers that lived."""
        return sum((worker.counters for _, worker, _ in self._workers.values()), Counter(self.counters))

    def troubles(self) -> list[Breach]:
        """What nobody may need to look at in a run without loss: alarms, and processes that an exception ended."""
        alarms = [f"{name}: {text}" for name, (_, run, _) in self._workers.items() for text in run.alarms.values()]
        return [Breach(9, text) for text in [*self.failures, *alarms]]

    async def lose(self, worker: str) -> None:
        """Lose the worker's database, with all its processes; make it again from the log, and start them."""
        self.loop.note(f"{worker} loses its database")
        self._lost.add(worker)
        for process in [process for process, _, each in self._workers.values() if each == worker]:
            process.kill()
        for api in self.apis[worker]:
            api.process.kill()
        self.stream.letters_resent = True
        self.look()
        log = MemoryLog(self.log, self.loop.now)
        drops = self.stores[worker].drops
        content, _ = await rebuilt(self.rules[worker], log, self.loop, self.plan.partitions, drops)
        self._adopt(worker, content)
        self._lost.discard(worker)
        self.faults.tally.lost += 1

    def _adopt(self, worker: str, content: MemoryStoreContent) -> None:
        self.stores[worker] = content
        self._known[worker], self._rows[worker] = {}, {}
        self._watches[worker] = self.setting.watch(self, worker)

    async def _befall(self) -> None:
        """What is planned for the whole run: workers leave in order, databases are lost."""
        draw = Random(f"{self.plan.seed}/mishaps")
        planned = ["leave"] * self.plan.leaves_max + ["lose"] * self.plan.losses_max
        draw.shuffle(planned)
        for mishap in planned:
            await elapse(draw.uniform(0.0, self.plan.mishap_seconds_max))
            if self._healing:
                return
            if mishap == "lose":
                worker = draw.choice(sorted(self.rules))
                for _ in range(UNSENT_LOOKS_MAX):
                    if self._unsent(worker):
                        break
                    await elapse()
                for _ in range(draw.randrange(UNSENT_STEPS_MAX)):
                    await elapse()
                await self.lose(worker)
            elif self._workers:
                self._workers[draw.choice(sorted(self._workers))][1].stop()

    def _unsent(self, worker: str) -> bool:
        """Whether something is committed that the log does not have: the worst moment to lose a database."""
        for q, position in self.stores[worker].positions.items():
            for target, last in position.sequences.items():
                if last > self.stream.last(f"{worker}.{q}", target):
                    return True
        return False

    def _point(self, process: Process) -> Point:
        async def point(name: str) -> None:
            if name in DURABLE and process.alive:
                self.look()
            await process.point(name)

        return point

    def _start_worker(self, rules: Rules, name: str, life: int) -> None:
        if rules.worker in self._lost:
            self._later(lambda: self._start_worker(rules, name, life))
            return
        process, log, store = self._process(rules, f"{name}.{life}")
        tuning = Tuning(batch_max=self.plan.batch_max, lease_seconds=LEASE_SECONDS)
        context = Context(rules, seal_nothing, _unsealed, self.plan.partitions)
        publish: Callable[[], Awaitable[None]] = no_keys
        if self.setting.master is not None:
            random = Random(f"{self.plan.seed}/keys of {process.name}").randbytes
            keyring = Keyring(self.setting.master, random, self.loop.now)
            context = replace(context, seal=keyring.seal_model, seal_text=keyring.seal)
            publish = key_publisher(log, keyring)
        point, repeats = self._point(process), self.faults.repeats
        worker = self.make(Seat(context, log, store, process.name, tuning, point, publish, repeats))
        self._workers[name] = (process, worker, rules.worker)

        def again() -> None:
            self.counters += worker.counters
            self.failures += [f"{process.name}: {text}" for text in worker.alarms.values()]
            if process.failure is not None:
                self.failures.append(f"{process.name} ended: {process.failure!r}")
            del self._workers[name]
            self._later(lambda: self._start_worker(rules, name, life + 1))

        async def run() -> None:
            await worker.run()
            self.faults.tally.left += 1
            process.kill()

        process.at_death(again)
        process.start(run(), "run")

    def _start_api(self, rules: Rules, number: int, life: int) -> Api:
        process, log, store = self._process(rules, f"{rules.worker}-api-{number}.{life}")
        front = Front(rules.worker, log, Lanes(log), store, partitions=self.plan.partitions)

        def start() -> None:
            if rules.worker in self._lost:
                self._later(start)
            else:
                self.apis[rules.worker][number] = self._start_api(rules, number, life + 1)

        def again() -> None:
            if process.failure is not None and not isinstance(process.failure, StoreError):
                self.failures.append(f"{process.name} ended: {process.failure!r}")
            self._later(start)

        process.at_death(again)
        process.start(front.open(), "open")
        return Api(process, front, log, store)

    def _process(self, rules: Rules, name: str) -> tuple[Process, MemoryLog, MemoryStore]:
        process = Process(self.loop, name, self.faults)
        content, point = self.stores[rules.worker], self._point(process)
        process.at_death(lambda: content.kill(name))
        log = MemoryLog(self.log, self.loop.now, point)
        return process, log, MemoryStore(content, rules.worker, rules.tables, self.loop.now, point, name)

    def _later(self, start: Callable[[], None]) -> None:
        """In nobody's name: who restarts a process is not part of it."""
        self.loop.call_later(self.faults.restart_seconds(), start, context=Variables())


def _unsealed(_tenant: str, _subject: str, text: str) -> str:
    return text


def _copied(row: Position) -> Position:
    return Position(row.partition, row.version, dict(row.offsets), dict(row.seen), dict(row.sequences))
