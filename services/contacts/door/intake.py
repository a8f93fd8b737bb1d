"""From the bytes of a request to entries of the door's inbox."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Literal

from services.contacts.door.delivery import binary, inbox_key, structured
from services.contacts.door.json_values import read_body
from services.contacts.door.problems import Code, DeliveryProblem
from services.contacts.tenants.clocks import TenantClocks
from shared.events.door import Delivery
from shared.events.envelope import Event
from shared.http.problems import Unavailable
from shared.log.port import AppendFailed, EntryRefused, LogError, LogUnavailable
from shared.runtime.front import Front
from shared.sealing import identity_hash
from shared.telemetry import correlation_id, trace_parent

EVENTS_MAX: Final = 500
"""Events of one request."""
EVENTS_AT_ONCE: Final = 25
"""How many are read before others have their turn on this process's one thread."""
BATCH: Final = "application/cloudevents-batch"
STRUCTURED: Final = "application/cloudevents"

Shape = Literal["structured", "binary", "batch"]
Sent = Callable[[datetime], Delivery]
"""One event as sent, to be read at the receiver's `now`. Raises DeliveryProblem."""


Named = tuple[str, str]
"""(source, id) of a sender's event."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An event that the inbox holds."""

    delivery: Delivery
    partition: int
    offset: int

    @property
    def named(self) -> Named:
        return self.delivery.source, self.delivery.id


def next_offsets(taken: Iterable[Taken]) -> dict[int, int]:
    """By inbox partition, the offset after the last one."""
    offsets: dict[int, int] = {}
    for one in taken:
        offsets[one.partition] = max(offsets.get(one.partition, 0), one.offset + 1)
    return offsets


def events_of(content_type: str, headers: Iterable[tuple[str, str]], body: bytes) -> tuple[list[Sent], Shape]:
    """The events of a request, and how they were sent: by its content type, else its ce- headers, else its JSON.

    Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md, 3.
    Raises DeliveryProblem for a request that cannot be read as a whole.
    """
    kind = content_type.strip().lower()
    pairs = list(headers)
    if not kind.startswith(STRUCTURED) and any(name.lower().startswith("ce-") for name, _ in pairs):
        return [partial(binary, pairs, body)], "binary"
    value = read_body(body, len(body))
    if not (kind.startswith(BATCH) or (isinstance(value, list) and not kind.startswith(STRUCTURED))):
        return [partial(structured, value)], "structured"
    if not isinstance(value, list):
        raise DeliveryProblem(Code.FIELD_MALFORMED, "send the events as a JSON array")
    if len(value) > EVENTS_MAX:
        raise DeliveryProblem(Code.TOO_MANY_EVENTS, f"send at most {EVENTS_MAX} events at once")
    return [partial(structured, item) for item in value], "batch"


class Intake:
    """Reads events and appends them to the door's inbox, many at once."""

    def __init__(self, front: Front, clocks: TenantClocks, identity_secret: bytes) -> None:
        self._front, self._clocks = front, clocks
        self._keyed = partial(identity_hash, identity_secret)

    async def read(self, tenant: str, events: Sequence[Sent]) -> list[Delivery | DeliveryProblem]:
        """Every event as a delivery, or what is wrong with it. Raises Unavailable.

        A test clock may be ahead of what this process knows: before an event is refused for it, it is looked up, once.
        """
        now, looked_up = await self._clocks.now(tenant), False
        found: list[Delivery | DeliveryProblem] = []
        for nth, sent in enumerate(events, 1):
            one = _read(sent, now)
            if isinstance(one, DeliveryProblem) and one.code is Code.TIME_IN_FUTURE and not looked_up:
                now, looked_up = await self._clocks.read(tenant), True
                one = _read(sent, now)
            found.append(one)
            if nth % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found

    async def keep(self, tenant: str, found: Sequence[Delivery | DeliveryProblem]) -> list[Taken | DeliveryProblem]:
        """Append the deliveries; one customer's stand in the inbox in the order in which they were sent.

        Raises Unavailable when it is not known of each whether the log has it.
        """
        appends = [self._append(tenant, one) for one in found if isinstance(one, Delivery)]
        kept = iter(await asyncio.gather(*appends))
        taken: list[Taken | DeliveryProblem] = []
        for one in found:
            taken_or_not = one if isinstance(one, DeliveryProblem) else next(kept)
            if isinstance(taken_or_not, LogError):
                raise Unavailable("Not all events are known to be kept: send the same again.") from taken_or_not
            taken.append(taken_or_not)
        return taken

    async def _append(self, tenant: str, delivery: Delivery) -> Taken | DeliveryProblem | LogError:
        event = Event(
            id=delivery.id,
            source=delivery.source,
            type="delivery.v1",
            tenant=tenant,
            subject=inbox_key(tenant, delivery, self._keyed),
            time=delivery.time,
            data=delivery,
            correlation_id=correlation_id.get(),
            trace_parent=trace_parent.get(),
        )
        try:
            return Taken(delivery, *await self._front.append(event))
        except EntryRefused:
            return DeliveryProblem(Code.BODY_TOO_LARGE, "send less in one event")
        except (AppendFailed, LogUnavailable) as error:
            return error


def _read(sent: Sent, now: datetime) -> Delivery | DeliveryProblem:
    try:
        return sent(now)
    except DeliveryProblem as problem:
        return problem
