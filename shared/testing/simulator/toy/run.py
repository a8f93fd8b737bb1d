"""One seed of the toy workers: callers that ask, repeat and read while everything breaks, and the laws over it all."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NoReturn, TypeVar

from shared.events.catalogue import type_of
from shared.events.envelope import Event, encode
from shared.log.port import At, Entry, LogError, inbox, partition_of
from shared.runtime.rules import Rules
from shared.runtime.state import REQUESTS
from shared.runtime.store import StoreError
from shared.testing.simulator.laws import (
    Answer,
    Read,
    check_answer,
    check_answers_agree,
    check_reads,
    check_tenants,
    rows_by_tenant,
)
from shared.testing.simulator.loop import EPOCH, SimLoop, elapse, simulate
from shared.testing.simulator.plan import Plan, Tally, plan_of
from shared.testing.simulator.processes import ProcessDied
from shared.testing.simulator.stream import Breach, LawBroken, enforce
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.laws import Ledger, check_settled
from shared.testing.simulator.toy.others import BonusRules, ClockRules
from shared.testing.simulator.toy.store import ACCOUNTS, AccountRow
from shared.testing.simulator.toy.work import MARKS, Ask, opening, work_of
from shared.testing.simulator.world import Api, MakeWorker, World, make_worker

T = TypeVar("T")
CALLERS: Final = 8
WAIT_SECONDS: Final = 5.0
TRIES_MAX: Final = 200
STEPS_MAX: Final = 400_000


@dataclass
class Outcome:
    """What one seed showed, when no law was broken."""

    plan: Plan
    trace: int
    steps: int
    seconds: float
    """Virtual."""
    tally: Tally
    counters: Counter[str]
    events: int
    answers: int
    reads: int
    repeated: int
    conflicts: int
    rows: dict[str, dict[str, list[tuple[Any, ...]]]]
    """The final rows by worker and table."""


@dataclass
class Callers:
    """Everybody who asks; each one does its share of the work, one ask after the other."""

    world: World
    draw: Random
    answers: list[Answer] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    conflicts: int = 0

    async def one(self, name: str, asks: list[Ask]) -> None:
        for ask in asks:
            await elapse(self.draw.choice((0.0, 0.0, 0.05, 1.0)))
            if ask.data is None:
                await self._junk(ask)
            else:
                await self._ask(name, ask)

    async def _junk(self, ask: Ask) -> None:
        q = partition_of(ask.tenant, ask.subject, self.world.plan.partitions)
        entry = Entry(f"{ask.tenant}/{ask.subject}".encode(), ask.junk)
        await self._insist(ask.worker, lambda api: api.log.append(At(inbox(ask.worker), q), [entry]))

    async def _ask(self, name: str, ask: Ask) -> None:
        event = self._event(ask)
        for _ in range(TRIES_MAX):
            asked = await self._insist(ask.worker, lambda api: api.front.ask(event, WAIT_SECONDS))
            at = At(inbox(ask.worker), asked.partition)
            answer = Answer(ask.worker, ask.tenant, ask.key, at, asked.offset, encode(event))
            if asked.outcome is not None:
                answer = answer._replace(event_id=asked.outcome.event_id, outcome=asked.outcome.outcome)
                enforce(check_tenants(MARKS, [(ask.tenant, asked.outcome)]), f"in the answer to {ask}")
            self.world.look()
            enforce(check_answer(self.world.stream, self.world.log.records, answer), f"when {name} was answered")
            self.answers.append(answer)
            if asked.outcome is not None:
                self.conflicts += asked.outcome.body_hash != event.request_hash
                await self._read(name, ask, answer)
                return
        self._unanswered(f"{name} was not answered about {ask}")

    def _event(self, ask: Ask) -> Event:
        assert ask.data is not None
        body = repr((ask.worker, ask.subject, ask.data))
        return Event(
            id=f"{ask.worker}-{ask.tenant}-{ask.key}",
            source="/caller",
            type=type_of(ask.data).name,
            tenant=ask.tenant,
            subject=ask.subject,
            time=EPOCH,
            data=ask.data,
            request_key=ask.key,
            request_hash=hashlib.sha256(body.encode()).hexdigest(),
        )

    async def _read(self, name: str, ask: Ask, answer: Answer) -> None:
        """Read after the answer's position, from whichever process answers now (law 7)."""

        async def read(api: Api) -> tuple[frozenset[str], int] | None:
            until = {answer.at.partition: answer.offset + 1}
            if not await api.front.wait(inbox=until, events={}, wait_seconds=WAIT_SECONDS):
                return None
            requests = await api.store.load(REQUESTS, [(ask.tenant, ask.key)])
            accounts: list[AccountRow] = []
            if ask.worker == "toy":
                accounts = await api.store.load(ACCOUNTS, [(ask.tenant, ask.subject)])
            return frozenset(row.event_id for row in requests), sum(account.facts for account in accounts)

        seen = await self._insist(ask.worker, read)
        if seen is not None:
            saw, version = seen
            must = frozenset({answer.event_id})
            self.reads.append(Read(f"{name} of {ask.worker}", ask.tenant, ask.subject, must, saw, version))

    async def _insist(self, worker: str, call: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
        """Ask whichever API process lives now, again while connections break."""
        for _ in range(TRIES_MAX):
            api = self.world.apis[worker]
            try:
                return await api.process.ask(call(api))
            except (ProcessDied, StoreError, LogError):
                await elapse(self.draw.choice((0.1, 1.0, 3.0)))
        return self._unanswered(f"no API process of {worker} answered")

    def _unanswered(self, what: str) -> NoReturn:
        troubles = [*self.world.troubles(), *self.world.lag()]
        listed = "\n".join(f"  law {breach.law}: {breach.what}" for breach in troubles)
        raise LawBroken(f"{what} in {TRIES_MAX} tries\n{listed}\n{self.world.loop.report()}")


def run_seed(
    seed: int,
    *,
    plan: Plan | None = None,
    make: MakeWorker = make_worker,
    rules: Sequence[Rules] | None = None,
    requests: int = 100,
) -> Outcome:
    """Run one seed to its end. Raises LawBroken, or SimulationStuck with who waits where."""
    chosen = plan_of(seed, requests=requests) if plan is None else plan

    def main(loop: SimLoop) -> Coroutine[Any, Any, Outcome]:
        return _main(loop, chosen, make, toy_rules() if rules is None else rules)

    return simulate(seed, main, steps_max=STEPS_MAX)


def toy_rules() -> list[Rules]:
    """The workers of a run."""
    return [ToyRules(), BonusRules(), ClockRules()]


async def _main(loop: SimLoop, plan: Plan, make: MakeWorker, rules: Sequence[Rules]) -> Outcome:
    ledger = Ledger()

    def watch(world: World, worker: str) -> list[Breach]:
        rows = world.stores[worker].rows
        if worker != "toy":
            return []
        return ledger.look(rows.get("accounts", {}).values(), rows.get("entries", {}).values())

    world = World(loop, plan, rules, make, watch)
    await world.open()
    callers = Callers(world, Random(f"{plan.seed}/callers"))
    await callers.one("opener", opening(EPOCH))
    asks = work_of(plan.seed, plan.requests, EPOCH)
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(callers.one(f"caller-{number}", asks[number::CALLERS]), name=f"caller-{number}")
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    world.heal()
    await elapse(20.0)  # the longest that a deposit is held
    await world.rest()
    world.judge()
    _judge_toys(world, callers)
    rows = {worker: world.rows(worker) for worker in world.stores}
    events = sum(len(standing) for standing in world.stream.accepted)
    return Outcome(
        plan,
        loop.trace,
        loop.steps,
        loop.time(),
        world.faults.tally,
        world.tallied(),
        events,
        len(callers.answers),
        len(callers.reads),
        world.stream.repeated,
        callers.conflicts,
        rows,
    )


def _judge_toys(world: World, callers: Callers) -> None:
    rows: dict[str, list[Any]] = dict(world.rows("toy"))
    breaches = check_settled(rows.get("accounts", []), rows.get("entries", []), rows.get("transfers", []))
    breaches += check_answers_agree(callers.answers)
    breaches += check_reads(callers.reads)
    for worker in world.stores:
        breaches += check_tenants(MARKS, rows_by_tenant(world.rows(worker)))
    shown = [(each.event.tenant, each.event) for standing in world.stream.accepted for each in standing]
    breaches += check_tenants(MARKS, shown)
    enforce(breaches, "at rest")
