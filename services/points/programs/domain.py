"""What happened, as earning rules see it, and which version of a program applies to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from shared.events.door import CustomRecorded, Line, PurchaseCompleted
from shared.events.envelope import Event

PURCHASE: Final = "purchase.completed"
"""The name in `on` of an order that was paid. Every other name is a custom event's."""


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What is known of the member just before the event."""

    tier: str = ""
    """Code of the current level; empty without tiers."""
    balances: Mapping[str, int] = field(default_factory=dict)
    """Available points by wallet; a wallet that is not named has 0."""
    purchases_before: int = 0


@dataclass(frozen=True, slots=True)
class Happened:
    """One event that may earn. `zone` and `program_currency` are the tenant's, `currency` the order's."""

    name: str
    """`purchase.completed`, or the custom event's name."""
    custom: bool
    time: datetime
    zone: str
    program_currency: str
    currency: str = ""
    channel: str = ""
    store: str = ""
    lines: tuple[Line, ...] = ()
    paid_with_points_minor: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    member: MemberFacts = MemberFacts()


def happened_from(event: Event, member: MemberFacts, *, zone: str, currency: str) -> Happened:
    """The event as rules see it. `zone` is an IANA name, `currency` the tenant's.

    Raises TypeError for data that no rule earns on.
    """
    match event.data:
        case PurchaseCompleted() as purchase:
            return Happened(
                name=PURCHASE,
                custom=False,
                time=event.time,
                zone=zone,
                program_currency=currency,
                currency=purchase.currency,
                channel=purchase.channel,
                store=purchase.store,
                lines=purchase.lines,
                paid_with_points_minor=purchase.paid_with_points_minor,
                member=member,
            )
        case CustomRecorded() as recorded:
            return Happened(
                name=recorded.name,
                custom=True,
                time=event.time,
                zone=zone,
                program_currency=currency,
                fields=recorded.fields,
                member=member,
            )
        case other:
            raise TypeError(f"no rule earns on {type(other).__name__}")


class Version(Protocol):
    """A published version of a program, however it is stored."""

    @property
    def version(self) -> int: ...
    @property
    def effective_from(self) -> datetime: ...


V = TypeVar("V", bound=Version)


def version_at(versions: Iterable[V], when: datetime) -> V | None:
    """The version that applies to what happened at `when`: the one that took effect last.

    Of two that take effect at the same instant the higher version replaces the lower. None: nothing applied yet.
    """
    begun = [version for version in versions if version.effective_from <= when]
    return max(begun, key=lambda version: (version.effective_from, version.version), default=None)
