"""What is wrong with a field, in our words: each message says what to send instead, none repeats what was sent."""

from collections.abc import Mapping
from typing import Any, Final

_TIME: Final = "Send a time with a zone, as 2026-01-31T12:00:00Z."
_WHOLE: Final = "Send a whole number, without quotes and without a fraction."
_OBJECT: Final = "Send an object."
_MESSAGES: Final[dict[str, str]] = {
    "missing": "It is missing: send it.",
    "extra_forbidden": "There is no such field: check its spelling, or leave it out.",
    "json_invalid": "This is not JSON: {error}.",
    "string_type": "Send text.",
    "bool_type": "Send true or false.",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "list_type": "Send a list.",
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "greater_than": "Send more than {gt}.",
    "greater_than_equal": "Send {ge} or more.",
    "less_than": "Send less than {lt}.",
    "less_than_equal": "Send {le} or less.",
    "string_too_short": "Send at least {min_length} characters.",
    "string_too_long": "Send at most {max_length} characters.",
    "too_short": "Send at least {min_length}.",
    "too_long": "Send at most {max_length}.",
    "literal_error": "Send {expected}.",
    "enum": "Send {expected}.",
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "timezone_aware": _TIME,
}
"""By pydantic's type of error, whose context fills the gaps: https://docs.pydantic.dev/latest/errors/validation_errors/"""


def field_message(error: Mapping[str, Any]) -> str:
    """Pydantic's error in our words; in its own where we have none."""
    words = _MESSAGES.get(str(error["type"]))
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return words.format_map(error.get("ctx", {}))
