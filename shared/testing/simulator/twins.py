"""The same inputs twice, under two plans: where inputs commute the states are the same (laws 4 and 5).

Inputs are put into the inboxes at fixed instants, phase by phase; a phase begins when all before it has been decided.
"""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from random import Random
from typing import Final, NamedTuple

from shared.events.envelope import Event, encode
from shared.log.port import At, Entry, inbox, partition_of
from shared.testing.memory_log import MemoryLog
from shared.testing.simulator.callers import Callers
from shared.testing.simulator.laws import TableRows, check_same
from shared.testing.simulator.loop import SimLoop, simulate
from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.plan import Plan, plan_of
from shared.testing.simulator.stream import Breach, enforce
from shared.testing.simulator.world import Setting, World

STEPS_MAX: Final = 600_000
CRASHES_MAX: Final = 3
MISHAP_SECONDS_MAX: Final = 4.0
SIZES: Final = (1, 7, 1000)


class Written(NamedTuple):
    """An input as it stands in a worker's inbox."""

    worker: str
    event: Event
    at: datetime


Phase = Callable[[World], Iterable[Written]]
Phases = Sequence[Phase]
Besides = Mapping[str, Mapping[str, Sequence[str]]]
"""By worker and table, the columns that may differ; "*" is all."""


def plans_of(seed: int) -> tuple[Plan, Plan]:
    """Two ways through the same inputs: one calm, one rough, with other batches, workers and interleavings."""
    draw = Random(f"{seed}/twins")
    first, second = draw.sample(SIZES, 2)
    rough = plan_of(seed)
    calm = Plan(seed, 1, batch_max=first, partitions=rough.partitions, yield_chance=0.3)
    few = min(rough.crashes_max, CRASHES_MAX)
    rough = replace(rough, workers=draw.choice((2, 3)), batch_max=second, crashes_max=few)
    return calm, replace(rough, losses_max=draw.randint(0, 3), mishap_seconds_max=MISHAP_SECONDS_MAX)


def settled(plan: Plan, setting: Setting, phases: Phases) -> Outcome:
    """Run all phases to rest; the outcome has the rows. Raises LawBroken or SimulationStuck."""

    async def main(loop: SimLoop) -> Outcome:
        world = World(loop, plan, setting)
        await world.open()
        for phase in phases:
            await write(world, phase(world))
            await world.rest()
        await world.heal()
        await world.rest()
        world.judge()
        return Callers(world, Random(0)).outcome(loop.trace)

    def begin(loop: SimLoop) -> Coroutine[object, object, Outcome]:
        return main(loop)

    return simulate(plan.seed, begin, steps_max=STEPS_MAX)


async def write(world: World, inputs: Iterable[Written]) -> None:
    """Put inputs into their inboxes as of the instants that they name."""
    for worker, event, at in inputs:
        q = partition_of(event.tenant, event.subject, world.plan.partitions)
        log = MemoryLog(world.log, lambda at=at: at)  # type: ignore[misc]
        await log.append(At(inbox(worker), q), [Entry(f"{event.tenant}/{event.subject}".encode(), encode(event))])


def compared(first: Outcome, second: Outcome, besides: Besides) -> Outcome:
    """The second one with the first one's counts added. Raises LawBroken where their rows differ."""
    breaches: list[Breach] = []
    for worker, left_out in besides.items():
        one: TableRows = first.rows[worker]
        other: TableRows = second.rows[worker]
        breaches += check_same(4, one, other, besides=left_out)
    enforce(breaches, f"between the first run of seed {first.plan.seed} and the second")
    second.tally.add(first.tally)
    return replace(
        second,
        steps=first.steps + second.steps,
        seconds=first.seconds + second.seconds,
        counters=first.counters + second.counters,
        events=first.events + second.events,
    )
