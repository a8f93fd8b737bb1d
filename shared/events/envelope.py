"""The envelope: CloudEvents 1.0 structured JSON in a log record's value.

Format: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. Extension names follow
its rule (lower-case letters and digits). `sequence` is a string of digits, because a CloudEvents Integer has 32 bits.

What cannot be kept exactly is refused on reading, never rounded: whole numbers beyond 64 bits, the NUL character
(Postgres stores none), nesting deeper than LEVELS_MAX.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from pydantic_core import PydanticSerializationError


class EnvelopeError(ValueError):
    """The bytes are not an envelope; the message says which attribute is wrong."""


@dataclass(slots=True)
class Event:
    """One CloudEvent. `data` is plain JSON as decoded, or the catalogue's model once it was read as its type.

    Only its number is set after it was made, when it is sent. Not declared frozen, which would make making one three
    times as costly.
    """

    id: str
    source: str
    type: str
    tenant: str
    subject: str
    time: datetime
    data: Any
    producer: str = ""
    """`<worker>.<partition>` of an event of ours; empty for an input."""
    sequence: int = 0
    """Gap-free per producer and target partition, from 1; 0 for an input."""
    cause: str = ""
    """`topic/partition/offset` of the input, or `timer/<subject>/<due>`."""
    recorded_at: datetime | None = None
    """The `now` of the decision (`recordedtime`)."""
    correlation_id: str = ""
    trace_parent: str = ""
    request_key: str = ""
    """The idempotency key of the request that this event is the outcome of (`idempotencykey`)."""
    request_hash: str = ""
    """SHA-256 of the request's body as sent (`requesthash`)."""
    extensions: dict[str, str] = field(default_factory=dict)
    """What a sender added beyond the names above."""


LEVELS_MAX: Final = 64
"""The deepest nesting of objects and arrays in an envelope."""

_REQUIRED = ("id", "source", "type", "tenant", "subject", "time")
_NAMES = {
    "producer": "producer",
    "cause": "cause",
    "correlation_id": "correlationid",
    "trace_parent": "traceparent",
    "request_key": "idempotencykey",
    "request_hash": "requesthash",
}
_KNOWN = frozenset({"specversion", *_REQUIRED, "datacontenttype", "data", "sequence", "recordedtime", *_NAMES.values()})
_EXTENSION_NAME = re.compile("[a-z0-9]{1,40}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_DIGITS = bytes(1 if chr(byte) in "0123456789" else 0 for byte in range(256))
_LONG_NUMBER = b"\1" * 19
"""Nineteen digits in a row, after translation: the shortest that may not fit 64 bits."""


def event_id(cause: str, index: int) -> str:
    """The id of the index-th event of a decision: the same when the decision is made again."""
    return hashlib.sha256(f"{cause}#{index}".encode()).hexdigest()[:32]


def instant(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, so that text order is time order; raises EnvelopeError without a zone."""
    if moment.tzinfo is not UTC:
        if moment.tzinfo is None:
            raise EnvelopeError(f"a time without a zone: {moment.isoformat()}")
        moment = moment.astimezone(UTC)
    return _utc_text(moment)


@lru_cache(maxsize=1024)  # the instants of a batch are few; in UTC, equal ones have one text
def _utc_text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")[:-6] + "Z"


def parse_instant(text: object, name: str) -> datetime:
    """An aware UTC time from RFC 3339 text; raises EnvelopeError without a zone."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise EnvelopeError(f"{name} is not an RFC 3339 time: {str(text)[:40]!r}") from None
    if moment.tzinfo is None:
        raise EnvelopeError(f"{name} has no zone; send it as 2026-01-31T12:00:00Z or with an offset")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise EnvelopeError(f"{name} is outside the years 1 to 9999 in UTC") from None


def encode(event: Event) -> bytes:
    """The structured JSON form; `data` may be a pydantic model. Raises EnvelopeError for what JSON cannot carry.

    An extension never replaces an attribute that this module names.
    """
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "tenant": event.tenant,
        "subject": event.subject,
        "time": instant(event.time),
        "datacontenttype": "application/json",
    }
    if event.sequence:
        body["sequence"] = str(event.sequence)
    if event.recorded_at is not None:
        body["recordedtime"] = instant(event.recorded_at)
    for attribute, name in _NAMES.items():
        if value := getattr(event, attribute):
            body[name] = value
    if event.extensions:
        body.update((name, value) for name, value in event.extensions.items() if name not in _KNOWN)
    try:
        serializer = getattr(type(event.data), "__pydantic_serializer__", None)
        body["data"] = event.data if serializer is None else _written(serializer.to_json(event.data))
        return orjson.dumps(body)
    except (TypeError, PydanticSerializationError) as error:
        raise EnvelopeError(f"{event.type} cannot be written as JSON: {error}") from None


def _written(data: bytes) -> orjson.Fragment:
    """A model's JSON, to be put in as it is; refuses the whole numbers that `_load` refuses."""
    if _LONG_NUMBER in data.translate(_DIGITS):
        json.loads(data, parse_int=_whole_number)
    return orjson.Fragment(data)


def decode(value: bytes) -> Event:
    """Read an envelope; raises EnvelopeError and nothing else. `data` stays plain JSON."""
    return event_of(load(value))


def load(value: bytes) -> dict[str, Any]:
    """The JSON object of an envelope, not yet looked at; raises EnvelopeError."""
    body = _load(value)
    if not isinstance(body, dict):
        raise EnvelopeError("a CloudEvent is a JSON object")
    return body


_HEAD = re.compile(
    rb'"type":"([a-z0-9_.]+)","tenant":.*?,"datacontenttype":"application/json","sequence":"([0-9]{1,18})",'
    rb'"recordedtime":"[^"]*","producer":"([a-z0-9_.]+)"',
    re.DOTALL,
)
"""The head of an event as `encode` writes it: within a text a quote is escaped, so these are names of the envelope."""


def quick_head(value: bytes) -> tuple[str, int, str] | None:
    """`head_of` without reading the whole event, when it is in the form that `encode` gives; else None."""
    found = _HEAD.search(value)
    return None if found is None else (found[3].decode(), int(found[2]), found[1].decode())


def head(value: bytes) -> tuple[str, int, str]:
    """(producer, sequence, type) of an encoded event of ours, quickly where that can be; raises EnvelopeError."""
    return quick_head(value) or head_of(load(value))


def head_of(body: dict[str, Any]) -> tuple[str, int, str]:
    """(producer, sequence, type) of an event of ours: all that a reader needs of one that it passes over."""
    kind = body.get("type")
    if not isinstance(kind, str) or not kind:
        raise EnvelopeError("type must be a non-empty string")
    return _optional(body, "producer"), _sequence(body), kind


def event_of(body: dict[str, Any]) -> Event:
    """The event that the object is; raises EnvelopeError."""
    if body.get("specversion") != "1.0":
        raise EnvelopeError('specversion must be "1.0"')
    for name in _REQUIRED:
        if not isinstance(body.get(name), str) or not body[name]:
            raise EnvelopeError(f"{name} must be a non-empty string")
    recorded = body.get("recordedtime")
    return Event(
        body["id"],
        body["source"],
        body["type"],
        body["tenant"],
        body["subject"],
        parse_instant(body["time"], "time"),
        body.get("data"),
        _optional(body, "producer"),
        _sequence(body),
        _optional(body, "cause"),
        None if recorded is None else parse_instant(recorded, "recordedtime"),
        _optional(body, "correlationid"),
        _optional(body, "traceparent"),
        _optional(body, "idempotencykey"),
        _optional(body, "requesthash"),
        {name: text for name, given in body.items() if name not in _KNOWN and (text := _extension(name, given))},
    )


def _load(value: bytes) -> Any:
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise EnvelopeError(f"not JSON: {error}") from None
    if value.count(b"[") + value.count(b"{") > LEVELS_MAX and _levels(body) > LEVELS_MAX:
        raise EnvelopeError(f"nested deeper than {LEVELS_MAX} levels")
    if b"\\u0000" in value and _NUL.search(value):
        raise EnvelopeError("the NUL character (\\u0000) cannot be stored; leave it out")
    if _LONG_NUMBER in value.translate(_DIGITS):
        json.loads(value, parse_int=_whole_number)
    return body


def _levels(body: Any) -> int:
    """How deep objects and arrays are nested."""
    levels, layer = 0, [body]
    while layer := [item for item in layer if isinstance(item, dict | list)]:
        levels += 1
        layer = [item for box in layer for item in (box.values() if isinstance(box, dict) else box)]
    return levels


def _whole_number(digits: str) -> int:
    # orjson reads a number outside this range as a float, which is another number
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise EnvelopeError(f"a whole number beyond 64 bits: {digits[:24]}; send it as a string")
    return int(digits)


def _optional(body: dict[str, Any], name: str) -> str:
    given = body.get(name)
    if given is None:
        return ""
    if not isinstance(given, str):
        raise EnvelopeError(f"{name} must be a string")
    return given


def _sequence(body: dict[str, Any]) -> int:
    given = body.get("sequence")
    if given is None:
        return 0
    if not (isinstance(given, str) and given.isascii() and given.isdigit() and len(given) <= 18):
        raise EnvelopeError("sequence must be a string of at most 18 digits")
    return int(given)


def _extension(name: str, given: object) -> str:
    """The canonical text of an extension (CloudEvents 1.0.2, type system); null and empty are the same as absent."""
    if _EXTENSION_NAME.fullmatch(name) is None:
        raise EnvelopeError(f"{name[:40]!r} is not an attribute name: lower-case letters and digits, at most 40")
    match given:
        case None:
            return ""
        case str():
            return given
        case bool():
            return "true" if given else "false"
        case int():
            return str(given)
    raise EnvelopeError(f"extension {name} must be a string, an integer or a boolean")
