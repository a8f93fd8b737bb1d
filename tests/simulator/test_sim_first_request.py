"""A tenant's first request is decided by the tenant's clock, however late its first letter is read."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from shared.events.contacts import TENANT_SUBJECT, CreateTenant
from shared.log.port import EVENTS, At, Log, Reader, Record
from shared.runtime.worker import Worker
from shared.testing.simulator.loop import EPOCH, SimLoop, elapse, simulate
from shared.testing.simulator.plan import Plan
from shared.testing.simulator.toy.events import Deposit
from shared.testing.simulator.toy.run import event_of, toy_rules
from shared.testing.simulator.toy.work import CLOCKED_TENANT, MARKS, Ask
from shared.testing.simulator.workers import Seat, make_worker
from shared.testing.simulator.world import Setting, World


class Deaf:
    """A log whose readers hear nothing of the stream for a while."""

    def __init__(self, log: Log, deaf: asyncio.Event) -> None:
        self._log, self._deaf = log, deaf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def reader(self, positions: Mapping[At, int]) -> Reader:
        return DeafReader(await self._log.reader(positions), self._deaf)


class DeafReader:
    def __init__(self, reader: Reader, deaf: asyncio.Event) -> None:
        self._reader, self._deaf = reader, deaf

    async def take(self, at: At, most: int) -> list[Record]:
        return [] if self._deaf.is_set() and at.topic == EVENTS else await self._reader.take(at, most)

    async def wait(self, timeout_seconds: float) -> bool:
        if not self._deaf.is_set():
            return await self._reader.wait(timeout_seconds)
        await elapse(0.1)
        return True

    async def close(self) -> None:
        await self._reader.close()


def test_the_first_request_of_a_tenant_waits_for_the_tenants_clock() -> None:
    """Given a tenant's first letter that is not read yet, when it asks, then it is decided once the letter is read."""
    deaf, clock = asyncio.Event(), EPOCH - timedelta(days=10_000)
    outcomes: list[Any] = []

    def make(seat: Seat) -> Worker:
        return make_worker(replace(seat, log=Deaf(seat.log, deaf)) if seat.context.rules.worker == "toy" else seat)

    async def main(loop: SimLoop) -> None:
        world = World(loop, Plan(1, partitions=2), Setting(toy_rules()), make)
        await world.open()
        await elapse(5.0)
        deaf.set()
        created = CreateTenant(name=MARKS[CLOCKED_TENANT], clock_at=clock)
        contacts, toy = world.apis["contacts"][0], world.apis["toy"][0]
        ask = Ask("contacts", CLOCKED_TENANT, TENANT_SUBJECT, "create", created)
        assert (await contacts.process.ask(contacts.front.ask(event_of(ask, EPOCH), 5.0))).outcome is not None
        first = event_of(Ask("toy", CLOCKED_TENANT, "c1", "first", Deposit(amount=5)), EPOCH)
        outcomes.append((await toy.process.ask(toy.front.ask(first, 5.0))).outcome)
        deaf.clear()
        outcomes.append((await toy.process.ask(toy.front.ask(first, 5.0))).outcome)
        world.look()
        outcomes.append(world.stream.outcomes[("toy", CLOCKED_TENANT, "first")].recorded_at)
        await world.heal()

    def begin(loop: SimLoop) -> Coroutine[object, object, None]:
        return main(loop)

    simulate(1, begin)
    early, late, recorded_at = outcomes
    assert early is None
    assert late is not None
    assert recorded_at == clock
