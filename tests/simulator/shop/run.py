"""One seed of door, contacts and points: senders, callers and clocks while everything breaks, and the laws over it."""

import asyncio
from base64 import b64decode
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any, Final, assert_never

import orjson

from services.contacts.door.delivery import inbox_key, structured
from services.contacts.door.rules import is_contact
from services.contacts.door.store import RECEIPTS
from services.contacts.service import contacts_rules, door_rules
from services.points.ledger.store import ACCOUNTS, MEMBERS
from services.points.service import points_rules
from shared.events.catalogue import type_of
from shared.events.contacts import TENANT_SUBJECT
from shared.events.envelope import Event, encode
from shared.events.points import RedeemPoints
from shared.keyring import Keyring
from shared.log.port import KEYS, PARTITIONS, At, Entry, inbox
from shared.runtime.rules import Rules
from shared.runtime.state import REQUESTS
from shared.sealing import MasterKey, identity_hash
from shared.testing.simulator.callers import WAIT_SECONDS, Callers
from shared.testing.simulator.laws import check_answers_agree, check_reads, check_tenants, rows_by_tenant
from shared.testing.simulator.loop import EPOCH, SimLoop, elapse, simulate
from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.plan import Plan, plan_of
from shared.testing.simulator.stream import Breach, Cause, enforce
from shared.testing.simulator.workers import MakeWorker, make_worker
from shared.testing.simulator.world import Api, Look, Setting, World
from tests.simulator.shop.laws import Books, Deliveries, Keys, check_evaluated, check_private, digest
from tests.simulator.shop.work import (
    MARKS,
    PHONE,
    PRIVATE,
    SOON_SECONDS,
    Act,
    Again,
    Deliver,
    Junk,
    Request,
    opening,
    work_of,
)

CALLERS: Final = 6
STEPS_MAX: Final = 600_000
MASTER: Final = MasterKey(bytes(range(32)))
STRANGER: Final = "c" + "0" * 32
LOOKS_MAX: Final = 20


@cache
def shop_rules() -> Sequence[Rules]:
    """The workers of a run, as their services make them."""
    return door_rules(MASTER), contacts_rules(MASTER), points_rules(MASTER)


@dataclass
class Shop:
    """What senders and callers do, and what they know of each other's."""

    callers: Callers
    members: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By tenant, the contacts that receipts named."""
    asked: list[tuple[Request, str]] = field(default_factory=list)
    """Requests with their subjects."""

    def __post_init__(self) -> None:
        self.world, self.draw = self.callers.world, self.callers.draw

    async def one(self, name: str, acts: Sequence[Act]) -> None:
        for act in acts:
            await elapse(self.draw.choice((0.0, 0.0, 0.05, 1.0)))
            match act:
                case Deliver():
                    await self._deliver(act)
                case Junk():
                    q = self.draw.randrange(self.world.plan.partitions)
                    at, entry = At(inbox("door"), q), Entry(f"{act.tenant}/junk".encode(), act.value)
                    await self.callers.insist("door", lambda api, at=at, entry=entry: api.log.append(at, [entry]))  # type: ignore[misc]
                case Request():
                    await self.ask(name, act, self._subject(act))
                case Again():
                    if self.asked:
                        request, subject = self.draw.choice(self.asked[-4:])
                        await self.ask(name, request, self._subject(request) if act.other_member else subject)
                case _:
                    assert_never(act)

    def _subject(self, request: Request) -> str:
        if type_of(request.data).name.startswith("points."):
            return self.draw.choice(self.members[request.tenant] or [STRANGER])
        return TENANT_SUBJECT

    async def ask(self, name: str, request: Request, subject: str) -> str:
        """Ask, read after the answer, and return the outcome."""
        self.asked.append((request, subject))
        answer, outcome = await self.callers.ask(name, request.worker, event_of(request, subject))
        enforce(check_tenants(MARKS, [(request.tenant, outcome)]), f"in the answer to {request}")

        async def seen(api: Api) -> tuple[frozenset[str], int]:
            requests = await api.store.load(REQUESTS, [(request.tenant, request.key)])
            members: list[Any] = []
            if request.worker == "points":
                members = await api.store.load(MEMBERS, [(request.tenant, subject)])
            return frozenset(row.event_id for row in requests), sum(row.entries + row.evaluations for row in members)

        await self.callers.read_after(name, answer, subject, seen)
        return outcome.outcome

    async def _deliver(self, act: Deliver) -> None:
        """As the door's API: read, keep, and most times wait for the receipt (laws 2 and 7)."""
        event = delivered(act)
        q, offset = await self.callers.insist("door", lambda api: api.front.append(event))
        kept = self.world.log.records[At(inbox("door"), q)]
        if offset >= len(kept) or kept[offset].value != encode(event):
            enforce([Breach(2, f"{event.id} was accepted at {q}/{offset} and is not there")])
        if self.draw.random() < 0.8:
            await self._receipt(act.tenant, event.source, event.id, q, offset + 1)

    async def _receipt(self, tenant: str, source: str, name: str, q: int, until: int) -> None:
        async def read(api: Api) -> list[Any] | None:
            if not await api.front.wait(inbox={q: until}, events={}, wait_seconds=WAIT_SECONDS):
                return None
            return await api.store.load(RECEIPTS, [(tenant, source, name)])

        async def published(api: Api) -> bool:
            """A receipt of another partition is shown when the log has what that partition had decided."""
            reached = {}
            for each in range(self.world.plan.partitions):
                position = await api.store.position(each)
                reached[each] = 0 if position is None else position.offsets.get(inbox("door"), 0)
            return await api.front.wait(inbox=reached, events={}, wait_seconds=WAIT_SECONDS)

        for _ in range(LOOKS_MAX):
            receipts = await self.callers.insist("door", read)
            if receipts is None:
                continue
            if not receipts:
                enforce([Breach(7, f"{name} of {tenant} is decided and has no receipt")])
            if is_contact(receipts[0].subject) and receipts[0].subject not in self.members[tenant]:
                self.members[tenant].append(receipts[0].subject)
            if await self.callers.insist("door", published):
                self.world.look()
                deliveries = deliveries_of(self.world)
                enforce(deliveries.look(self.world.stream.facts))
                if not deliveries.said[(tenant, source, name)]:
                    enforce([Breach(2, f"{name} of {tenant} has a receipt, the log has no fact of it")])
                return


def event_of(request: Request, subject: str) -> Event:
    """The request as an API writes it."""
    return Event(
        id=request.key,
        source="/caller",
        type=type_of(request.data).name,
        tenant=request.tenant,
        subject=subject,
        time=EPOCH,
        data=request.data,
        request_key=request.key,
        request_hash=digest(repr((subject, request.data))),
    )


def delivered(act: Deliver) -> Event:
    """The delivery as the door's API writes it."""
    delivery = structured(act.event, EPOCH + timedelta(days=1))
    return Event(
        id=delivery.id,
        source=delivery.source,
        type="delivery.v1",
        tenant=act.tenant,
        subject=inbox_key(act.tenant, delivery, keyed),
        time=delivery.time,
        data=delivery,
    )


def keyed(tenant: str, kind: str, value: str) -> str:
    """The door's identity hash."""
    return identity_hash(MASTER.identity_secret, tenant, kind, value)


_SAID: Final = "deliveries"


def deliveries_of(world: World) -> Deliveries:
    """The run's own record of what the door said."""
    found = world.notes.setdefault(_SAID, Deliveries())
    assert isinstance(found, Deliveries)
    return found


def watch(world: World, worker: str) -> Look:
    """A service's laws over its rows."""
    books, keys = Books(), Keys()
    topic = [world.log.records[At(KEYS, q)] for q in range(PARTITIONS)]

    def look() -> list[Breach]:
        rows = world.stores[worker].rows
        identities = rows.get("identities", {}) if worker == "door" else {}
        breaches = keys.look(topic, identities.values(), rows.get("parked", {}).values())
        match worker:
            case "points":
                lots = rows.get("lots", {}).values()
                return breaches + books.look(rows.get("ledger_entries", {}).values(), rows.get("accounts", {}), lots)
            case "door":
                return breaches + deliveries_of(world).look(world.stream.facts)
            case _:
                return breaches

    return look


def is_known(world: World, worker: str, event: Event, cause: Cause) -> bool:
    """Whether a delivery's body was recorded, or refused, under its source and id on another input."""
    if worker != "door":
        return False
    deliveries = deliveries_of(world)
    said = deliveries.said.get((event.tenant, event.source, event.id), [])
    return any(
        Cause.of(fact.cause) != cause and getattr(fact.data, "body_hash", "") == event.data["body_hash"]
        for fact in said
    )


def run_seed(seed: int, *, plan: Plan | None = None, make: MakeWorker = make_worker, requests: int = 90) -> Outcome:
    """Run one seed to its end. Raises LawBroken, or SimulationStuck with who waits where."""
    chosen = plan_of(seed, requests=requests) if plan is None else plan
    setting = Setting(shop_rules(), watch, is_known, MASTER)

    def main(loop: SimLoop) -> Coroutine[Any, Any, Outcome]:
        return _main(World(loop, chosen, setting, make))

    return simulate(seed, main, steps_max=STEPS_MAX)


async def _main(world: World) -> Outcome:
    plan, loop = world.plan, world.loop
    await world.open()
    shop = Shop(Callers(world, Random(f"{plan.seed}/callers")))
    await shop.one("opener", opening(EPOCH))
    acts = work_of(plan.seed, plan.requests, EPOCH)
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(shop.one(f"caller-{number}", acts[number::CALLERS]), name=f"caller-{number}")
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    await world.heal()
    await elapse(SOON_SECONDS)
    await world.rest()
    await _spend_all(shop)
    await world.rest()
    world.judge()
    enforce(_shop_breaches(shop), "at rest")
    return shop.callers.outcome(loop.trace)


async def _spend_all(shop: Shop) -> None:
    """Law 7: what a read shows as available is what can be spent then, to the last point and no more."""
    for tenant, members in sorted(shop.members.items()):
        for number, contact in enumerate(members[:3]):
            accounts = await shop.callers.insist(
                "points",
                lambda api, key=(tenant, contact): api.store.load(ACCOUNTS, [key]),  # type: ignore[misc]
            )
            available = sum(row.available for row in accounts if row.wallet == "points")
            for nth, points in enumerate([available, 1] if available else [1]):
                data = RedeemPoints(points=points, reference=MARKS[tenant])
                told = await shop.ask("spender", Request(tenant, "points", f"last-{number}-{nth}", data), contact)
                outcome = orjson.loads(told)
                granted = outcome.get("available") == 0 and outcome.get("points") == points
                refused = outcome.get("reason") == "not-enough-points" and outcome["facts"]["available"] == 0
                if not (granted if available and nth == 0 else refused):
                    enforce([Breach(7, f"{available} points are shown of {contact}, asking for {points}: {told}")])


def _shop_breaches(shop: Shop) -> list[Breach]:
    world = shop.world
    breaches = check_answers_agree(shop.callers.answers) + check_reads(shop.callers.reads)
    everything = [each for standing in world.stream.accepted for each in standing]
    rows: dict[str, list[Any]] = dict(world.rows("points"))
    breaches += check_evaluated(everything, rows.get("evaluations", []))
    breaches += deliveries_of(world).check_orders()
    shown = [(f"{each.event.type} {each.event.id}", encode(each.event)) for each in everything]
    for worker in world.stores:
        breaches += check_tenants(MARKS, rows_by_tenant(world.rows(worker)))
        shown += [(f"{worker} {name}", repr(row).encode()) for name, each in world.rows(worker).items() for row in each]
    breaches += check_tenants(MARKS, [(each.event.tenant, each.event) for each in everything])
    return breaches + check_private([PRIVATE, PHONE], shown) + _unsealed(world)


def _unsealed(world: World) -> list[Breach]:
    """Law 8: who has the keys of the topic can read every identity on the stream, and it is the one that was hashed."""
    keyring = Keyring(MASTER, Random(0).randbytes, world.loop.now)
    wrapped = {record.key: record.value for q in range(PARTITIONS) for record in world.log.records[At(KEYS, q)]}
    breaches = []
    for key, value in wrapped.items():
        tenant, _, rest = key.decode().partition("/")
        subject, _, key_id = rest.rpartition("/")
        keyring.learn(tenant, subject, key_id, b64decode(orjson.loads(value or b"")["wrapped"]))
    for standing in world.stream.accepted:
        for each in standing:
            event = each.event
            for identity in getattr(event.data, "identities", ()):
                text = keyring.unseal(event.tenant, event.subject, identity.value)
                if not isinstance(text, str):
                    breaches.append(Breach(8, f"{event.id}: an identity cannot be read with the keys of the log"))
                elif identity_hash(MASTER.identity_secret, event.tenant, identity.kind, text) != identity.hash:
                    breaches.append(Breach(8, f"{event.id}: an identity is not the one of its hash"))
    return breaches
