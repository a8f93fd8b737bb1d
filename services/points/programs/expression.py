"""What a checked CEL expression mentions, read from its serialized form.

The form is a protobuf `cel.expr.CheckedExpr` in an `Any`:
https://github.com/google/cel-spec/blob/v0.24.0/proto/cel/expr/checked.proto and `syntax.proto` beside it. Only the
few fields named below are read, so no protobuf library is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_ANY_VALUE: Final = 2
_CHECKED_EXPR: Final = 4
_IDENT, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = 4, 5, 6, 7, 8, 9
_CONST: Final = 3
_CONST_STRING: Final = 6
_INDEX: Final = "_[_]"


@dataclass
class Mentions:
    """Names that an expression reads. `loops` counts exists, all and exists_one."""

    variables: set[str] = field(default_factory=set)
    keys: set[tuple[str, str]] = field(default_factory=set)
    """(variable or loop variable's range, key) of every member that is read by a constant name."""
    loops: int = 0
    ranges: set[str] = field(default_factory=set)
    """What loops run over; an empty name is something other than a variable."""
    nested: bool = False
    structs: bool = False


def mentions(serialized: bytes) -> Mentions:
    """Read a serialized checked expression; its depth is bounded by the parser that made it."""
    found = Mentions()
    _visit(_message(_message(serialized, _ANY_VALUE), _CHECKED_EXPR), {}, found)
    return found


def _visit(node: bytes, bound: dict[str, str], found: Mentions) -> None:
    """`bound` maps the loop variables in scope to what they run over."""
    for number, value in _fields(node):
        if number == _IDENT:
            if (name := _text(value, 1)) not in bound:
                found.variables.add(name)
        elif number == _SELECT:
            operand = _message(value, 1)
            found.keys.add((_source(operand, bound), _text(value, 2)))
            _visit(operand, bound, found)
        elif number == _CALL:
            _visit_call(value, bound, found)
        elif number == _LIST:
            for _, element in _repeated(value, 1):
                _visit(element, bound, found)
        elif number == _STRUCT:
            found.structs = True
        elif number == _COMPREHENSION:
            _visit_loop(value, bound, found)


def _visit_call(call: bytes, bound: dict[str, str], found: Mentions) -> None:
    arguments = [argument for _, argument in _repeated(call, 3)]
    if _text(call, 2) == _INDEX and len(arguments) == 2:
        constant = _message(arguments[1], _CONST)
        if key := _message(constant, _CONST_STRING):
            found.keys.add((_source(arguments[0], bound), key.decode()))
    for operand in (_message(call, 1), *arguments):
        _visit(operand, bound, found)


def _visit_loop(loop: bytes, bound: dict[str, str], found: Mentions) -> None:
    found.loops += 1
    over = _message(loop, 2)
    found.nested = found.nested or bool(bound)
    found.ranges.add(_source(over, bound))
    _visit(over, bound, found)
    inner = {**bound, _text(loop, 1): _source(over, bound), _text(loop, 3): ""}
    for part in (4, 5, 6, 7):
        _visit(_message(loop, part), inner, found)


def _source(node: bytes, bound: dict[str, str]) -> str:
    """The variable that a node is, or what a loop variable runs over; empty for any other expression."""
    name = _text(_message(node, _IDENT), 1)
    return bound.get(name, name)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Length-delimited fields of a protobuf message; the others are passed over.

    Wire format: https://protobuf.dev/programming-guides/encoding/
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(message, at)
                yield tag >> 3, message[at : at + length]
                at += length
            case 5:
                at += 4
            case wire:
                raise ValueError(f"protobuf wire type {wire} is not read here")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _repeated(message: bytes, number: int) -> Iterator[tuple[int, bytes]]:
    return (entry for entry in _fields(message) if entry[0] == number)


def _message(message: bytes, number: int) -> bytes:
    return next((value for _, value in _repeated(message, number)), b"")


def _text(message: bytes, number: int) -> str:
    return _message(message, number).decode()
