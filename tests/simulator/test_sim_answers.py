"""A repeated key is answered when the log has its outcome, whichever partition decided it."""

import asyncio
from collections.abc import Coroutine, Sequence

from shared.log.port import At, Entry, partition_of
from shared.runtime.partition import OwnedPartition
from shared.runtime.relay import Relay
from shared.runtime.worker import Worker
from shared.testing.simulator.loop import EPOCH, SimLoop, elapse, simulate
from shared.testing.simulator.plan import Plan
from shared.testing.simulator.toy.events import Deposit
from shared.testing.simulator.toy.run import event_of, toy_rules
from shared.testing.simulator.toy.work import Ask
from shared.testing.simulator.workers import Seat, make_worker
from shared.testing.simulator.world import Setting, World

PARTITIONS = 2


def test_a_key_used_again_for_another_contact_waits_for_the_partition_that_decided_it() -> None:
    """Given an outcome that the log lacks, when its key comes for another contact, then it is no answer yet."""
    silent = asyncio.Event()
    first, other = (
        next(name for name in (f"c{n}" for n in range(20)) if partition_of("acme", name, PARTITIONS) == q)
        for q in range(PARTITIONS)
    )

    class Hindered(Relay):
        async def _append(self, at: At, entries: Sequence[Entry]) -> int:
            while silent.is_set() and at.partition == 0:
                await elapse(0.1)
            return await super()._append(at, entries)

    class Partition(OwnedPartition):
        relay_class = Hindered

    def make(seat: Seat) -> Worker:
        return make_worker(seat, Partition)

    async def main(loop: SimLoop) -> None:
        world = World(loop, Plan(1, partitions=PARTITIONS), Setting(toy_rules()), make)
        await world.open()
        await elapse(5.0)
        api = world.apis["toy"][0]
        silent.set()
        asks = [event_of(Ask("toy", "acme", name, "k", Deposit(amount=5)), EPOCH) for name in (first, other)]
        early = [await api.process.ask(api.front.ask(event, 2.0)) for event in asks]
        assert [asked.outcome for asked in early] == [None, None]
        silent.clear()
        late = await api.process.ask(api.front.ask(asks[1], 2.0))
        assert late.outcome is not None
        assert (late.partition, late.outcome.subject) == (0, first)
        world.look()
        assert world.stream.outcomes[("toy", "acme", "k")].id == late.outcome.event_id
        await world.heal()

    def begin(loop: SimLoop) -> Coroutine[object, object, None]:
        return main(loop)

    simulate(1, begin)
