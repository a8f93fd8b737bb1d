"""Conditions in CEL: the names a rule may use, the checks at save time, and one honest answer per event.

CEL decides whether a rule fires, a typed effect decides how much. Language: https://cel.dev. The names below are
typed, so a misspelt name, a comparison of an integer with a fraction or a condition that is not true-or-false is
refused when the document is saved. What can run away is left out of the language: regular expressions, `map` and
`filter`, loops in loops, text concatenation, conversions, messages. Times come as integers in the tenant's zone,
because a zone database inside CEL would differ from host to host.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cel_expr_python import cel

from services.points.programs.document import CONDITION_CHARS_MAX
from services.points.programs.expression import Mentions, mentions

LOOPS_MAX: Final = 8
"""The engine stops at 10,000 rounds an evaluation; 8 loops over 500 lines stay below."""

ALWAYS: Final = "true"
FIELDS: Final = "event.fields"
LINES: Final = "lines"
BALANCE_PREFIX: Final = "member.balances."
LINE_PREFIX: Final = "line."
DETAIL_CHARS_MAX: Final = 300

_INT, _STRING, _TIMESTAMP = cel.Type.INT, cel.Type.STRING, cel.Type.TIMESTAMP
_RECORD = cel.Type.Map(_STRING, cel.Type.DYN)

_EVERY_EVENT: Final = {
    "event.name": _STRING,
    "event.time": _TIMESTAMP,
    **{f"event.{part}": _INT for part in ("year", "month", "day", "weekday", "hour", "minute")},
    "member.tier": _STRING,
    "member.purchases_before": _INT,
}
LINE_TYPES: Final = {
    "line_id": _STRING,
    "sku": _STRING,
    "category": _STRING,
    "brand": _STRING,
    "quantity": _INT,
    "amount_minor": _INT,
    "discount_minor": _INT,
}
_PURCHASE: Final = {
    "event.channel": _STRING,
    "event.store": _STRING,
    "order.total_minor": _INT,
    "order.paid_with_points_minor": _INT,
    "order.quantity": _INT,
    "order.line_count": _INT,
    "order.currency": _STRING,
    LINES: cel.Type.List(_RECORD),
    **{LINE_PREFIX + name: kind for name, kind in LINE_TYPES.items()},
}
_CUSTOM: Final = {FIELDS: _RECORD}

_LANGUAGE: Final = """
stdlib:
  include_macros: [has, exists, all, exists_one]
  include_functions:
    - name: "_&&_"
    - name: "_||_"
    - name: "!_"
    - name: "_?_:_"
    - name: "_==_"
    - name: "_!=_"
    - name: "_<_"
    - name: "_<=_"
    - name: "_>_"
    - name: "_>=_"
    - name: "@in"
    - name: "@not_strictly_false"
    - name: "size"
    - name: "startsWith"
    - name: "endsWith"
    - name: "contains"
    - name: "timestamp"
      overloads: [{id: string_to_timestamp}]
    - name: "duration"
      overloads: [{id: string_to_duration}]
    - name: "_+_"
      overloads: [{id: add_int64}, {id: add_timestamp_duration}]
    - name: "_-_"
      overloads: [{id: subtract_int64}, {id: subtract_timestamp_timestamp}, {id: subtract_timestamp_duration}]
    - name: "_*_"
      overloads: [{id: multiply_int64}]
    - name: "_/_"
      overloads: [{id: divide_int64}]
    - name: "_%_"
      overloads: [{id: modulo_int64}]
    - name: "-_"
      overloads: [{id: negate_int64}]
    - name: "_[_]"
      overloads: [{id: index_map}]
"""


class ConditionInvalid(ValueError):
    """The text is no condition for this kind of event; the message says what to do."""


class Answer(NamedTuple):
    matched: bool
    error: str = ""
    """Why there is no answer; a rule with an error never fires."""


@dataclass(frozen=True)
class Condition:
    """A compiled condition. `expression` is None where it always holds."""

    text: str
    variables: tuple[str, ...] = ()
    field_names: tuple[str, ...] = ()
    """The custom fields it reads by name."""
    per_line: bool = False
    """It mentions `line`, so it is asked for each line of the order."""
    expression: Any = None


def compile_condition(text: str, *, purchase: bool, wallets: tuple[str, ...]) -> Condition:
    """Check and compile; raises ConditionInvalid. `purchase` says which names there are."""
    if text.strip() == ALWAYS:
        return Condition(text)
    if len(text) > CONDITION_CHARS_MAX:
        raise ConditionInvalid(f"a condition has at most {CONDITION_CHARS_MAX} characters, this one {len(text)}")
    try:
        expression = _environment(purchase, wallets).compile(text)
    except Exception as error:  # the library raises RuntimeError, and TypeError for text that is not Unicode
        raise ConditionInvalid(_explained(error, purchase, wallets)) from None
    if expression.return_type() != cel.Type.BOOL:
        raise ConditionInvalid(
            "a condition must be true or false; compare the value with something, like order.total_minor >= 1000 "
            "or event.fields.vip == true"
        )
    found = mentions(expression.serialize())
    _bounded(found)
    fields = tuple(sorted(key for source, key in found.keys if source == FIELDS))
    variables = tuple(sorted(found.variables))
    return Condition(text, variables, fields, any(name.startswith(LINE_PREFIX) for name in variables), expression)


def ask(condition: Condition, values: Mapping[str, Any]) -> Answer:
    """Evaluate with `values`, which holds at least the condition's variables.

    A runtime error comes back from CEL as a truthy value, so only a real `true` is a match.
    """
    if condition.expression is None:
        return Answer(True)
    try:
        answer = condition.expression.eval(data=values)
        value = answer.value()
    except Exception as error:  # the library's own errors (budget, conversion) are RuntimeError and TypeError
        return Answer(False, _one_line(str(error)))
    if value is True or value is False:
        return Answer(value)
    return Answer(False, _one_line(str(value)))


def names(purchase: bool, wallets: tuple[str, ...]) -> dict[str, Any]:
    """Every name a condition may use, with its CEL type."""
    balances = {BALANCE_PREFIX + code: _INT for code in wallets}
    return {**_EVERY_EVENT, **balances, **(_PURCHASE if purchase else _CUSTOM)}


@lru_cache(maxsize=256)
def _environment(purchase: bool, wallets: tuple[str, ...]) -> Any:
    return cel.NewEnv(config=cel.NewEnvConfigFromYaml(_LANGUAGE), variables=names(purchase, wallets))


def _bounded(found: Mentions) -> None:
    if found.structs:
        raise ConditionInvalid("map and message literals are not part of a condition; write a list: x in [1, 2]")
    if found.loops > LOOPS_MAX:
        raise ConditionInvalid(f"at most {LOOPS_MAX} of exists, all and exists_one in one condition")
    if found.nested:
        raise ConditionInvalid("a loop inside a loop is not allowed; split the rule in two")
    if found.ranges - {LINES}:
        raise ConditionInvalid('exists, all and exists_one run over lines only; use "x" in event.fields.list')
    unknown = sorted(key for source, key in found.keys if source == LINES and key not in LINE_TYPES)
    if unknown:
        raise ConditionInvalid(f"a line has no {unknown[0]!r}; it has {', '.join(LINE_TYPES)}")


def _explained(error: Exception, purchase: bool, wallets: tuple[str, ...]) -> str:
    if isinstance(error, TypeError):
        return "the condition is not valid Unicode text"
    text = _one_line(str(error))
    if "undeclared reference" in text:
        return f"{text}. Names here: {', '.join(sorted(names(purchase, wallets)))}; see docs/programs.md for functions"
    if "double" in text:
        return f"{text}. Money and points are whole numbers: leave the decimal point out"
    if "recursion" in text:
        return "the condition is nested too deeply; write fewer brackets or split it into two rules"
    return text


def _one_line(text: str) -> str:
    """The library's message without its code, source line and pointer."""
    first = text.split("\n", 1)[0]
    first = re.sub(r"^[A-Z_]+: (ERROR: <input>:-?\d+:(-?\d+): )?", lambda m: f"at {m[2]}: " if m[2] else "", first)
    return re.sub(r" \(in container ''\)| \[[A-Z_]+\]$", "", first)[:DETAIL_CHARS_MAX]
