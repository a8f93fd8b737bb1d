"""Events of the door: who somebody is, and what senders said happened.

An event that records a sender's keeps the sender's `source` and `id`, and in `body_hash` what was sent under them: so
even dedupe is rebuilt from the stream.
"""

import re
import unicodedata
from typing import Annotated, Any, Final

from pydantic import Field

from shared.events.catalogue import AmountMinor, Data, Sealed, Time, declare

OWNER: Final = "door"

Name = Annotated[str, Field(min_length=1, max_length=200)]
Quantity = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Amount = Annotated[AmountMinor, Field(ge=0)]
Label = Annotated[str, Field(max_length=200)]
LINES_MAX: Final = 500

REFERENCE: Final = "reference"
PHONE: Final = "phone"
EMAIL: Final = "email"
STRONGEST_FIRST: Final = (REFERENCE, PHONE, EMAIL)
"""Identity kinds by strength: where a delivery's identities lead to several contacts, the strongest one decides."""

_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_PHONE_FILLERS = str.maketrans("", "", " -()\u00a0\u2010\u2011\u2013")
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@[^@\s\x00-\x1f\x7f.]+(\.[^@\s\x00-\x1f\x7f.]+)+")


def normalised_email(text: str) -> str:
    """Trimmed, in Unicode NFC, lower-case. Raises ValueError saying what to send instead."""
    value = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).strip()
    if len(value) > 320 or _EMAIL.fullmatch(value) is None:
        raise ValueError("send an e-mail address as name@example.com, or leave it out")
    return value


def normalised_phone(text: str) -> str:
    """E.164 with its +; spaces, dashes and parentheses are dropped. Raises ValueError saying what to send instead.

    A number without its country is refused, not guessed: two countries' customers would become one.
    Format: https://www.itu.int/rec/T-REC-E.164 (at most 15 digits).
    """
    value = text.strip().translate(_PHONE_FILLERS)
    if _PHONE.fullmatch(value) is None:
        raise ValueError("send a phone number with + and country code, as +8613800138000, or leave it out")
    return value


def reference_of(source: str, reference: str) -> str:
    """A customer number is known within its source: the value whose hash identifies it. A source has no spaces."""
    return f"{source} {reference}"


class Identity(Data):
    """One way to know a contact. `hash` is a keyed hash of the normalised value; the value itself is sealed."""

    kind: Name
    hash: str
    value: Sealed


@declare(
    "contact.identified.v1",
    OWNER,
    "fact",
    {"identities": [{"kind": "email", "hash": "5d41402abc4b2a76b9719d911017c592", "value": "sealed.v1.k1.AAAA"}]},
)
class ContactIdentified(Data):
    """A contact is known by these identities from now on (a new contact, or a new identity of a known one)."""

    identities: tuple[Identity, ...] = Field(min_length=1, max_length=20)


class Recorded(Data):
    """What the door adds to a sender's event that it records."""

    body_hash: str = ""
    """SHA-256 of the delivery's canonical form."""


class Line(Data):
    """One line of an order. `amount_minor` is what is paid for the whole line after discounts."""

    line_id: Name
    sku: Name
    quantity: Quantity
    amount_minor: Amount
    discount_minor: Amount = 0
    category: Label = ""
    brand: Label = ""


class Purchase(Data):
    """An order as its sender states it. (channel, order_id) is its business key."""

    channel: Name
    order_id: Name
    currency: str = Field(pattern="^[A-Z]{3}$")
    lines: tuple[Line, ...] = Field(min_length=1, max_length=LINES_MAX)
    paid_with_points_minor: Amount = 0
    """The part of the lines' amounts that was paid with points; it earns nothing."""
    store: Label = ""


_LINE = {"line_id": "1", "sku": "CD-1", "quantity": 2, "amount_minor": 2950, "category": "music"}
_PURCHASE = {
    "channel": "web",
    "order_id": "1001",
    "currency": "USD",
    "lines": [_LINE],
    "paid_with_points_minor": 0,
    "store": "",
}


@declare("purchase.completed.v1", OWNER, "fact", {**_PURCHASE, "body_hash": "9f86d081884c7d65", "turn": 1})
class PurchaseCompleted(Purchase, Recorded):
    """A contact bought something and paid. (channel, order_id) is its business key."""

    turn: int = 0
    """Counts the door's facts about this order from 1, so that a reader who meets them in another order can tell."""


class RefundedLine(Data):
    """Part of a line that went back. `amount_minor` is the money returned for this quantity."""

    line_id: Name
    quantity: Quantity
    amount_minor: Amount


class Refund(Data):
    """A refund as its sender states it. (channel, order_id, refund_id) is its business key."""

    channel: Name
    order_id: Name
    refund_id: Name
    currency: str = Field(pattern="^[A-Z]{3}$")
    lines: tuple[RefundedLine, ...] = Field(min_length=1, max_length=LINES_MAX)


_REFUND = {
    "channel": "web",
    "order_id": "1001",
    "refund_id": "r1",
    "currency": "USD",
    "lines": [{"line_id": "1", "quantity": 1, "amount_minor": 1475}],
    "body_hash": "60303ae22b998861",
}


@declare("purchase.refunded.v1", OWNER, "fact", {**_REFUND, "turn": 2, "released": False})
class PurchaseRefunded(Refund, Recorded):
    """Lines of a known order went back. (channel, order_id, refund_id) is its business key."""

    turn: int = 0
    """As in `purchase.completed`."""
    released: bool = False
    """It had come before its order, as a `refund.deferred` under the same source and id."""


@declare(
    "custom.recorded.v1",
    OWNER,
    "fact",
    {"name": "store.visited", "fields": {"store": "Bund", "minutes": 12}, "body_hash": "2c26b46b68ffc68f"},
)
class CustomRecorded(Recorded):
    """An event of a tenant's own type happened; `name` is usable in rules."""

    name: Name
    fields: dict[str, Any] = Field(default_factory=dict)


CONFLICT: Final = "conflict"


@declare(
    "delivery.refused.v1",
    OWNER,
    "fact",
    {"reason": "conflict", "detail": "the same source and id came with another body", "body_hash": "9f86d081884c7d65"},
)
class DeliveryRefused(Data):
    """An accepted delivery could not take effect.

    Its reason: `conflict` with what is recorded under its source and id, an order or refund that is known already
    (`order-already-known`, `refund-already-known`, `ignored-duplicate` when the content is the same), or a refund that
    does not fit its order (`currency-differs`, `line-unknown`, `refund-exceeds-order`, `too-many-deferred`).
    """

    reason: str
    detail: str
    body_hash: str


@declare(
    "refund.deferred.v1",
    OWNER,
    "fact",
    {**_REFUND, "turn": 1, "happened_at": "2026-01-02T10:00:00Z"},
)
class RefundDeferred(Refund, Recorded):
    """A refund came before its order; it waits on the order and is released by the order's decision."""

    turn: int = 0
    """As in `purchase.completed`."""
    happened_at: Time


@declare(
    "refund.refused.v1",
    OWNER,
    "fact",
    {
        "channel": "web",
        "order_id": "1001",
        "refund_id": "r1",
        "turn": 3,
        "reason": "refund-exceeds-order",
        "detail": "line 1: 3 refunded in all, 2 bought",
    },
)
class RefundRefused(Data):
    """A deferred refund does not fit its order, now that the order has come."""

    channel: Name
    order_id: Name
    refund_id: Name
    turn: int
    reason: str
    detail: str


class Customer(Data):
    """How a sender names a customer: any of these; at least one unless the event names a known order."""

    reference: str = Field("", max_length=200)
    """The sender's own customer number, known within the sender's source."""
    email: str = Field("", max_length=320)
    """Normalised (`normalised_email`)."""
    phone: str = Field("", max_length=40)
    """Normalised (`normalised_phone`)."""


@declare(
    "delivery.v1",
    OWNER,
    "request",
    {
        "source": "https://shop.example/pos-7",
        "id": "evt-1",
        "type": "purchase.completed.v1",
        "time": "2026-01-02T10:00:00Z",
        "body_hash": "9f86d081884c7d65",
        "customer": {"reference": "C-17", "email": "li@example.com", "phone": ""},
        "data": _PURCHASE,
    },
)
class Delivery(Data):
    """What a sender delivered, as the door's inbox holds it: validated at the API, not yet decided."""

    source: Name
    id: Name
    type: Name
    time: Time
    body_hash: str
    customer: Customer
    data: dict[str, Any]
