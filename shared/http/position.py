"""Read your writes (DESIGN §7): `Regulars-Position` out, `Regulars-After` in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Self

from fastapi import Depends, Header

from shared.http import tokens
from shared.http.problems import BadPosition
from shared.log.port import PARTITIONS

POSITION_HEADER: Final = "Regulars-Position"
AFTER_HEADER: Final = "Regulars-After"
WORKERS_MAX: Final = 16
AFTER_TOKENS_MAX: Final = 16
OFFSET_MAX: Final = 2**63 - 1
DETAIL: Final = "Send a Regulars-Position as it was answered, unchanged; or leave Regulars-After out."

_WORKER = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")

Offsets = Mapping[int, int]
"""Next offset by partition: everything before it is included."""


@dataclass(frozen=True, slots=True)
class PositionToken:
    """How far a service must have read: in workers' inboxes, and in the stream."""

    inboxes: Mapping[str, Offsets] = field(default_factory=dict)
    events: Offsets = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inboxes or self.events)

    def merge(self, other: Self) -> "PositionToken":
        """The position that includes both; commutes, and merging again changes nothing."""
        workers = self.inboxes.keys() | other.inboxes.keys()
        return PositionToken(
            {worker: _furthest(self.inboxes.get(worker, {}), other.inboxes.get(worker, {})) for worker in workers},
            _furthest(self.events, other.events),
        )

    def encode(self) -> str:
        """{"i": {worker: {partition: next offset}}, "e": {partition: next offset}} as an opaque token."""
        body: dict[str, Any] = {}
        if self.inboxes:
            body["i"] = {worker: dict(offsets) for worker, offsets in self.inboxes.items()}
        if self.events:
            body["e"] = dict(self.events)
        return tokens.encode(body)

    @classmethod
    def decode(cls, text: str) -> "PositionToken":
        """Raises BadPosition for anything that `encode` did not make."""
        try:
            body = tokens.decode(text)
            if not isinstance(body, dict) or body.keys() - {"i", "e"}:
                raise ValueError("unknown members")
            inboxes = body.get("i", {})
            if not isinstance(inboxes, dict) or len(inboxes) > WORKERS_MAX or not all(map(_WORKER.match, inboxes)):
                raise ValueError("not inboxes")
            return cls({worker: _offsets(part) for worker, part in inboxes.items()}, _offsets(body.get("e", {})))
        except ValueError:
            raise BadPosition(DETAIL) from None


def _furthest(one: Offsets, other: Offsets) -> dict[int, int]:
    return {at: max(one.get(at, 0), other.get(at, 0)) for at in sorted(one.keys() | other.keys())}


_PARTITION_NAMES: Final = {str(at): at for at in range(PARTITIONS)}


def _offsets(part: object) -> dict[int, int]:
    if not isinstance(part, dict):
        raise ValueError("not offsets")
    offsets = {}
    for name, offset in part.items():
        if name not in _PARTITION_NAMES or type(offset) is not int or not 0 <= offset <= OFFSET_MAX:
            raise ValueError("not an offset of a partition")
        offsets[_PARTITION_NAMES[name]] = offset
    return offsets


async def _after(
    regulars_after: Annotated[
        list[str] | None,
        Header(description="A Regulars-Position answered earlier (or several): what this request must see."),
    ] = None,
) -> PositionToken:
    texts = [text.strip() for line in regulars_after or () for text in line.split(",") if text.strip()]
    if len(texts) > AFTER_TOKENS_MAX:
        raise BadPosition(f"Send at most {AFTER_TOKENS_MAX} position tokens.")
    merged = PositionToken()
    for text in texts:
        merged = merged.merge(PositionToken.decode(text))
    return merged


After = Annotated[PositionToken, Depends(_after)]
"""Parameter of an endpoint: the position of `Regulars-After`, empty when it was not sent."""
