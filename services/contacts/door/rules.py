"""The door as a worker's rules: which rows a delivery needs, and how a fact becomes rows."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from services.contacts.door import domain
from services.contacts.door.domain import ConflictRow, IdentityRow, Kind, OrderEntryRow, ReceiptRow
from services.contacts.door.store import CONFLICTS, IDENTITIES, ORDER_ENTRIES, RECEIPTS, TABLES
from shared.events.door import (
    CONFLICT,
    ContactIdentified,
    CustomRecorded,
    Delivery,
    DeliveryRefused,
    Identity,
    Purchase,
    PurchaseCompleted,
    PurchaseRefunded,
    Refund,
    RefundDeferred,
    RefundRefused,
)
from shared.events.envelope import Event, event_id
from shared.runtime.rules import Draft, Input
from shared.runtime.tables import Need, Rows, Table

CONTACT: Final = re.compile("c[0-9a-f]{32}")
"""The form of a contact's id (`new_contact`)."""

IdentityHash = Callable[[str, str, str], str]
"""(tenant, kind, normalised value) -> keyed hash in hexadecimal."""


class DoorRules:
    """Decides on deliveries. Reads nothing of others; its facts are written on the contact's partition."""

    worker = "door"
    tables: Sequence[Table[Any]] = TABLES
    requests = frozenset({"delivery.v1"})
    reads: frozenset[str] = frozenset()
    fold_version = 1
    settles = False

    def __init__(self, identity_hash: IdentityHash) -> None:
        self._identity_hash = identity_hash

    def needs(self, event: Event, _partition: int) -> Iterable[Need]:
        tenant, data = event.tenant, event.data
        match data:
            case Delivery():
                yield Need(RECEIPTS, (tenant, data.source, data.id))
                yield Need(CONFLICTS, (tenant, data.source, data.id))
                for identity in self._identities(tenant, data):
                    yield Need(IDENTITIES, (tenant, identity.kind, identity.hash))
                if data.type in (domain.PURCHASE, domain.REFUND):
                    yield Need(ORDER_ENTRIES, _order_key(tenant, data))
            case ContactIdentified():
                for identity in data.identities:
                    yield Need(IDENTITIES, (tenant, identity.kind, identity.hash))
            case PurchaseCompleted() | PurchaseRefunded() | RefundDeferred() | RefundRefused():
                yield Need(ORDER_ENTRIES, (tenant, data.channel, data.order_id))
                yield Need(RECEIPTS, (tenant, event.source, event.id))
            case DeliveryRefused() | CustomRecorded():
                yield Need(CONFLICTS, (tenant, event.source, event.id))
                yield Need(RECEIPTS, (tenant, event.source, event.id))
            case _:
                pass

    def absorb(self, _rows: Rows, event: Event, _partition: int) -> None:
        raise ValueError(f"the door reads nothing of others, least of all {event.type}")

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        delivery, tenant = item.event.data, item.event.tenant
        if not isinstance(delivery, Delivery):
            raise ValueError(f"the door decides on deliveries, not on {item.event.type}")
        sent = (tenant, delivery.source, delivery.id)
        receipt = rows.get(RECEIPTS, sent)
        if receipt is not None:
            return domain.deliver_again(delivery, receipt, rows.all(CONFLICTS, sent))
        identities = self._identities(tenant, delivery)
        found = (rows.get(IDENTITIES, (tenant, identity.kind, identity.hash)) for identity in identities)
        known = {row.hash: row.contact for row in found if row is not None}
        contact = domain.known_contact(identities, known)
        match delivery.type:
            case domain.PURCHASE:
                order = self._order(rows, tenant, delivery)
                if order.purchase is not None:
                    return domain.purchase_again(delivery, order.purchase, contact)
                contact = contact or new_contact(item.cause)
                drafts = domain.complete(delivery, order, contact)
            case domain.REFUND:
                return domain.take_back(delivery, self._order(rows, tenant, delivery), contact)
            case domain.CUSTOM:
                contact = contact or new_contact(item.cause)
                drafts = domain.record_custom(delivery, contact)
            case other:
                raise ValueError(f"the door does not know deliveries of type {other}")
        return [*drafts, *domain.identify(identities, known, contact)]

    def evolve(self, rows: Rows, event: Event) -> None:
        tenant, data = event.tenant, event.data
        match data:
            case ContactIdentified():
                for identity in data.identities:
                    rows.put(
                        IDENTITIES, IdentityRow(tenant, identity.kind, identity.hash, event.subject, identity.value)
                    )
            case PurchaseCompleted():
                _keep_receipt(rows, event, data.body_hash)
                _keep_stated(rows, event, "purchase", data, data.turn)
            case PurchaseRefunded():
                if not data.released:
                    _keep_receipt(rows, event, data.body_hash)
                _keep_stated(rows, event, "refund", data, data.turn)
            case RefundDeferred():
                _keep_receipt(rows, event, data.body_hash)
                _keep_stated(rows, event, "deferral", data, data.turn)
            case RefundRefused():
                _keep_refusal(rows, event, data)
            case CustomRecorded():
                _keep_receipt(rows, event, data.body_hash)
            case DeliveryRefused(reason=reason) if reason == CONFLICT:
                rows.put(CONFLICTS, ConflictRow(tenant, event.source, event.id, data.body_hash))
            case DeliveryRefused():
                _keep_receipt(rows, event, data.body_hash, data.reason)
            case _:
                raise ValueError(f"{event.type} is no fact of the door")

    def letters(self, _fact: Event) -> Sequence[Draft]:
        return ()

    def due_at(self, _rows: Rows, _tenant: str, _subject: str) -> datetime | None:
        return None

    def _identities(self, tenant: str, delivery: Delivery) -> list[Identity]:
        return [
            Identity(kind=kind, hash=self._identity_hash(tenant, kind, value), value=value)
            for kind, value in domain.named(delivery.source, delivery.customer)
        ]

    def _order(self, rows: Rows, tenant: str, delivery: Delivery) -> domain.Order:
        return domain.order_of(rows.all(ORDER_ENTRIES, _order_key(tenant, delivery)))


def new_contact(cause: str) -> str:
    """The id of the contact that an input makes known: the same when the input is decided again."""
    return f"c{event_id(f'{cause}/contact', 0)}"


def is_contact(subject: str) -> bool:
    """Whether the subject of a receipt is a contact; else it is the key of an inbox (`delivery.inbox_key`)."""
    return CONTACT.fullmatch(subject) is not None


def _order_key(tenant: str, delivery: Delivery) -> tuple[str, str, str]:
    return (tenant, str(delivery.data.get("channel", "")), str(delivery.data.get("order_id", "")))


def _keep_receipt(rows: Rows, event: Event, body_hash: str, reason: str = "") -> None:
    rows.put(RECEIPTS, ReceiptRow(event.tenant, event.source, event.id, body_hash, event.type, reason, event.subject))


def _keep_stated(rows: Rows, event: Event, kind: Kind, stated: Purchase | Refund, turn: int) -> None:
    entry = OrderEntryRow(
        tenant=event.tenant,
        channel=stated.channel,
        order_id=stated.order_id,
        turn=turn,
        kind=kind,
        refund_id=stated.refund_id if isinstance(stated, Refund) else "",
        subject=event.subject,
        source=event.source,
        id=event.id,
        happened_at=event.time,
        currency=stated.currency,
        content_hash=domain.content_hash(stated),
        lines=domain.lines_text(stated),
        reason="",
    )
    rows.put(ORDER_ENTRIES, entry)


def _keep_refusal(rows: Rows, event: Event, refused: RefundRefused) -> None:
    entry = OrderEntryRow(
        tenant=event.tenant,
        channel=refused.channel,
        order_id=refused.order_id,
        turn=refused.turn,
        kind="refusal",
        refund_id=refused.refund_id,
        subject=event.subject,
        source=event.source,
        id=event.id,
        happened_at=event.time,
        currency="",
        content_hash="",
        lines="[]",
        reason=refused.reason,
    )
    rows.put(ORDER_ENTRIES, entry)
