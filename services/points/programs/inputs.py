"""The values of the names in a condition, and how they are recorded with a decision."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from services.points.programs.conditions import BALANCE_PREFIX, FIELDS, LINE_PREFIX, LINE_TYPES, LINES, Condition
from services.points.programs.dates import local_time
from services.points.programs.domain import Happened
from shared.events.door import Line
from shared.events.envelope import instant

RECORDED_CHARS_MAX: Final = 100


def values(condition: Condition, happened: Happened) -> dict[str, Any]:
    """What the condition reads of the event, but for its lines' own values."""
    return {name: _value(name, happened) for name in condition.variables if not name.startswith(LINE_PREFIX)}


def line_values(condition: Condition, happened: Happened) -> list[dict[str, Any]]:
    """What to ask a condition with beside the event's values: once for each line, or once."""
    if not condition.per_line:
        return [{}]
    used = [name for name in condition.variables if name.startswith(LINE_PREFIX)]
    return [{name: getattr(line, name.removeprefix(LINE_PREFIX)) for name in used} for line in happened.lines]


def recorded(condition: Condition, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are recorded: plain JSON, bounded, lines by their number (the event itself has them)."""
    inputs: dict[str, Any] = {}
    for name, value in values.items():
        if name == LINES:
            inputs["lines"] = len(value)
        elif name == FIELDS:
            inputs.update((f"{FIELDS}.{key}", _plain(value.get(key))) for key in condition.field_names)
        else:
            inputs[name] = _plain(value)
    return inputs


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return instant(value)
        case str():
            return value[:RECORDED_CHARS_MAX]
        case None | bool() | int() | float():
            return value
        case _:
            return f"{type(value).__name__} of {len(value)}"


_READ: Final[Mapping[str, Callable[[Happened], Any]]] = {
    "event.name": lambda happened: happened.name,
    "event.time": lambda happened: happened.time,
    "event.year": lambda happened: _local(happened).year,
    "event.month": lambda happened: _local(happened).month,
    "event.day": lambda happened: _local(happened).day,
    "event.weekday": lambda happened: _local(happened).isoweekday(),
    "event.hour": lambda happened: _local(happened).hour,
    "event.minute": lambda happened: _local(happened).minute,
    "event.channel": lambda happened: happened.channel,
    "event.store": lambda happened: happened.store,
    FIELDS: lambda happened: happened.fields,
    "order.total_minor": lambda happened: sum(line.amount_minor for line in happened.lines),
    "order.paid_with_points_minor": lambda happened: happened.paid_with_points_minor,
    "order.quantity": lambda happened: sum(line.quantity for line in happened.lines),
    "order.line_count": lambda happened: len(happened.lines),
    "order.currency": lambda happened: happened.currency,
    LINES: lambda happened: [_record(line) for line in happened.lines],
    "member.tier": lambda happened: happened.member.tier,
    "member.purchases_before": lambda happened: happened.member.purchases_before,
}


def _local(happened: Happened) -> datetime:
    return local_time(happened.time, happened.zone)


def _record(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in LINE_TYPES}


def _value(name: str, happened: Happened) -> Any:
    if name.startswith(BALANCE_PREFIX):
        return happened.member.balances.get(name.removeprefix(BALANCE_PREFIX), 0)
    return _READ[name](happened)
