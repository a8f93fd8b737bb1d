"""Deliveries and requests that commute, decided twice in different ways; the second time the clock takes more steps."""

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any, Final

from services.contacts.door.store import IDENTITIES
from shared.events.catalogue import Data
from shared.events.contacts import TENANT_SUBJECT, AdvanceClock
from shared.events.points import AdjustPoints, RedeemPoints
from shared.testing.simulator.loop import EPOCH
from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.twins import Besides, Phases, Written, compared, plans_of, settled
from shared.testing.simulator.world import Setting, World
from tests.simulator.shop.run import MASTER, delivered, event_of, is_known, shop_rules, watch
from tests.simulator.shop.work import CLOCKED_TENANT, MARKS, PEOPLE, SOURCE, VISIT, Deliver, Request, opening

ORDERS: Final = 40
DAYS: Final = 5
OFFSETS: Final = ("fact_id", "cause")
"""What points decides on an event of the stream is named by where that event stands."""

BESIDES: Final[Besides] = {
    "door": {"identities": ("value",)},
    "points": {
        "evaluations": OFFSETS,
        "ledger_entries": OFFSETS,
        "refunds": ("fact_id",),
        "tier_changes": OFFSETS,
    },
}
"""Sealed values are of other keys."""


def run_seed(seed: int) -> Outcome:
    """Run one seed's inputs under two plans. Raises LawBroken or SimulationStuck."""
    calm, rough = plans_of(seed)
    setting = Setting(shop_rules(), watch, is_known, MASTER)
    first = settled(calm, setting, phases(seed, steps_a_day=1))
    second = settled(rough, setting, phases(seed, steps_a_day=Random(f"{seed}/steps").choice((2, 3))))
    return compared(first, second, BESIDES)


def phases(seed: int, *, steps_a_day: int) -> Phases:
    """The tenants and their programs; orders; what came back; what members spend; and then the days."""

    def openings(kinds: tuple[str, ...]) -> Iterator[Written]:
        for act in opening(EPOCH):
            assert isinstance(act, Request)
            if act.key in kinds:
                yield Written(act.worker, event_of(act, TENANT_SUBJECT), EPOCH)

    def orders(_world: World) -> Iterator[Written]:
        draw = Random(f"{seed}/shop twins' amounts")
        for number, tenant, customer in _ordered(seed):
            if number % 5 == 0:
                yield _sent(tenant, f"e{number}", VISIT, {"customer": customer, "store": MARKS[tenant]})
            lines = [{"line_id": "0", "sku": MARKS[tenant], "quantity": 2, "amount_minor": 100 * draw.randint(1, 60)}]
            yield _sent(tenant, f"o{number}", "purchase.completed", _about(number, customer, lines))

    def refunds(_world: World) -> Iterator[Written]:
        for number, tenant, customer in _ordered(seed)[::4]:
            lines = [{"line_id": "0", "quantity": 1, "amount_minor": 50}]
            order = {"refund_id": "r", **_about(number, customer, lines)}
            yield _sent(tenant, f"r{number}", "purchase.refunded", order)

    def spending(world: World) -> Iterator[Written]:
        draw = Random(f"{seed}/shop twins' spending")
        identities: Any = sorted(world.rows("door").get(IDENTITIES.name, []))
        for number, identity in enumerate(identities):
            mark = MARKS[identity.tenant]
            asked: tuple[Data, ...] = (
                RedeemPoints(points=draw.randint(1, 60), reference=mark),
                AdjustPoints(wallet="points", points=draw.randint(1, 9), reason=mark, by="li"),
                RedeemPoints(points=draw.randint(1, 60), reference=mark),
            )
            for nth, data in enumerate(asked):
                request = Request(identity.tenant, "points", f"k{number}-{nth}", data)
                yield Written("points", event_of(request, identity.contact), EPOCH + timedelta(seconds=number + nth))

    def days(_world: World) -> Iterator[Written]:
        for step in range(1, DAYS * steps_a_day + 1):
            to = EPOCH + step * timedelta(days=1) / steps_a_day
            request = Request(CLOCKED_TENANT, "contacts", f"step-{step}", AdvanceClock(to=to))
            yield Written("contacts", event_of(request, TENANT_SUBJECT), EPOCH)

    return (
        lambda _world: openings(("create", "first")),
        lambda _world: openings(("draft-0", "publish-0")),
        orders,
        refunds,
        spending,
        days,
    )


def _ordered(seed: int) -> list[tuple[int, str, dict[str, str]]]:
    """Order number, tenant and customer; one customer is always named alike, so that its inputs stay in their order."""
    draw = Random(f"{seed}/shop twins")
    tenants = list(MARKS)
    return [(n, draw.choice(tenants), {"reference": f"P{draw.randint(1, PEOPLE)}"}) for n in range(ORDERS)]


def _about(number: int, customer: dict[str, str], lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {"customer": customer, "channel": "web", "order_id": f"o{number}", "currency": "USD", "lines": lines}


def _sent(tenant: str, name: str, event_type: str, data: dict[str, Any]) -> Written:
    event = {"specversion": "1.0", "id": name, "source": SOURCE, "type": event_type, "time": EPOCH.isoformat()}
    return Written("door", delivered(Deliver(tenant, {**event, "data": data})), EPOCH)
