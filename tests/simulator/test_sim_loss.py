"""A lost database is made again from the log, whatever part of its last decisions the log has."""

import asyncio
from collections.abc import Coroutine, Sequence

import pytest

from shared.log.port import At, Entry
from shared.runtime.partition import OwnedPartition
from shared.runtime.relay import Relay
from shared.runtime.worker import Worker
from shared.testing.simulator.loop import SimLoop, elapse, simulate
from shared.testing.simulator.plan import Plan
from shared.testing.simulator.twins import write
from shared.testing.simulator.workers import Seat, make_worker
from shared.testing.simulator.world import Setting, World
from tests.simulator.shop.run import MASTER, is_known, shop_rules, watch
from tests.simulator.shop.twins import phases

PARTITIONS = 2
ORDERS_AT = 2
"""Which phase brings the orders."""


@pytest.mark.parametrize("silent", range(PARTITIONS))
def test_no_input_is_passed_over_when_a_part_of_a_batch_was_published(silent: int) -> None:
    """Given a door whose relay gets through to one target only, when its database is lost, then all is decided."""
    hindered = asyncio.Event()

    class Hindered(Relay):
        async def _append(self, at: At, entries: Sequence[Entry]) -> int:
            while hindered.is_set() and at.partition == silent:
                await elapse(1.0)
            return await super()._append(at, entries)

    class Partition(OwnedPartition):
        relay_class = Hindered

    def make(seat: Seat) -> Worker:
        return make_worker(seat, Partition if seat.context.rules.worker == "door" else OwnedPartition)

    async def main(loop: SimLoop) -> World:
        world = World(loop, Plan(5, partitions=PARTITIONS), Setting(shop_rules(), watch, is_known, MASTER), make)
        await world.open()
        for number, phase in enumerate(phases(5, steps_a_day=1)):
            if number == ORDERS_AT:
                hindered.set()
            await write(world, phase(world))
            if number == ORDERS_AT:
                await elapse(5.0)
                await world.lose("door")
                hindered.clear()
            await world.rest()
        world.judge()
        return world

    def begin(loop: SimLoop) -> Coroutine[object, object, World]:
        return main(loop)

    world = simulate(5, begin)
    assert world.faults.tally.lost == 1
    assert len([each for standing in world.stream.accepted for each in standing]) > 100
