"""JSON as senders send it: read strictly, and only what the log and Postgres can hold exactly."""

import json
import math
from typing import Any, Final

from services.contacts.door.problems import Code, DeliveryProblem
from shared.log.port import ENTRY_BYTES_MAX

DEPTH_MAX: Final = 32
"""Levels of objects and arrays."""
WHOLE_MAX: Final = 2**63 - 1


class Repeating(dict[str, Any]):
    """An object that named something twice; which of the two was meant cannot be known."""

    repeated: str = ""


def read_body(body: bytes, at_most_bytes: int = ENTRY_BYTES_MAX) -> object:
    """The JSON value of a request body. Names given twice are kept visible for `check_values`, so that one bad item
    does not spoil a batch. Raises DeliveryProblem: body-too-large, malformed-json."""
    if len(body) > at_most_bytes:
        raise DeliveryProblem(Code.BODY_TOO_LARGE, f"send at most {at_most_bytes} bytes at once")
    try:
        value: object = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        place = f", see character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise DeliveryProblem(Code.MALFORMED_JSON, f"send JSON (RFC 8259) in UTF-8{place}") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    repeating = Repeating(found)
    repeating.repeated = next(name for name in names if names.count(name) > 1)
    return repeating


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_values(value: object, depth: int = 0) -> None:
    """Raise a DeliveryProblem naming where, for anything that is not JSON or could not be stored exactly."""
    match value:
        case None | bool():
            pass
        case str():
            if "\0" in value or not (value.isascii() or _encodes(value)):
                raise DeliveryProblem(
                    Code.TEXT_NOT_STORABLE, "leave out the NUL character and unpaired surrogates (\\ud800 to \\udfff)"
                )
        case int():
            if not -WHOLE_MAX <= value <= WHOLE_MAX:
                raise DeliveryProblem(Code.NUMBER_TOO_LARGE, "whole numbers have at most 64 bits; send an id as text")
        case float():
            if not math.isfinite(value):
                raise DeliveryProblem(Code.NUMBER_TOO_LARGE, "send a finite number")
        case dict():
            _check_object(value, depth + 1)
        case list() | tuple():
            _check_depth(depth + 1)
            for index, item in enumerate(value):
                try:
                    check_values(item, depth + 1)
                except DeliveryProblem as problem:
                    raise problem.under(index) from None
        case _:
            raise DeliveryProblem(Code.MALFORMED_JSON, "send JSON values only")


def _check_object(value: dict[Any, Any], depth: int) -> None:
    _check_depth(depth)
    if isinstance(value, Repeating):
        raise DeliveryProblem(Code.NAME_REPEATED, "name each member of an object once").under(value.repeated)
    for name, item in value.items():
        try:
            if not isinstance(name, str):
                raise DeliveryProblem(Code.MALFORMED_JSON, "names are text")
            check_values(name, depth)
            check_values(item, depth)
        except DeliveryProblem as problem:
            raise problem.under(name) from None


def _check_depth(depth: int) -> None:
    if depth > DEPTH_MAX:
        raise DeliveryProblem(Code.TOO_DEEP, f"nest objects and arrays at most {DEPTH_MAX} levels deep")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
