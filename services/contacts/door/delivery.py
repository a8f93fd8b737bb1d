"""From a received CloudEvent to a valid `Delivery` and the key of its inbox partition: pure, no HTTP.

Formats: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md (structured) and
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md (binary).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote

import orjson

from services.contacts.door import fields
from services.contacts.door.domain import CUSTOM, PURCHASE, REFUND
from services.contacts.door.json_values import check_values, read_body
from services.contacts.door.problems import Code, DeliveryProblem
from shared.events.door import Customer, Delivery, reference_of
from shared.events.envelope import EnvelopeError, instant, parse_instant
from shared.log.port import ENTRY_BYTES_MAX

EVENT_BYTES_MAX: Final = ENTRY_BYTES_MAX - 16 * 1024
"""Bound on an event in canonical form, so that with our envelope around it the inbox takes it."""
AHEAD_MAX: Final = timedelta(minutes=5)
"""A sender's clock may be this far ahead of the receiver's."""
OLDEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
TEXT_MAX: Final = 200

ACCEPTED: Final = {
    "purchase.completed": PURCHASE,
    PURCHASE: PURCHASE,
    "purchase.refunded": REFUND,
    REFUND: REFUND,
    "custom.recorded": CUSTOM,
    CUSTOM: CUSTOM,
}
RESERVED: Final = frozenset(
    {"campaign", "care", "clock", "complaint", "contact", "credential", "custom", "delivery", "input", "interaction"}
    | {"message", "metric", "opportunity", "points", "program", "purchase", "referral", "refund", "regulars", "request"}
    | {"reward", "segment", "survey", "tenant", "tier"}
)
"""First labels of our own types: nobody else's type begins with one."""

_OF_A_DOMAIN = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9][a-z0-9_-]*){2,}")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_JSON_TYPE = re.compile(r"application/([a-z0-9.+-]+\+)?json", re.IGNORECASE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')

Keyed = Callable[[str, str, str], str]
"""(tenant, kind, normalised value) -> HMAC in hexadecimal."""


def structured(event: object, now: datetime) -> Delivery:
    """A CloudEvent as a JSON object (one item of a batch, too). `now` is the receiver's, or the tenant's test clock.

    Raises DeliveryProblem and nothing else.
    """
    check_values(event)
    if not isinstance(event, dict):
        raise DeliveryProblem(Code.FIELD_MALFORMED, "send a CloudEvent as a JSON object")
    if "data_base64" in event:
        raise DeliveryProblem(
            Code.CONTENT_TYPE_UNSUPPORTED, "send `data` as a JSON object, not as base64", "data_base64"
        )
    return _delivery(event, event.get("data"), now)


def binary(headers: Iterable[tuple[str, str]], body: bytes, now: datetime) -> Delivery:
    """A CloudEvent whose attributes are `ce-` headers and whose data is the body.

    Raises DeliveryProblem and nothing else.
    """
    attributes: dict[str, object] = {}
    for header, value in headers:
        name = header.lower()
        if name.startswith("ce-"):
            name = name.removeprefix("ce-")
        elif name == "content-type":
            name = "datacontenttype"
        else:
            continue
        if name in attributes:
            raise DeliveryProblem(Code.ATTRIBUTE_REPEATED, "send each attribute in one header").under(name)
        attributes[name] = _header_value(name, value)
    check_values(attributes)
    data = read_body(body)
    try:
        check_values(data)
    except DeliveryProblem as problem:
        raise problem.under("data") from None
    return _delivery(attributes, data, now)


def inbox_key(tenant: str, delivery: Delivery, keyed: Keyed) -> str:
    """Whose inbox partition decides: the customer by reference, else by phone, e-mail, else the order it names.

    A keyed hash: no personal data in keys. One customer's deliveries land together as long as they are named alike.
    """
    customer = delivery.customer
    if customer.reference:
        return keyed(tenant, "inbox.reference", reference_of(delivery.source, customer.reference))
    if customer.phone:
        return keyed(tenant, "inbox.phone", customer.phone)
    if customer.email:
        return keyed(tenant, "inbox.email", customer.email)
    order = json.dumps([delivery.data.get("channel"), delivery.data.get("order_id")])
    return keyed(tenant, "inbox.order", order)


def _canonical(event_type: str, time: datetime, subject: str, data: Mapping[str, Any]) -> bytes:
    """What `body_hash` is taken of: JSON with sorted names of what the event says.

    Source and id are its name, not its content; extensions (tracing, delivery attempts) belong to the transport. So the
    same event serialised again, in either mode, by another attempt, compares equal; a float 1.0 is not the whole 1.
    """
    said = {"type": event_type, "time": instant(time), "subject": subject, "data": data}
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)


def _delivery(attributes: Mapping[str, object], data: object, now: datetime) -> Delivery:
    if attributes.get("specversion") != "1.0":
        raise DeliveryProblem(Code.VERSION_UNSUPPORTED, 'send specversion "1.0"', "specversion")
    identifier, source, sent_type = (_attribute(attributes, name) for name in ("id", "source", "type"))
    if any(letter.isspace() for letter in source):
        raise DeliveryProblem(Code.ATTRIBUTE_MALFORMED, "send the source as a URI without spaces", "source")
    subject = _attribute(attributes, "subject") if "subject" in attributes else ""
    _check_content_type(attributes.get("datacontenttype"))
    event_type = _type(sent_type)
    time = _time(_attribute(attributes, "time"), now)
    if data is None:
        raise DeliveryProblem(Code.FIELD_MISSING, "send the event's `data` as a JSON object", "data")
    if not isinstance(data, dict):
        raise DeliveryProblem(Code.FIELD_MALFORMED, "send the event's `data` as a JSON object", "data")
    canonical = _canonical(sent_type, time, subject, data)
    if len(canonical) > EVENT_BYTES_MAX:
        raise DeliveryProblem(Code.BODY_TOO_LARGE, f"send at most {EVENT_BYTES_MAX} bytes in one event")
    try:
        customer, stated = _stated(event_type, sent_type, data)
    except DeliveryProblem as problem:
        raise problem.under("data") from None
    return Delivery(
        source=source,
        id=identifier,
        type=event_type,
        time=time,
        body_hash=hashlib.sha256(canonical).hexdigest(),
        customer=customer,
        data=stated,
    )


def _stated(event_type: str, sent_type: str, data: Mapping[str, Any]) -> tuple[Customer, dict[str, Any]]:
    customer = fields.customer(data.get("customer"))
    if event_type == REFUND:
        return customer, fields.refund(data)
    if not (customer.reference or customer.phone or customer.email):
        raise DeliveryProblem(
            Code.CUSTOMER_MISSING, "name the customer by reference, email or phone; only a refund may do with its order"
        ).under("customer")
    if event_type == PURCHASE:
        return customer, fields.purchase(data)
    own_name = None if sent_type in ACCEPTED else sent_type
    return customer, fields.custom(data, own_name)


def _attribute(attributes: Mapping[str, object], name: str) -> str:
    value = attributes.get(name)
    if value is None:
        raise DeliveryProblem(Code.ATTRIBUTE_MISSING, f"send the attribute `{name}`", name)
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value):
        raise DeliveryProblem(Code.ATTRIBUTE_MALFORMED, f"send `{name}` as text without control characters", name)
    if len(value) > TEXT_MAX:
        raise DeliveryProblem(Code.TEXT_TOO_LONG, f"send at most {TEXT_MAX} characters", name)
    return value


def _type(sent: str) -> str:
    if sent in ACCEPTED:
        return ACCEPTED[sent]
    if _OF_A_DOMAIN.fullmatch(sent) and sent.partition(".")[0] not in RESERVED:
        return CUSTOM
    raise DeliveryProblem(
        Code.TYPE_UNKNOWN,
        "send purchase.completed, purchase.refunded, custom.recorded with a name, or a type of your own under your "
        "domain, as com.example.visit",
        "type",
    )


def _time(text: str, now: datetime) -> datetime:
    shape = _RFC3339.fullmatch(text)
    if shape is None:
        raise DeliveryProblem(Code.TIME_MALFORMED, "send an RFC 3339 time, as 2026-01-31T12:00:00Z", "time")
    if shape.group(2) is None:
        raise DeliveryProblem(Code.TIME_WITHOUT_ZONE, "send the time with Z or an offset, as +08:00", "time")
    try:
        time = parse_instant(text.upper(), "time")
    except EnvelopeError:
        raise DeliveryProblem(Code.TIME_MALFORMED, "send a time that exists, as 2026-01-31T12:00:00Z", "time") from None
    if time < OLDEST:
        raise DeliveryProblem(Code.TIME_TOO_OLD, "send a time from 1900 on", "time")
    if time - now > AHEAD_MAX:
        raise DeliveryProblem(Code.TIME_IN_FUTURE, "send what has happened; is the sender's clock right?", "time")
    return time


def _check_content_type(declared: object) -> None:
    if declared is None:
        return
    if not isinstance(declared, str) or not _JSON_TYPE.fullmatch(declared.partition(";")[0].strip()):
        raise DeliveryProblem(Code.CONTENT_TYPE_UNSUPPORTED, "send application/json", "datacontenttype")


def _header_value(name: str, value: str) -> str:
    """Unquoted and percent-decoded, as the HTTP binding says in 3.1.3.2."""
    quoted = _QUOTED.fullmatch(value)
    plain = re.sub(r"\\(.)", r"\1", quoted.group(1)) if quoted else value
    if not plain.isascii():
        raise DeliveryProblem(Code.ATTRIBUTE_MALFORMED, "percent-encode what is not ASCII").under(name)
    try:
        return unquote(plain, errors="strict")
    except UnicodeDecodeError:
        raise DeliveryProblem(Code.ATTRIBUTE_MALFORMED, "percent-encode in UTF-8").under(name) from None
