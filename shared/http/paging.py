"""Keyset paging: a page ends with an opaque cursor that names the last row's key, so no row is skipped or repeated."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from shared.http import tokens
from shared.http.problems import BadCursor

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200
INTEGER_MAX: Final = 2**63 - 1
DETAIL: Final = "Send `next` of the page before, unchanged and to the same address; or leave cursor out to begin anew."

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Rows a page.")]
Cursor = Annotated[str | None, Query(max_length=tokens.TOKEN_CHARACTERS_MAX, description="`next` of the page before.")]

KeyPart = str | int | datetime
Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some rows of a list, and where to go on."""

    items: list[Item]
    next: str | None = Field(None, description="Send it as `cursor`; null when this page is the last.")


@dataclass(frozen=True, slots=True)
class Keyset:
    """A list's sort key: its name (a cursor of one list is refused by another) and the types of its parts."""

    name: str
    parts: tuple[type[str] | type[int] | type[datetime], ...]

    def encode(self, key: tuple[KeyPart, ...]) -> str:
        """The cursor of a row's key; raises TypeError when the key is not of this list."""
        if tuple(map(type, key)) != self.parts:
            raise TypeError(f"{self.name} is not sorted by {[type(part).__name__ for part in key]}")
        return tokens.encode([self.name, *key])

    def decode(self, cursor: str) -> tuple[Any, ...]:
        """The key that a page goes on after, typed as `parts`; raises BadCursor."""
        try:
            value = tokens.decode(cursor)
            if not isinstance(value, list) or len(value) != len(self.parts) + 1 or value[0] != self.name:
                raise ValueError("another list's cursor")
            return tuple(_part(part, kind) for part, kind in zip(value[1:], self.parts, strict=True))
        except ValueError:
            raise BadCursor(DETAIL) from None

    def page(self, rows: list[Item], keys: list[tuple[KeyPart, ...]], limit: int) -> Page[Item]:
        """A page of up to `limit` of these rows, which were read with `limit + 1`; `keys` are theirs, in order."""
        if len(rows) <= limit:
            return Page(items=rows)
        return Page(items=rows[:limit], next=self.encode(keys[limit - 1]))


def _part(part: object, kind: type[str] | type[int] | type[datetime]) -> KeyPart:
    if kind is datetime and isinstance(part, str):
        moment = datetime.fromisoformat(part)
        if moment.tzinfo is None:
            raise ValueError("a time without zone")
        return moment
    if kind is int and type(part) is int and -INTEGER_MAX <= part <= INTEGER_MAX:
        return part
    if kind is str and isinstance(part, str) and "\0" not in part:
        return part
    raise ValueError("another type")
