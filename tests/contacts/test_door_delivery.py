"""What the door accepts, and what it says to everything else."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contacts.door.delivery import EVENT_BYTES_MAX, binary, inbox_key, structured
from services.contacts.door.json_values import DEPTH_MAX, read_body
from services.contacts.door.problems import Code, DeliveryProblem
from shared.events.door import Delivery, normalised_email, normalised_phone
from shared.events.envelope import Event, encode
from shared.log.port import ENTRY_BYTES_MAX
from tests.contacts.door_driver import NOW, SOURCE, TENANT, keyed, line, purchase, refund, sent

LI = {"reference": "C-17"}
BOUGHT = purchase(customer=LI)


def without(given: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


def bought(*lines: dict[str, object], **more: object) -> dict[str, Any]:
    return sent("purchase.completed", purchase("1001", *lines, customer=LI) | more)


def bought_by(customer: object) -> dict[str, Any]:
    return bought(customer=customer)


def own(**stated: object) -> dict[str, Any]:
    return sent("custom.recorded", {"customer": LI, **stated})


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: list[tuple[str, object, Code, str]] = [
    ("not an object", [1], Code.FIELD_MALFORMED, ""),
    ("nothing", None, Code.FIELD_MALFORMED, ""),
    ("old version", {**bought(), "specversion": "0.3"}, Code.VERSION_UNSUPPORTED, "specversion"),
    ("no id", without(bought(), "id"), Code.ATTRIBUTE_MISSING, "id"),
    ("empty source", {**bought(), "source": " "}, Code.ATTRIBUTE_MALFORMED, "source"),
    ("spaces in source", {**bought(), "source": "pos 7"}, Code.ATTRIBUTE_MALFORMED, "source"),
    ("number as id", {**bought(), "id": 7}, Code.ATTRIBUTE_MALFORMED, "id"),
    ("line break in id", {**bought(), "id": "a\nb"}, Code.ATTRIBUTE_MALFORMED, "id"),
    ("long id", {**bought(), "id": "i" * 201}, Code.TEXT_TOO_LONG, "id"),
    ("NUL in id", {**bought(), "id": "a\0"}, Code.TEXT_NOT_STORABLE, "id"),
    ("subject of another kind", {**bought(), "subject": 1}, Code.ATTRIBUTE_MALFORMED, "subject"),
    ("unknown type", {**bought(), "type": "purchase.cancelled"}, Code.TYPE_UNKNOWN, "type"),
    ("unknown version of a type", {**bought(), "type": "purchase.completed.v2"}, Code.TYPE_UNKNOWN, "type"),
    ("somebody posing as us", {**bought(), "type": "points.earned.v1"}, Code.TYPE_UNKNOWN, "type"),
    ("our own fact", {**bought(), "type": "delivery.refused.v1"}, Code.TYPE_UNKNOWN, "type"),
    ("no time", without(bought(), "time"), Code.ATTRIBUTE_MISSING, "time"),
    ("time without zone", {**bought(), "time": "2026-01-02T10:00:00"}, Code.TIME_WITHOUT_ZONE, "time"),
    ("no such day", {**bought(), "time": "2026-02-30T10:00:00Z"}, Code.TIME_MALFORMED, "time"),
    ("a date", {**bought(), "time": "2026-01-02"}, Code.TIME_MALFORMED, "time"),
    ("seconds since 1970", {**bought(), "time": "1767348000"}, Code.TIME_MALFORMED, "time"),
    ("before the calendar", {**bought(), "time": "0001-01-01T00:00:00+14:00"}, Code.TIME_MALFORMED, "time"),
    ("long ago", {**bought(), "time": "1899-12-31T23:59:59Z"}, Code.TIME_TOO_OLD, "time"),
    ("the future", {**bought(), "time": "2026-01-02T12:05:01Z"}, Code.TIME_IN_FUTURE, "time"),
    ("no data", without(bought(), "data"), Code.FIELD_MISSING, "data"),
    ("text as data", {**bought(), "data": "x"}, Code.FIELD_MALFORMED, "data"),
    ("base64", {**without(bought(), "data"), "data_base64": "e30="}, Code.CONTENT_TYPE_UNSUPPORTED, "data_base64"),
    ("XML", {**bought(), "datacontenttype": "text/xml"}, Code.CONTENT_TYPE_UNSUPPORTED, "datacontenttype"),
    ("no customer", sent("purchase.completed", purchase()), Code.CUSTOMER_MISSING, "data.customer"),
    ("empty customer", bought_by({}), Code.CUSTOMER_MISSING, "data.customer"),
    ("blank reference", bought_by({"reference": " "}), Code.CUSTOMER_MISSING, "data.customer"),
    ("text as customer", bought_by("C-17"), Code.FIELD_MALFORMED, "data.customer"),
    ("bad e-mail", bought_by({"email": "li@"}), Code.EMAIL_MALFORMED, "data.customer.email"),
    ("phone at home", bought_by({"phone": "13800138000"}), Code.PHONE_MALFORMED, "data.customer.phone"),
    ("float reference", bought_by({"reference": 1.5}), Code.FIELD_MALFORMED, "data.customer.reference"),
    ("no order", sent("purchase.refunded", without(refund(), "order_id")), Code.FIELD_MISSING, "data.order_id"),
    ("own event of nobody", sent("com.acme.visit", {}), Code.CUSTOMER_MISSING, "data.customer"),
    ("own event without name", own(), Code.FIELD_MALFORMED, "data.name"),
    ("own event with padded name", own(name=" x"), Code.FIELD_MALFORMED, "data.name"),
    ("fields that are none", own(name="x", fields=1), Code.FIELD_MALFORMED, "data.fields"),
    ("float amount", bought(line(amount_minor=29.5)), Code.NOT_A_WHOLE_NUMBER, "data.lines.0.amount_minor"),
    ("whole float amount", bought(line(amount_minor=2950.0)), Code.NOT_A_WHOLE_NUMBER, "data.lines.0.amount_minor"),
    ("amount as text", bought(line(amount_minor="2950")), Code.NOT_A_WHOLE_NUMBER, "data.lines.0.amount_minor"),
    ("true as amount", bought(line(amount_minor=True)), Code.NOT_A_WHOLE_NUMBER, "data.lines.0.amount_minor"),
    ("negative amount", bought(line(amount_minor=-1)), Code.NUMBER_TOO_SMALL, "data.lines.0.amount_minor"),
    ("overflow", bought(line(amount_minor=10**15 + 1)), Code.NUMBER_TOO_LARGE, "data.lines.0.amount_minor"),
    ("overflow of 64 bits", bought(line(amount_minor=2**64)), Code.NUMBER_TOO_LARGE, "data.lines.0.amount_minor"),
    ("infinity", bought(weight=float("inf")), Code.NUMBER_TOO_LARGE, "data.weight"),
    ("no pieces", bought(line(quantity=0)), Code.NUMBER_TOO_SMALL, "data.lines.0.quantity"),
    ("sum overflows", bought(line("1", amount_minor=10**15), line("2")), Code.NUMBER_TOO_LARGE, "data.lines"),
    ("another total", bought(total_minor=2951), Code.SUM_DIFFERS, "data.total_minor"),
    ("float total", bought(total_minor=2950.0), Code.NOT_A_WHOLE_NUMBER, "data.total_minor"),
    ("points pay too much", bought(paid_with_points_minor=2951), Code.SUM_DIFFERS, "data.paid_with_points_minor"),
    ("unknown currency", bought(currency="ABC"), Code.CURRENCY_UNKNOWN, "data.currency"),
    ("test currency", bought(currency="XTS"), Code.CURRENCY_UNKNOWN, "data.currency"),
    ("unknown money back", sent("purchase.refunded", refund(currency="ABC")), Code.CURRENCY_UNKNOWN, "data.currency"),
    ("a line back twice", sent("purchase.refunded", refund(lines=[line(), line()])), Code.LINE_REPEATED, "data.lines"),
    ("small currency", bought(currency="usd"), Code.FIELD_MALFORMED, "data.currency"),
    ("no lines", bought(lines=[]), Code.NO_LINES, "data.lines"),
    ("lines as text", bought(lines="1"), Code.FIELD_MALFORMED, "data.lines"),
    ("501 lines", bought(*(line(str(n)) for n in range(501))), Code.TOO_MANY_LINES, "data.lines"),
    ("a line twice", bought(line("1"), line("1")), Code.LINE_REPEATED, "data.lines"),
    ("long order id", bought(order_id="1" * 201), Code.TEXT_TOO_LONG, "data.order_id"),
    ("float order id", bought(order_id=1e3), Code.FIELD_MALFORMED, "data.order_id"),
    ("a lone surrogate", bought(store="\ud800"), Code.TEXT_NOT_STORABLE, "data.store"),
    ("a surrogate as name", bought(**{"\udfff": 1}), Code.TEXT_NOT_STORABLE, "data.?"),
    ("too deep", bought(more=nested(DEPTH_MAX)), Code.TOO_DEEP, "data.more" + ".0" * 30),
    ("too large", bought(note="x" * EVENT_BYTES_MAX), Code.BODY_TOO_LARGE, ""),
    ("no JSON at all", bought(note=object()), Code.MALFORMED_JSON, "data.note"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "code", "at"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_bad_input_has_its_named_problem(event: object, code: Code, at: str) -> None:
    with pytest.raises(DeliveryProblem) as caught:
        structured(event, NOW)
    assert (caught.value.code, caught.value.at) == (code, at)
    assert caught.value.detail


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", Code.MALFORMED_JSON),
        (b"{", Code.MALFORMED_JSON),
        (b'{"a": NaN}', Code.MALFORMED_JSON),
        (b'"\xff"', Code.MALFORMED_JSON),
        (b"\xef\xbb\xbf{}", Code.MALFORMED_JSON),
        (b"[" * 100_000, Code.MALFORMED_JSON),
        (b"1" * 5_000, Code.MALFORMED_JSON),
        (b'{"a\x00": 1}', Code.MALFORMED_JSON),
        (b" " * (ENTRY_BYTES_MAX + 1), Code.BODY_TOO_LARGE),
    ],
)
def test_a_body_that_is_no_json_has_its_named_problem(body: bytes, code: Code) -> None:
    with pytest.raises(DeliveryProblem) as caught:
        read_body(body)
    assert caught.value.code == code


def test_a_name_given_twice_is_seen_in_its_own_item_of_a_batch() -> None:
    good = orjson.dumps(bought()).decode()
    items = read_body(f'[{good}, {good[:-1]}, "id": "e2"}}]'.encode())
    assert isinstance(items, list)
    assert structured(items[0], NOW).id == "e1"
    with pytest.raises(DeliveryProblem) as caught:
        structured(items[1], NOW)
    assert (caught.value.code, caught.value.at) == (Code.NAME_REPEATED, "id")


# ---- accepted


def test_a_purchase_becomes_a_delivery() -> None:
    customer = {"reference": 17, "email": " LI@Example.com", "phone": "+86 (138) 0013-8000"}
    data = purchase("1001", line("1", sku=5), customer=customer, total_minor=2950, note="x", turn=9, body_hash="mine")
    delivery = structured(sent("purchase.completed", data, time="2026-01-02T18:00:00.5+08:00"), NOW)
    assert delivery.customer.model_dump() == {"reference": "17", "email": "li@example.com", "phone": "+8613800138000"}
    assert delivery.time == datetime(2026, 1, 2, 10, 0, 0, 500_000, tzinfo=UTC)
    assert (delivery.source, delivery.id, delivery.type) == (SOURCE, "e1", "purchase.completed.v1")
    assert delivery.data == {
        "channel": "web",
        "order_id": "1001",
        "currency": "USD",
        "lines": [{"line_id": "1", "sku": "5", "quantity": 2, "amount_minor": 2950}],
    }


def test_an_event_may_be_five_minutes_ahead_of_the_clock_that_is_passed_in() -> None:
    event = bought() | {"time": "2026-01-02T12:05:00Z"}
    assert structured(event, NOW).time == NOW + timedelta(minutes=5)
    with pytest.raises(DeliveryProblem):
        structured(event, NOW - timedelta(microseconds=1))


def test_an_order_of_500_lines_is_accepted() -> None:
    assert len(structured(bought(*(line(str(n)) for n in range(500))), NOW).data["lines"]) == 500


def test_what_is_accepted_fits_the_inbox() -> None:
    note = "\x01" * ((EVENT_BYTES_MAX - 200) // 6)
    delivery = structured(sent("com.acme.note", {"customer": LI, "note": note}, "界" * 200), NOW)
    event = Event("e", "s", "delivery.v1", TENANT, "k" * 64, NOW, delivery, request_key="k" * 200)
    assert EVENT_BYTES_MAX < len(encode(event)) <= ENTRY_BYTES_MAX


def test_the_body_hash_is_of_what_is_said_not_of_how() -> None:
    first = structured(bought(), NOW)
    shuffled = json.loads(json.dumps(bought(), sort_keys=True, indent=3))
    assert structured({**shuffled, "traceparent": "00-1"}, NOW).body_hash == first.body_hash
    assert structured(bought() | {"time": "2026-01-02T11:00:00+01:00"}, NOW).body_hash == first.body_hash
    assert structured(bought() | {"subject": "x"}, NOW).body_hash != first.body_hash
    assert structured(bought(note=1), NOW).body_hash != first.body_hash
    assert structured(bought() | {"time": "2026-01-02T10:00:01Z"}, NOW).body_hash != first.body_hash


def headers(**attributes: str) -> list[tuple[str, str]]:
    found = {"specversion": "1.0", "id": "e1", "source": SOURCE, "type": "purchase.completed"}
    found |= {"time": "2026-01-02T10:00:00Z", **attributes}
    return [(f"CE-{name}", value) for name, value in found.items()] + [
        ("Content-Type", "application/json; charset=utf-8")
    ]


def test_binary_mode_is_the_same_event() -> None:
    assert binary([*headers(), ("Host", "x")], orjson.dumps(BOUGHT), NOW) == structured(bought(), NOW)
    quoted = binary(headers(id='"a\\"%E7%95%8C"'), orjson.dumps(BOUGHT), NOW)
    assert quoted.id == 'a"界'


@pytest.mark.parametrize(
    ("given_headers", "body", "code", "at"),
    [
        ([*headers(), ("ce-id", "e2")], b"{}", Code.ATTRIBUTE_REPEATED, "id"),
        (headers(id="%FF"), b"{}", Code.ATTRIBUTE_MALFORMED, "id"),
        (headers(id="\xe9"), b"{}", Code.ATTRIBUTE_MALFORMED, "id"),
        (headers(id="%00"), b"{}", Code.TEXT_NOT_STORABLE, "id"),
        (headers()[1:], b"{}", Code.VERSION_UNSUPPORTED, "specversion"),
        (headers(), b"null", Code.FIELD_MISSING, "data"),
        (headers(), b'{"a": 1, "a": 2}', Code.NAME_REPEATED, "data.a"),
        (headers(), b"\x00", Code.MALFORMED_JSON, ""),
    ],
)
def test_binary_mode_has_its_named_problems(
    given_headers: list[tuple[str, str]], body: bytes, code: Code, at: str
) -> None:
    with pytest.raises(DeliveryProblem) as caught:
        binary(given_headers, body, NOW)
    assert (caught.value.code, caught.value.at) == (code, at)


# ---- keys of the inbox


def key_of(
    data: dict[str, Any], event_type: str = "purchase.completed", source: str = SOURCE, tenant: str = TENANT
) -> str:
    return inbox_key(tenant, structured(sent(event_type, data, source=source), NOW), keyed)


def test_deliveries_of_one_customer_share_a_key_and_keys_hold_nothing_personal() -> None:
    named = {"reference": "C-17", "email": "li@example.com"}
    by_reference = key_of(purchase("1", customer=named))
    assert (
        by_reference == key_of(purchase("2", customer=LI)) == key_of({**refund(), "customer": LI}, "purchase.refunded")
    )
    assert len({by_reference, key_of(BOUGHT, source="x:y"), key_of(BOUGHT, tenant="beta")}) == 3
    assert set(by_reference) <= set("0123456789abcdef")


def test_without_a_reference_the_key_is_of_phone_then_email_then_the_order() -> None:
    phone, email = "+8613800138000", "li@example.com"
    both = key_of(purchase(customer={"phone": phone, "email": email}))
    assert both == key_of(purchase("2", customer={"phone": phone}))
    assert both != key_of(purchase(customer={"email": email}))
    assert key_of(refund("r1"), "purchase.refunded") == key_of(refund("r2"), "purchase.refunded")


# ---- nothing but the named problem


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def mangled(draw: st.DrawFn) -> object:
    """A good event with one thing in it, anywhere, replaced."""
    event = json.loads(
        json.dumps(
            draw(st.sampled_from([bought(), sent("purchase.refunded", refund()), sent("com.acme.v", {"customer": LI})]))
        )
    )
    holder: Any = event
    while True:
        place = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        if isinstance(holder[place], dict | list) and holder[place] and draw(st.booleans()):
            holder = holder[place]
            continue
        holder[place] = draw(json_values)
        return event


@settings(max_examples=400, deadline=None)
@given(st.one_of(json_values, mangled()))
def test_whatever_is_sent_is_a_delivery_or_a_named_problem(event: object) -> None:
    told: Delivery | DeliveryProblem
    try:
        told = structured(event, NOW)
    except DeliveryProblem as problem:
        told = problem
    if isinstance(told, DeliveryProblem):
        assert "\0" not in told.at + told.detail
        assert (told.at + told.detail).encode()
        return
    again = Delivery.model_validate(orjson.loads(orjson.dumps(told.model_dump(mode="json"))))
    assert again == told
    assert inbox_key(TENANT, again, keyed) == inbox_key(TENANT, told, keyed)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["ce-id", "ce-time", "CE-type", "content-type"]) | st.text(), st.text())),
    st.binary() | json_values.map(lambda value: repr(value).encode("utf-8", "replace")),
)
def test_whatever_comes_in_binary_mode_is_a_delivery_or_a_named_problem(
    found: list[tuple[str, str]], body: bytes
) -> None:
    for given_headers in (found, [*headers(), *found]):
        with pytest.raises(DeliveryProblem):
            binary(given_headers, body, NOW)


# ---- normal forms


def accepted(normalise: Callable[[str], str], text: str) -> str | None:
    try:
        return normalise(text)
    except ValueError:
        return None


@given(
    st.emails() | st.text() | st.from_regex(r"[^@\s]{1,9}@\w{1,9}\.\w{1,9}") | st.from_regex(r"\+[1-9][0-9 ()-]{6,20}")
)
def test_normal_forms_are_stable(text: str) -> None:
    for normalise in (normalised_email, normalised_phone):
        once = accepted(normalise, text)
        assert once is None or accepted(normalise, once) == once


def test_one_address_written_differently_is_one_identity() -> None:
    assert normalised_email(" Ju\u0308rgen@EXAMPLE.com\n") == normalised_email("j\u00fcrgen@example.com")
    assert normalised_phone("+86 138-0013-8000") == normalised_phone("+86(138)00138000") == "+8613800138000"


@pytest.mark.parametrize(
    "phone", ["13800138000", "0086138", "+0123456789", "+12345", "+1234567890123456", "+86１３８00138000", "+86138x"]
)
def test_a_phone_number_is_not_guessed(phone: str) -> None:
    with pytest.raises(ValueError, match="country code"):
        normalised_phone(phone)


@pytest.mark.parametrize(
    "email",
    [
        "",
        "li",
        "li@",
        "@x.example",
        "a b@x.example",
        "li@localhost",
        "li@@x.example",
        "li@x..example",
        "l" * 65 + "@x.example",
    ],
)
def test_an_address_that_cannot_be_one_is_refused(email: str) -> None:
    with pytest.raises(ValueError, match="e-mail"):
        normalised_email(email)
