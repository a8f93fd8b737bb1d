"""The toy workers' inputs that commute, decided twice in different ways; the second time the clock takes more steps."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Final

from shared.events.catalogue import Data
from shared.events.contacts import TENANT_SUBJECT, AdvanceClock, CreateTenant
from shared.testing.simulator.loop import EPOCH
from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.toy.events import BONUS, OWNER, Deposit, Gift, Nickname, Transfer, Withdraw
from shared.testing.simulator.toy.run import event_of, toy_rules, watch
from shared.testing.simulator.toy.work import CLOCKED_TENANT, CONTACTS, MARKS, Ask
from shared.testing.simulator.twins import Besides, Phases, Written, compared, plans_of, settled
from shared.testing.simulator.world import Setting, World

INPUTS: Final = 60
DAYS: Final = 3
FIRST_DEPOSIT: Final = 100_000
"""So much that nothing is ever refused: then the order of what follows is all the same."""

SAME_PARTITIONS: Final[Besides] = {
    "toy": {"entries": ("event_id",), "subjects": ("now",)},
    "bonus": {"subjects": ("now",)},
}
"""An event of the stream causes facts that are named by its offset, and a letter carries its sender's last `now`; a
deposit decided after it carries that on to the bonus worker."""
OTHER_PARTITIONS: Final[Besides] = {
    "toy": {
        "clocks": ("*",),
        "deposits": ("deposit_id",),
        "entries": ("event_id",),
        "requests": ("event_id", "partition", "outcome"),
        "subjects": ("partition", "now"),
        "transfers": ("transfer_id",),
    },
    "bonus": {"clocks": ("*",), "requests": ("event_id", "partition"), "subjects": ("partition", "now")},
}
"""With other partitions an input has another offset, which names what it caused."""


def run_seed(seed: int) -> Outcome:
    """Run one seed's inputs under two plans. Raises LawBroken or SimulationStuck."""
    draw = Random(f"{seed}/toy twins")
    calm, rough = plans_of(seed)
    if seed % 3 == 0:
        calm = replace(calm, partitions=12 if rough.partitions < 12 else 1)
    setting = Setting(toy_rules(), watch)
    first = settled(calm, setting, phases(seed, steps_a_day=1))
    second = settled(rough, setting, phases(seed, steps_a_day=draw.choice((2, 3))))
    return compared(first, second, SAME_PARTITIONS if calm.partitions == rough.partitions else OTHER_PARTITIONS)


def phases(seed: int, *, steps_a_day: int) -> Phases:
    """The test clock's tenant, everybody's first deposit, what commutes, and then the days."""

    def tenant(_world: World) -> Iterator[Written]:
        created = CreateTenant(name=MARKS[CLOCKED_TENANT], clock_at=EPOCH)
        yield _written("contacts", CLOCKED_TENANT, TENANT_SUBJECT, "create", created, EPOCH)

    def deposits(_world: World) -> Iterator[Written]:
        for name in MARKS:
            for contact in CONTACTS:
                yield _written(OWNER, name, contact, f"first-{contact}", Deposit(amount=FIRST_DEPOSIT), EPOCH)

    def inputs(_world: World) -> Iterator[Written]:
        draw = Random(f"{seed}/toy twins' inputs")
        for number in range(INPUTS):
            name, contact = draw.choice(list(MARKS)), draw.choice(CONTACTS)
            worker, asked = _commuting(draw, name, contact)
            yield _written(worker, name, contact, f"k{number}", asked, EPOCH + timedelta(seconds=number))

    def days(_world: World) -> Iterator[Written]:
        for step in range(1, DAYS * steps_a_day + 1):
            to = EPOCH + step * timedelta(days=1) / steps_a_day
            yield _written("contacts", CLOCKED_TENANT, TENANT_SUBJECT, f"step-{step}", AdvanceClock(to=to), EPOCH)

    return tenant, deposits, inputs, days


def _commuting(draw: Random, tenant: str, contact: str) -> tuple[str, Data]:
    mark = MARKS[tenant]
    match draw.choice(("deposit", "withdraw", "transfer", "nickname", "gift")):
        case "deposit":
            held = draw.choice((0, 3_600, 90_000)) if tenant == CLOCKED_TENANT else 0
            return OWNER, Deposit(amount=draw.randint(1, 500), hold_seconds=held, note=mark)
        case "withdraw":
            return OWNER, Withdraw(amount=draw.randint(1, 300))
        case "transfer":
            return OWNER, Transfer(to=draw.choice(CONTACTS), amount=draw.randint(1, 500))
        case "nickname":
            return OWNER, Nickname(nickname=f"{mark}-{contact}-{draw.randint(1, 3)}")
        case _:
            return BONUS, Gift(amount=draw.randint(1, 50))


def _written(worker: str, tenant: str, subject: str, key: str, asked: Data, at: datetime) -> Written:
    return Written(worker, event_of(Ask(worker, tenant, subject, key, asked), EPOCH), at)
