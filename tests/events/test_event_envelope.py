"""The envelope: whatever the bytes are, it is read exactly or refused by name."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events.envelope import (
    LEVELS_MAX,
    EnvelopeError,
    Event,
    decode,
    encode,
    event_id,
    head_of,
    instant,
    load,
    parse_instant,
    quick_head,
)

AT = datetime(2026, 1, 2, 10, tzinfo=UTC)
PLAIN: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "shop",
    "type": "purchase.completed.v1",
    "tenant": "acme",
    "subject": "c_01",
    "time": "2026-01-02T10:00:00Z",
    "data": {"a": 1},
}

letters = st.characters(exclude_characters="\x00", exclude_categories=["Cs"])
texts = st.text(letters, max_size=20)
some_text = st.text(letters, min_size=1, max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1)
plain_json = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=20,
)
times = st.datetimes(timezones=st.just(UTC))
names = st.from_regex("[a-z0-9]{1,20}", fullmatch=True)
events = st.builds(
    Event,
    id=some_text,
    source=some_text,
    type=some_text,
    tenant=some_text,
    subject=some_text,
    time=times,
    data=plain_json,
    producer=texts,
    sequence=st.integers(0, 10**18 - 1),
    cause=texts,
    recorded_at=st.none() | times,
    correlation_id=texts,
    trace_parent=texts,
    request_key=texts,
    request_hash=texts,
    extensions=st.dictionaries(names.map(lambda name: f"x{name}"), some_text, max_size=3),
)


@settings(deadline=None)
@given(events)
def test_what_is_encoded_is_decoded_the_same(event: Event) -> None:
    value = encode(event)
    assert decode(value) == event
    assert encode(decode(value)) == value


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(value: bytes) -> None:
    decode_or_refuse(value)


@settings(max_examples=60, deadline=None)
@given(any_json, st.dictionaries(st.sampled_from([*PLAIN, "sequence", "recordedtime", "producer", "x"]), any_json))
def test_any_json_is_read_or_refused_by_name(whole: object, changed: dict[str, object]) -> None:
    decode_or_refuse(json.dumps(whole).encode())
    decode_or_refuse(json.dumps({**PLAIN, **changed}).encode())


def decode_or_refuse(value: bytes) -> None:
    try:
        event = decode(value)
    except EnvelopeError:
        return
    assert decode(encode(event)) == event


@pytest.mark.parametrize("number", [2**53 + 1, 820982911946154508, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)])
def test_big_whole_numbers_are_exact(number: int) -> None:
    event = decode(json.dumps({**PLAIN, "data": {"order": number}}).encode())
    assert event.data == {"order": number}
    assert decode(encode(event)).data == {"order": number}


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**40, 10**300])
def test_a_whole_number_beyond_64_bits_is_refused_and_not_rounded(number: int) -> None:
    with pytest.raises(EnvelopeError, match=r"beyond 64 bits: .*; send it as a string"):
        decode(json.dumps({**PLAIN, "data": [number]}).encode())
    with pytest.raises(EnvelopeError, match="cannot be written as JSON"):
        encode(Event("1", "s", "t", "acme", "c", AT, number))


def test_long_digits_in_text_and_fractions_are_kept() -> None:
    data = {"card": "6" * 40, "rate": 0.1234567890123456789}
    assert decode(json.dumps({**PLAIN, "data": data}).encode()).data == data


@pytest.mark.parametrize("name", ["id", "source", "type", "tenant", "subject", "time"])
@pytest.mark.parametrize("given_value", [None, "", 5, ["x"]])
def test_a_missing_attribute_is_named(name: str, given_value: object) -> None:
    with pytest.raises(EnvelopeError, match=f"{name} must be a non-empty string"):
        decode(json.dumps({**PLAIN, name: given_value}).encode())


@pytest.mark.parametrize("name", ["producer", "cause", "correlationid", "traceparent", "idempotencykey", "requesthash"])
def test_an_attribute_of_another_type_is_named(name: str) -> None:
    with pytest.raises(EnvelopeError, match=f"{name} must be a string"):
        decode(json.dumps({**PLAIN, name: 5}).encode())
    assert decode(json.dumps({**PLAIN, name: None}).encode()) == decode(json.dumps(PLAIN).encode())


@pytest.mark.parametrize("sequence", [5, "-1", "+1", " 1", "1_0", "1.0", "", "٣", "9" * 19, True, []])
def test_a_sequence_is_a_string_of_digits(sequence: object) -> None:
    with pytest.raises(EnvelopeError, match="sequence must be a string"):
        decode(json.dumps({**PLAIN, "sequence": sequence}).encode())


@pytest.mark.parametrize("name", ["time", "recordedtime"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-01-02T10:00:00", "has no zone; send it as"),
        ("2026-01-02", "has no zone"),
        ("yesterday", "is not an RFC 3339 time"),
        ("2026-02-30T10:00:00Z", "is not an RFC 3339 time"),
        ("0001-01-01T00:00:00+23:00", "is outside the years"),
        ("9999-12-31T23:59:59-01:00", "is outside the years"),
    ],
)
def test_a_time_without_a_zone_or_sense_is_refused(name: str, text: str, reason: str) -> None:
    with pytest.raises(EnvelopeError, match=f"{name} {reason}"):
        decode(json.dumps({**PLAIN, name: text}).encode())


@settings(deadline=None)
@given(times)
def test_instants_are_utc_text_in_the_order_of_time(moment: datetime) -> None:
    assert parse_instant(instant(moment), "it") == moment
    assert len(instant(moment)) == len("2026-01-02T10:00:00.000000Z")
    assert (instant(moment) < instant(AT)) == (moment < AT)


def test_an_instant_of_another_zone_is_converted_and_one_without_is_refused() -> None:
    shanghai = timezone(timedelta(hours=8))
    assert instant(datetime(2026, 1, 2, 18, tzinfo=shanghai)) == "2026-01-02T10:00:00.000000Z"
    with pytest.raises(EnvelopeError, match="without a zone"):
        instant(datetime(2026, 1, 2, 18))  # noqa: DTZ001


def test_an_hour_that_comes_twice_is_two_instants() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    first = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
    assert instant(first) == "2026-10-25T00:30:00.000000Z"
    assert instant(first.replace(fold=1)) == "2026-10-25T01:30:00.000000Z"


def test_nesting_is_bounded() -> None:
    def nested(levels: int) -> bytes:
        return orjson.dumps({**PLAIN, "data": None}).replace(b"null", b"[" * levels + b"]" * levels)

    deepest = decode(nested(LEVELS_MAX - 1))
    assert decode(encode(deepest)) == deepest
    for levels in (LEVELS_MAX, 900, 100_000):
        with pytest.raises(EnvelopeError, match=r"nested deeper|not JSON"):
            decode(nested(levels))
    wide = orjson.dumps({**PLAIN, "data": [{} for _ in range(500)]})
    assert len(decode(wide).data) == 500


def test_the_nul_character_is_refused_and_text_about_it_is_not() -> None:
    with pytest.raises(EnvelopeError, match="NUL"):
        decode(json.dumps({**PLAIN, "data": {"name": "a\x00b"}}).encode())
    assert decode(json.dumps({**PLAIN, "data": {"name": "a\\u0000b"}}).encode()).data == {"name": "a\\u0000b"}
    with pytest.raises(EnvelopeError, match="NUL"):
        decode(json.dumps({**PLAIN, "data": {"name": "a\\\x00b"}}).encode())


def test_extensions_are_kept_as_canonical_text() -> None:
    sent = {**PLAIN, "partnerid": "p1", "sampled": True, "rank": 5, "note": None, "empty": ""}
    assert decode(json.dumps(sent).encode()).extensions == {"partnerid": "p1", "sampled": "true", "rank": "5"}


@pytest.mark.parametrize("extension", [{"rate": 1.5}, {"box": {}}, {"data_base64": "AA=="}, {"Name": "x"}, {"": "x"}])
def test_what_is_no_extension_is_refused(extension: dict[str, object]) -> None:
    with pytest.raises(EnvelopeError, match=r"attribute name|must be a string, an integer or a boolean"):
        decode(json.dumps({**PLAIN, **extension}).encode())


def test_an_extension_never_replaces_an_attribute() -> None:
    hostile = {"tenant": "other", "producer": "door.1", "sequence": "9", "specversion": "2.0", "kept": "yes"}
    event = decode(encode(Event("1", "s", "t", "acme", "c", AT, None, extensions=hostile)))
    assert (event.tenant, event.producer, event.sequence, event.extensions) == ("acme", "", 0, {"kept": "yes"})


def test_unset_attributes_are_left_out() -> None:
    assert set(orjson.loads(encode(decode(orjson.dumps(PLAIN))))) == {*PLAIN, "datacontenttype"}


def test_an_id_names_a_cause_and_a_place_in_its_decision() -> None:
    assert event_id("regulars.inbox.points.1/3/17", 0) == event_id("regulars.inbox.points.1/3/17", 0)
    several = {event_id(cause, index) for cause in ("t/1/1", "t/1/11") for index in (0, 1, 10)}
    assert len(several) == 6
    assert all(len(name) == 32 for name in several)


def test_events_are_values() -> None:
    event = decode(orjson.dumps(PLAIN))
    assert replace(event, sequence=0) == event


@given(events)
def test_the_quick_head_is_the_head(event: Event) -> None:
    """Whatever a sender put into the texts before it: quotes in a text are escaped, names of the envelope are not."""
    value = encode(event)
    head = quick_head(value)
    assert head is None or head == head_of(load(value))
    ours = replace(event, type="purchase.completed.v1", producer="door.3", sequence=7, recorded_at=event.time)
    assert quick_head(encode(ours)) == ("door.3", 7, "purchase.completed.v1")
