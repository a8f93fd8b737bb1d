"""What the callers of a round sent, and exactly what they were told."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Named = tuple[str, str]
"""A sender's (source, id)."""
Body = dict[str, Any]


class Defect(AssertionError):
    """Something that no kill excuses."""


@dataclass(frozen=True)
class Answer:
    """One answer: its status, its JSON and its position. `content` says which body it answers, counted from 0."""

    status: int
    body: Body
    position: str = ""
    content: int = 0


@dataclass
class EventNote:
    """All that was sent under one source and id. The first content is the true one, the others are conflicts."""

    contents: list[Body]
    told: list[Answer] = field(default_factory=list)

    @property
    def acknowledged(self) -> bool:
        return any(answer.content == 0 and answer.status in (200, 202) for answer in self.told)


@dataclass
class RequestNote:
    """All that was asked under one idempotency key: one body, and what was answered each time."""

    worker: str
    path: str
    body: Body
    told: list[Answer] = field(default_factory=list)

    @property
    def decided(self) -> list[Answer]:
        return [answer for answer in self.told if answer.status in (200, 201, 409)]


@dataclass
class Notebook:
    """Everything that the outside world knows of a round."""

    events: dict[Named, EventNote] = field(default_factory=dict)
    requests: dict[str, RequestNote] = field(default_factory=dict)
    reused: int = 0
    """Keys sent again with another body, and refused as they must be."""
    unknown: int = 0
    """Sendings without an answer: the connection broke, or the time was out."""

    def purchases(self) -> Iterator[tuple[Named, EventNote]]:
        for named, note in self.events.items():
            if note.contents[0]["type"] == "purchase.completed":
                yield named, note
