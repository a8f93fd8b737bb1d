"""The door's decisions: who is this, was it delivered before, and what does it do to its order. Pure.

State is sets of rows that are never changed: receipts, conflicts, identities, and an order's entries. An entry's key is
the turn that its fact records, so any order of folding gives the same rows, and two partitions that decide on one order
at once want the same turn: the second finds it taken and decides again on what the first wrote.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

import orjson

from shared.events.door import (
    CONFLICT,
    EMAIL,
    PHONE,
    REFERENCE,
    STRONGEST_FIRST,
    ContactIdentified,
    Customer,
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
    reference_of,
)
from shared.runtime.rules import Draft

PURCHASE: Final = "purchase.completed.v1"
REFUND: Final = "purchase.refunded.v1"
CUSTOM: Final = "custom.recorded.v1"
"""What a delivery can ask to record: the type of the fact."""

DEFERRED_MAX: Final = 20
"""Refunds that may wait for one order: one decision releases all, and its facts must fit into one produced batch."""
DEFERRED_CHARACTERS_MAX: Final = 32 * 1024
"""Of the waiting refunds' lines as kept, for the same reason."""


class ReceiptRow(NamedTuple):
    """What became of (source, id), for ever: the type of the fact, and the contact (or inbox key) it is about."""

    tenant: str
    source: str
    id: str
    body_hash: str
    outcome: str
    reason: str
    subject: str


class ConflictRow(NamedTuple):
    """Another body that came under the source and id of a receipt."""

    tenant: str
    source: str
    id: str
    body_hash: str


class IdentityRow(NamedTuple):
    """A contact is known by this keyed hash; `value` is sealed."""

    tenant: str
    kind: str
    hash: str
    contact: str
    value: str


Kind = Literal["purchase", "refund", "deferral", "refusal"]


class OrderEntryRow(NamedTuple):
    """One fact about an order. `lines` is JSON: [line id, quantity, amount in minor units] each, in the sender's order.

    `source` and `id` are the sender's; a refund (or refusal) under those of a deferral settles it.
    """

    tenant: str
    channel: str
    order_id: str
    turn: int
    kind: str
    refund_id: str
    subject: str
    source: str
    id: str
    happened_at: datetime
    currency: str
    content_hash: str
    lines: str
    reason: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the door knows of one order, its lines by id as (quantity, amount in minor units)."""

    purchase: OrderEntryRow | None
    lines: Mapping[str, tuple[int, int]]
    refunds: Sequence[OrderEntryRow]
    waiting: Sequence[OrderEntryRow]
    """Deferred refunds that are neither refunded nor refused."""
    next_turn: int


class Misfit(NamedTuple):
    """Why a refund does not fit its order."""

    reason: str
    detail: str


def order_of(entries: Sequence[OrderEntryRow]) -> Order:
    purchase = next((entry for entry in entries if entry.kind == "purchase"), None)
    settled = {(entry.source, entry.id) for entry in entries if entry.kind in ("refund", "refusal")}
    return Order(
        purchase=purchase,
        lines={} if purchase is None else {line_id: (count, amount) for line_id, count, amount in lines_of(purchase)},
        refunds=[entry for entry in entries if entry.kind == "refund"],
        waiting=[e for e in entries if e.kind == "deferral" and (e.source, e.id) not in settled],
        next_turn=1 + max((entry.turn for entry in entries), default=0),
    )


def lines_of(entry: OrderEntryRow) -> list[tuple[str, int, int]]:
    return [(line_id, quantity, amount_minor) for line_id, quantity, amount_minor in orjson.loads(entry.lines)]


def lines_text(stated: Purchase | Refund) -> str:
    return orjson.dumps([[line.line_id, line.quantity, line.amount_minor] for line in stated.lines]).decode()


def content_hash(stated: Purchase | Refund) -> str:
    """SHA-256 of what the sender states, without what the door adds: equal for a second report of the same."""
    fields = Purchase.model_fields if isinstance(stated, Purchase) else Refund.model_fields
    content = stated.model_dump(mode="json", include=set(fields), exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


# ---- who is this


def named(source: str, customer: Customer) -> list[tuple[str, str]]:
    """The identities that a delivery names, as (kind, normalised value), strongest first."""
    values = {
        REFERENCE: reference_of(source, customer.reference) if customer.reference else "",
        PHONE: customer.phone,
        EMAIL: customer.email,
    }
    return [(kind, values[kind]) for kind in STRONGEST_FIRST if values[kind]]


def known_contact(identities: Sequence[Identity], known: Mapping[str, str]) -> str:
    """The contact of the strongest identity that is known; empty when none is. `known`: contact by hash."""
    return next((known[identity.hash] for identity in identities if identity.hash in known), "")


def identify(identities: Sequence[Identity], known: Mapping[str, str], contact: str) -> list[Draft]:
    """Record what is new. An identity that leads to another contact stays there: merging is a decision of its own."""
    new = tuple(identity for identity in identities if identity.hash not in known)
    return [Draft(ContactIdentified(identities=new), subject=contact)] if new else []


# ---- what it does


def received(delivery: Delivery, fact: object, subject: str) -> Draft:
    """The draft that records a delivery: under its sender's source, id and time."""
    return Draft(fact, subject=subject, time=delivery.time, source=delivery.source, id=delivery.id)


def refuse(delivery: Delivery, reason: str, detail: str, subject: str) -> Draft:
    return received(delivery, DeliveryRefused(reason=reason, detail=detail, body_hash=delivery.body_hash), subject)


def deliver_again(delivery: Delivery, receipt: ReceiptRow, conflicts: Iterable[ConflictRow]) -> list[Draft]:
    """A source and id that are known: the same body changes nothing, each other body is one recorded conflict."""
    if delivery.body_hash in {receipt.body_hash, *(conflict.body_hash for conflict in conflicts)}:
        return []
    detail = "another body was recorded under this source and id; send a new event under a new id"
    return [refuse(delivery, CONFLICT, detail, receipt.subject)]


def purchase_again(delivery: Delivery, first: OrderEntryRow, contact: str) -> list[Draft]:
    """An order earns once, under however many ids it is reported. `contact`: whom the delivery names, if known."""
    same = content_hash(Purchase.model_validate(delivery.data)) == first.content_hash
    if same and contact in ("", first.subject):
        return [refuse(delivery, "ignored-duplicate", "this order is recorded with the same content", first.subject)]
    detail = "this order is recorded with other content or of another contact; send a refund for what went back"
    return [refuse(delivery, "order-already-known", detail, first.subject)]


def complete(delivery: Delivery, order: Order, contact: str) -> list[Draft]:
    """The first report of an order: the purchase, then the refunds that waited for it, in their order of arrival."""
    stated = {**delivery.data, "body_hash": delivery.body_hash, "turn": order.next_turn}
    purchase = PurchaseCompleted.model_validate(stated)
    drafts = [received(delivery, purchase, contact)]
    bought = {line.line_id: (line.quantity, line.amount_minor) for line in purchase.lines}
    returned: list[Sequence[tuple[str, int, int]]] = []
    for entry in order.waiting:
        lines, turn = lines_of(entry), order.next_turn + len(drafts)
        misfit = fit(bought, purchase.currency, returned, entry.currency, lines)
        if misfit is None:
            returned.append(lines)
        fact = _settled(entry, lines, misfit, turn)
        drafts.append(Draft(fact, subject=contact, time=entry.happened_at, source=entry.source, id=entry.id))
    return drafts


def _settled(
    entry: OrderEntryRow, lines: Sequence[tuple[str, int, int]], misfit: Misfit | None, turn: int
) -> PurchaseRefunded | RefundRefused:
    key = {"channel": entry.channel, "order_id": entry.order_id, "refund_id": entry.refund_id, "turn": turn}
    if misfit is not None:
        return RefundRefused.model_validate({**key, "reason": misfit.reason, "detail": misfit.detail})
    stated = [{"line_id": line_id, "quantity": count, "amount_minor": amount} for line_id, count, amount in lines]
    return PurchaseRefunded.model_validate({**key, "currency": entry.currency, "lines": stated, "released": True})


def take_back(delivery: Delivery, order: Order, contact: str) -> list[Draft]:
    """A refund: of a known order it is bounded by what was bought, of an unknown one it waits.

    `contact`: whom the delivery names, if known; a deferred refund is about nobody else yet. A refund id counts once.
    """
    refund = Refund.model_validate(delivery.data)
    subject = contact if order.purchase is None else order.purchase.subject
    for entry in (*order.refunds, *order.waiting):
        if entry.refund_id == refund.refund_id:
            if entry.content_hash == content_hash(refund):
                return [refuse(delivery, "ignored-duplicate", "this refund is recorded with the same content", subject)]
            detail = "this refund is recorded with other content; send what else went back under a new refund_id"
            return [refuse(delivery, "refund-already-known", detail, subject)]
    stated = {**delivery.data, "body_hash": delivery.body_hash, "turn": order.next_turn}
    if order.purchase is None:
        waiting = sum(len(entry.lines) for entry in order.waiting) + len(lines_text(refund))
        if len(order.waiting) >= DEFERRED_MAX or waiting > DEFERRED_CHARACTERS_MAX:
            return [refuse(delivery, "too-many-deferred", "send the order first, then its refunds", subject)]
        deferred = RefundDeferred.model_validate({**stated, "happened_at": delivery.time})
        return [received(delivery, deferred, subject)]
    returned = [lines_of(entry) for entry in order.refunds]
    asked = [(line.line_id, line.quantity, line.amount_minor) for line in refund.lines]
    misfit = fit(order.lines, order.purchase.currency, returned, refund.currency, asked)
    if misfit is not None:
        return [refuse(delivery, misfit.reason, misfit.detail, subject)]
    return [received(delivery, PurchaseRefunded.model_validate(stated), subject)]


def fit(
    bought: Mapping[str, tuple[int, int]],
    currency: str,
    returned: Iterable[Sequence[tuple[str, int, int]]],
    asked_currency: str,
    asked: Sequence[tuple[str, int, int]],
) -> Misfit | None:
    """Whether a refund fits: same currency, known lines, and of no line more pieces or money than was bought."""
    if asked_currency != currency:
        return Misfit("currency-differs", f"the order was paid in {currency}; send its refund in the same")
    counts, amounts = Counter[str](), Counter[str]()
    for lines in (*returned, asked):
        for line_id, quantity, amount_minor in lines:
            counts[line_id] += quantity
            amounts[line_id] += amount_minor
    for place, (line_id, _, _) in enumerate(asked, 1):
        if line_id not in bought:
            return Misfit("line-unknown", f"the order has no such line as the refund's line {place}")
        quantity, amount_minor = bought[line_id]
        if counts[line_id] > quantity:
            return Misfit(
                "refund-exceeds-order", f"refund line {place}: {counts[line_id]} pieces in all, {quantity} bought"
            )
        if amounts[line_id] > amount_minor:
            return Misfit(
                "refund-exceeds-order", f"refund line {place}: {amounts[line_id]} returned in all, {amount_minor} paid"
            )
    return None


def record_custom(delivery: Delivery, contact: str) -> list[Draft]:
    fact = CustomRecorded.model_validate({**delivery.data, "body_hash": delivery.body_hash})
    return [received(delivery, fact, contact)]
