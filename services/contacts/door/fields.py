"""The data of a delivery: what a sender may say of a customer, a purchase, a refund and an event of its own."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from iso4217 import Currency
from pydantic import BaseModel, ValidationError

from services.contacts.door.problems import Code, DeliveryProblem
from shared.events.catalogue import POINTS_MAX
from shared.events.door import Customer, CustomRecorded, Purchase, Refund, normalised_email, normalised_phone

CURRENCIES: Final = frozenset(currency.code for currency in Currency) - {"XTS", "XXX"}
"""ISO 4217 without the codes for tests and for no currency."""
TEXT_MAX: Final = 200
Model = TypeVar("Model", bound=BaseModel)

_IDS = ("channel", "order_id", "refund_id")
_LINE_IDS = ("line_id", "sku")
_CODES: Final = {
    "missing": Code.FIELD_MISSING,
    "int_type": Code.NOT_A_WHOLE_NUMBER,
    "greater_than_equal": Code.NUMBER_TOO_SMALL,
    "less_than_equal": Code.NUMBER_TOO_LARGE,
    "string_too_long": Code.TEXT_TOO_LONG,
    "too_long": Code.TOO_MANY_LINES,
    "too_short": Code.NO_LINES,
}
_ADVICE: Final = {
    Code.NOT_A_WHOLE_NUMBER: "send a whole number; money in the currency's minor unit: 2950 for 29.50",
    Code.TOO_MANY_LINES: "send at most 500 lines in one event",
    Code.NO_LINES: "send at least one line",
}


def customer(given: object) -> Customer:
    """How the sender names the customer, normalised; nothing given is an empty one. Raises DeliveryProblem."""
    if given is None:
        return Customer()
    if not isinstance(given, Mapping):
        raise DeliveryProblem(Code.FIELD_MALFORMED, "send an object with reference, email or phone").under("customer")
    try:
        reference = _text(given, "reference").strip()
        email, phone = _text(given, "email", 320).strip(), _text(given, "phone", 40).strip()
        return Customer(
            reference=reference,
            email=_normalised(normalised_email, email, Code.EMAIL_MALFORMED, "email"),
            phone=_normalised(normalised_phone, phone, Code.PHONE_MALFORMED, "phone"),
        )
    except DeliveryProblem as problem:
        raise problem.under("customer") from None


def purchase(given: Mapping[str, Any]) -> dict[str, Any]:
    """A `Purchase` as JSON without its defaults. Raises DeliveryProblem.

    A sender may add `total_minor`, what the customer paid for all lines: it must be their sum, and is not kept.
    """
    bought = _read(Purchase, _with_text_ids(given))
    _check_currency(bought.currency)
    _check_lines_once([line.line_id for line in bought.lines])
    total_minor = sum(line.amount_minor for line in bought.lines)
    _check_sum(total_minor)
    if given.get("total_minor") is not None:
        stated = given["total_minor"]
        if type(stated) is not int:
            raise DeliveryProblem(Code.NOT_A_WHOLE_NUMBER, _ADVICE[Code.NOT_A_WHOLE_NUMBER], "total_minor")
        if stated != total_minor:
            raise DeliveryProblem(Code.SUM_DIFFERS, f"the lines' amounts add up to {total_minor}", "total_minor")
    if bought.paid_with_points_minor > total_minor:
        raise DeliveryProblem(
            Code.SUM_DIFFERS, f"points cannot pay more than the lines, {total_minor}", "paid_with_points_minor"
        )
    return bought.model_dump(mode="json", exclude_defaults=True)


def refund(given: Mapping[str, Any]) -> dict[str, Any]:
    """A `Refund` as JSON. Raises DeliveryProblem."""
    returned = _read(Refund, _with_text_ids(given))
    _check_currency(returned.currency)
    _check_lines_once([line.line_id for line in returned.lines])
    _check_sum(sum(line.amount_minor for line in returned.lines))
    return returned.model_dump(mode="json", exclude_defaults=True)


def custom(given: Mapping[str, Any], type_name: str | None) -> dict[str, Any]:
    """The name and fields of a `CustomRecorded`. Raises DeliveryProblem.

    `type_name` is the sender's own type: then all data but the customer are the fields. Else both are named in data.
    """
    if type_name is not None:
        return {"name": type_name, "fields": {name: value for name, value in given.items() if name != "customer"}}
    recorded = _read(CustomRecorded, {"name": given.get("name"), "fields": given.get("fields", {})})
    if recorded.name.strip() != recorded.name:
        raise DeliveryProblem(Code.FIELD_MALFORMED, "send a name without spaces around it", "name")
    return {"name": recorded.name, "fields": recorded.fields}


def _text(given: Mapping[str, Any], name: str, at_most: int = TEXT_MAX) -> str:
    value = _as_text(given.get(name))
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DeliveryProblem(Code.FIELD_MALFORMED, "send text", name)
    if len(value) > at_most:
        raise DeliveryProblem(Code.TEXT_TOO_LONG, f"send at most {at_most} characters", name)
    return value


def _normalised(normalise: Any, text: str, code: Code, name: str) -> str:
    if not text:
        return ""
    try:
        return str(normalise(text))
    except ValueError as advice:
        raise DeliveryProblem(code, str(advice), name) from None


def _as_text(value: object) -> object:
    """Ids come as whole numbers, too (never as floats: those round)."""
    return str(value) if type(value) is int else value


def _with_text_ids(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {**given, **{name: _as_text(given[name]) for name in _IDS if name in given}}
    if isinstance(given.get("lines"), list):
        found["lines"] = [
            {**line, **{name: _as_text(line[name]) for name in _LINE_IDS if name in line}}
            if isinstance(line, dict)
            else line
            for line in given["lines"]
        ]
    return found


def _read(model: type[Model], given: object) -> Model:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        code = _CODES.get(first["type"], Code.FIELD_MALFORMED)
        at = ".".join(str(part) for part in first["loc"])
        raise DeliveryProblem(code, _ADVICE.get(code, first["msg"]), at) from None


def _check_currency(currency: str) -> None:
    if currency not in CURRENCIES:
        raise DeliveryProblem(Code.CURRENCY_UNKNOWN, "send an ISO 4217 code, as CNY or USD", "currency")


def _check_lines_once(line_ids: list[str]) -> None:
    if len(set(line_ids)) != len(line_ids):
        raise DeliveryProblem(Code.LINE_REPEATED, "give each line_id once", "lines")


def _check_sum(total_minor: int) -> None:
    if total_minor > POINTS_MAX:
        raise DeliveryProblem(Code.NUMBER_TOO_LARGE, f"the lines may add up to {POINTS_MAX} at most", "lines")
