"""The toy worker's neighbours: one that answers its deposits with a bonus, and a stand-in for the contacts worker."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from shared.events.contacts import (
    AdvanceClock,
    ClockAdvanced,
    ClockDeclared,
    CreateTenant,
    TenantCreated,
    TenantDeclared,
)
from shared.events.envelope import Event
from shared.runtime.rules import Draft, Input, Refused
from shared.runtime.tables import Need, Rows, Table
from shared.testing.simulator.toy.events import BONUS, Deposited, Gift, Granted
from shared.testing.simulator.toy.store import CLOCKED, GRANTS, WATCHED, ClockedRow, GrantRow, WatchedRow

DEPOSITS_PER_BONUS: Final = 3
BONUS_PERCENT: Final = 10


class BonusRules:
    """Every third deposit of a contact earns a tenth of it. Decides on what it has seen of the toy worker's facts."""

    worker = BONUS
    tables: Sequence[Table[Any]] = (WATCHED, GRANTS)
    requests = frozenset({"bonus.gift.v1"})
    reads = frozenset({"toy.deposited.v1"})
    fold_version = 1
    settles = True

    def needs(self, event: Event, partition: int) -> Iterable[Need]:  # noqa: ARG002 - the same on every partition
        match event.data:
            case Deposited():
                yield Need(WATCHED, (event.tenant, event.subject))
            case Gift() | Granted():
                pass
            case _:
                return
        yield Need(GRANTS, (event.tenant, event.subject))

    def absorb(self, rows: Rows, event: Event, partition: int) -> None:  # noqa: ARG002
        if isinstance(event.data, Deposited) and not event.data.bonus:
            seen = rows.get(WATCHED, (event.tenant, event.subject)) or WatchedRow(event.tenant, event.subject)
            rows.put(WATCHED, seen._replace(deposits=seen.deposits + 1, amount=seen.amount + event.data.amount))

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        match item.event.data:
            case Gift(amount=amount):
                return [Draft(Granted(amount=amount, reason="a gift"))]
            case Deposited(bonus=False, amount=amount):
                seen = rows.get(WATCHED, (item.event.tenant, item.event.subject))
                if seen is None or seen.deposits % DEPOSITS_PER_BONUS:
                    return []
                return [Draft(Granted(amount=1 + amount * BONUS_PERCENT // 100, reason="every third deposit"))]
            case _:
                return []

    def evolve(self, rows: Rows, event: Event) -> None:
        if isinstance(event.data, Granted):
            given = rows.get(GRANTS, (event.tenant, event.subject)) or GrantRow(event.tenant, event.subject)
            rows.put(GRANTS, given._replace(times=given.times + 1, amount=given.amount + event.data.amount))

    def letters(self, fact: Event) -> Sequence[Draft]:  # noqa: ARG002
        return []

    def due_at(self, rows: Rows, tenant: str, subject: str) -> datetime | None:  # noqa: ARG002
        return None


class ClockRules:
    """Creates tenants and moves their test clocks, in the contacts worker's name."""

    worker = "contacts"
    tables: Sequence[Table[Any]] = (CLOCKED,)
    requests = frozenset({"tenant.create.v1", "clock.advance.v1"})
    reads: frozenset[str] = frozenset()
    fold_version = 1
    settles = True

    def needs(self, event: Event, partition: int) -> Iterable[Need]:  # noqa: ARG002
        if isinstance(event.data, CreateTenant | TenantCreated | AdvanceClock | ClockAdvanced):
            yield Need(CLOCKED, (event.tenant,))

    def absorb(self, rows: Rows, event: Event, partition: int) -> None:
        """Nothing: it reads nobody."""

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        known = rows.get(CLOCKED, (item.event.tenant,)) if item.kind == "request" else None
        match item.event.data:
            case CreateTenant() as asked:
                if known is not None:
                    raise Refused("tenant-exists", "choose another tenant")
                return [Draft(TenantCreated(**asked.model_dump()))]
            case AdvanceClock(to=to):
                if known is None or known.clock_at is None:
                    raise Refused("no-test-clock", "the tenant runs on real time")
                if to < known.clock_at:
                    raise Refused("clock-goes-back", "a clock moves forward only")
                return [Draft(ClockAdvanced(to=to))]
            case _:
                return []

    def evolve(self, rows: Rows, event: Event) -> None:
        match event.data:
            case TenantCreated(clock_at=clock_at):
                rows.put(CLOCKED, ClockedRow(event.tenant, clock_at))
            case ClockAdvanced(to=to):
                rows.put(CLOCKED, ClockedRow(event.tenant, to))
            case _:
                pass

    def letters(self, fact: Event) -> Sequence[Draft]:
        match fact.data:
            case TenantCreated() as created:
                return [Draft(TenantDeclared(**created.model_dump()))]
            case ClockAdvanced(to=to):
                return [Draft(ClockDeclared(to=to))]
            case _:
                return []

    def due_at(self, rows: Rows, tenant: str, subject: str) -> datetime | None:  # noqa: ARG002
        return None
