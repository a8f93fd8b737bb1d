"""One seed of the toy workers: callers that ask, repeat and read while everything breaks, and the laws over it all."""

import asyncio
import hashlib
from collections.abc import Coroutine, Sequence
from datetime import datetime
from random import Random
from typing import Any, Final

from shared.events.catalogue import type_of
from shared.events.envelope import Event
from shared.log.port import At, Entry, inbox, partition_of
from shared.runtime.rules import Rules
from shared.runtime.state import REQUESTS
from shared.testing.simulator.callers import Callers
from shared.testing.simulator.laws import check_answers_agree, check_reads, check_tenants, rows_by_tenant
from shared.testing.simulator.loop import EPOCH, SimLoop, elapse, simulate
from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.plan import Plan, plan_of
from shared.testing.simulator.stream import Breach, enforce
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.laws import Ledger, check_settled
from shared.testing.simulator.toy.others import BonusRules, ClockRules
from shared.testing.simulator.toy.store import ACCOUNTS, AccountRow
from shared.testing.simulator.toy.work import MARKS, Ask, opening, work_of
from shared.testing.simulator.workers import MakeWorker, make_worker
from shared.testing.simulator.world import Api, Look, Setting, World, nothing

CALLERS: Final = 8
STEPS_MAX: Final = 400_000


class Toys:
    """What the callers do with the toy workers."""

    def __init__(self, callers: Callers) -> None:
        self.callers, self.world, self.draw = callers, callers.world, callers.draw

    async def one(self, name: str, asks: Sequence[Ask]) -> None:
        for ask in asks:
            await elapse(self.draw.choice((0.0, 0.0, 0.05, 1.0)))
            if ask.data is None:
                await self._junk(ask)
                continue
            answer, outcome = await self.callers.ask(name, ask.worker, event_of(ask, EPOCH))
            enforce(check_tenants(MARKS, [(ask.tenant, outcome)]), f"in the answer to {ask}")

            async def seen(api: Api, ask: Ask = ask) -> tuple[frozenset[str], int]:
                requests = await api.store.load(REQUESTS, [(ask.tenant, ask.key)])
                accounts: list[AccountRow] = []
                if ask.worker == "toy":
                    accounts = await api.store.load(ACCOUNTS, [(ask.tenant, ask.subject)])
                return frozenset(row.event_id for row in requests), sum(account.facts for account in accounts)

            await self.callers.read_after(name, answer, ask.subject, seen)

    async def _junk(self, ask: Ask) -> None:
        q = partition_of(ask.tenant, ask.subject, self.world.plan.partitions)
        entry = Entry(f"{ask.tenant}/{ask.subject}".encode(), ask.junk)
        await self.callers.insist(ask.worker, lambda api: api.log.append(At(inbox(ask.worker), q), [entry]))


def event_of(ask: Ask, at: datetime) -> Event:
    """The request as an API writes it."""
    assert ask.data is not None
    body = repr((ask.worker, ask.subject, ask.data))
    return Event(
        id=f"{ask.worker}-{ask.tenant}-{ask.key}",
        source="/caller",
        type=type_of(ask.data).name,
        tenant=ask.tenant,
        subject=ask.subject,
        time=at,
        data=ask.data,
        request_key=ask.key,
        request_hash=hashlib.sha256(body.encode()).hexdigest(),
    )


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
    setting = Setting(toy_rules() if rules is None else rules, watch)

    def main(loop: SimLoop) -> Coroutine[Any, Any, Outcome]:
        return _main(World(loop, chosen, setting, make))

    return simulate(seed, main, steps_max=STEPS_MAX)


def toy_rules() -> list[Rules]:
    """The workers of a run."""
    return [ToyRules(), BonusRules(), ClockRules()]


def watch(world: World, worker: str) -> Look:
    """Law 1 over the toy worker's rows."""
    if worker != "toy":
        return nothing
    ledger = Ledger()

    def look() -> list[Breach]:
        rows = world.stores[worker].rows
        return ledger.look(rows.get("accounts", {}).values(), rows.get("entries", {}).values())

    return look


async def _main(world: World) -> Outcome:
    plan, loop = world.plan, world.loop
    await world.open()
    callers = Callers(world, Random(f"{plan.seed}/callers"))
    toys = Toys(callers)
    await toys.one("opener", opening(EPOCH))
    asks = work_of(plan.seed, plan.requests, EPOCH)
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(toys.one(f"caller-{number}", asks[number::CALLERS]), name=f"caller-{number}")
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    await world.heal()
    await elapse(20.0)  # the longest that a deposit is held
    await world.rest()
    world.judge()
    _judge_toys(world, callers)
    return callers.outcome(loop.trace)


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
