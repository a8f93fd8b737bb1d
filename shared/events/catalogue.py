"""The catalogue: each event type declared once, by its owner, with an example. Only the owner may emit it.

A released type is never edited. Added optional fields keep its version; anything else is a new version, declared
beside the old one, and an `upcast` from the old to the new, so that `read` always answers with the newest.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic._internal._model_construction import ModelMetaclass  # the only name of a model's type
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from shared.events.envelope import Event, instant, parse_instant

POINTS_MAX: Final = 10**15
"""Bound on every amount and number of points, so that sums of many stay within 64 bits."""

Points = Annotated[int, Field(strict=True, ge=-POINTS_MAX, le=POINTS_MAX)]
AmountMinor = Annotated[int, Field(strict=True, ge=-POINTS_MAX, le=POINTS_MAX)]
"""Money in the currency's minor unit (ISO 4217)."""


def _in_utc(given: object) -> datetime:
    if isinstance(given, datetime):
        if given.tzinfo is UTC:
            return given
        return parse_instant(instant(given), "the time")
    if isinstance(given, str):
        return parse_instant(given, "the time")
    raise ValueError("must be RFC 3339 text with a zone, as 2026-01-31T12:00:00Z")


Time = Annotated[AwareDatetime, BeforeValidator(_in_utc)]
"""An instant in UTC. A time without a zone and a number of seconds are refused, another zone is converted."""


class SealedMarker:
    """Marks a field that is sealed under its contact's key before it leaves the worker."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), "x-sealed": True}


Sealed = Annotated[str, SealedMarker()]
"""Plain text while deciding; `sealed.v1.<key id>.<base64url>` in the event and in state."""


class _PlainType(ModelMetaclass):
    """Classes of event data are asked for in every `match`: by plain inheritance, not by abstract-class look-ups."""

    __instancecheck__ = type.__instancecheck__


class Data(BaseModel, metaclass=_PlainType):
    """The data of an event. Unknown fields are passed over: an added optional field keeps the version."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


@dataclass(frozen=True)
class EventType:
    """One declared type.

    `kind`: a fact changes its own worker's state when decided; a letter changes nothing of the sender's. A request is
    what an inbox accepts and never stands on the stream. `everywhere`: sent to all partitions (tenant-wide).
    """

    name: str
    owner: str
    kind: Literal["fact", "letter", "request"]
    data: type[Data]
    everywhere: bool
    summary: str
    example: Mapping[str, Any]

    @property
    def family(self) -> str:
        """The name without its version: `purchase.completed`."""
        return self.name.rpartition(".v")[0]

    @property
    def version(self) -> int:
        return int(self.name.rpartition(".v")[2])


class UnknownType(LookupError):
    """No declaration of this type or version: deploy readers first."""


class InvalidData(ValueError):
    """The data does not fit its declared type; the message names each field."""


D = TypeVar("D", bound=type[Data])
Upcaster = TypeVar("Upcaster", bound=Callable[[Any], Data])

_NAME = re.compile(r"[a-z]+(\.[a-z_]+)*\.v[1-9][0-9]*")
_PROBLEMS_MAX = 10


class Catalogue:
    """A registry of event types and of the steps from old versions to new ones."""

    def __init__(self) -> None:
        self._types: dict[str, EventType] = {}
        self._unlisted: set[str] = set()
        self._by_class: dict[type[Data], EventType] = {}
        self._steps: dict[str, tuple[EventType, Callable[[Any], Data]]] = {}

    def declare(
        self,
        name: str,
        owner: str,
        kind: Literal["fact", "letter", "request"],
        example: Mapping[str, Any],
        *,
        everywhere: bool = False,
        listed: bool = True,
    ) -> Callable[[D], D]:
        """Class decorator: the class's docstring is the type's summary, `example` must be valid data of it.

        A type that is not `listed` (a test's) is found and read as others are, but not among `every`.
        Raises ValueError for a name that is taken or not `<noun>.<what happened>.v<n>`, and for a class used twice.
        """

        def register(data: D) -> D:
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{name} is not a name like purchase.completed.v1")
            if name in self._types or data in self._by_class:
                raise ValueError(f"{name} or its class {data.__name__} is declared twice")
            summary = (data.__dict__.get("__doc__") or "").strip()
            if not listed:
                self._unlisted.add(name)
            self._types[name] = self._by_class[data] = EventType(name, owner, kind, data, everywhere, summary, example)
            return data

        return register

    def upcast(self, from_name: str, to_name: str) -> Callable[[Upcaster], Upcaster]:
        """Function decorator: the pure step from a version's model to the next version's. Both are declared before.

        Raises ValueError for a step between families or not to the version after, or one that is there already.
        """
        old, new = self.find(from_name), self.find(to_name)
        if old.family != new.family or new.version != old.version + 1 or from_name in self._steps:
            raise ValueError(f"an upcast goes once from each version to the next, not {from_name} to {to_name}")

        def register(step: Upcaster) -> Upcaster:
            self._steps[from_name] = (new, step)
            return step

        return register

    def type_of(self, data: Data) -> EventType:
        return self._by_class[type(data)]

    def find(self, name: str) -> EventType:
        """The declaration of exactly this version; raises UnknownType."""
        try:
            return self._types[name]
        except KeyError:
            raise UnknownType(f"event type {name[:100]!r} is not in the catalogue") from None

    def newest(self, name: str) -> EventType:
        """What `read` answers with for an event of this type; raises UnknownType."""
        declared = self.find(name)
        while declared.name in self._steps:
            declared = self._steps[declared.name][0]
        return declared

    def known(self, name: str) -> bool:
        return name in self._types

    def every(self) -> list[EventType]:
        """All listed types by name, old versions too."""
        return [self._types[name] for name in sorted(self._types.keys() - self._unlisted)]

    def read(self, event: Event) -> Event:
        """The event with its data as the declared model, an old version as its newest.

        Raises UnknownType or InvalidData.
        """
        name = event.type
        try:
            data: Data = self.find(name).data.model_validate(event.data)
        except ValidationError as error:
            raise InvalidData(f"{name}: {_problems(error)}") from None
        if name in self._steps:
            name, data = self._raised(name, data)
        return _with_data(event, name, data)

    def _raised(self, name: str, data: Data) -> tuple[str, Data]:
        while name in self._steps:
            declared, step = self._steps[name]
            name, data = declared.name, step(data)
            if type(data) is not declared.data:
                raise TypeError(f"the upcast to {name} answered with {type(data).__name__}")
        return name, data


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    named = [f"{'.'.join(map(str, each['loc'])) or 'data'}: {each['msg']}" for each in found[:_PROBLEMS_MAX]]
    more = [f"and {len(found) - _PROBLEMS_MAX} more"] if len(found) > _PROBLEMS_MAX else []
    return "; ".join(named + more)


def _with_data(event: Event, name: str, data: Data) -> Event:
    # positional and in full: dataclasses.replace costs six times as much, and every event passes here
    return Event(
        event.id,
        event.source,
        name,
        event.tenant,
        event.subject,
        event.time,
        data,
        event.producer,
        event.sequence,
        event.cause,
        event.recorded_at,
        event.correlation_id,
        event.trace_parent,
        event.request_key,
        event.request_hash,
        event.extensions,
    )


CATALOGUE: Final = Catalogue()
"""What Regulars declares; the functions below are its methods."""

declare = CATALOGUE.declare
upcast = CATALOGUE.upcast
type_of = CATALOGUE.type_of
find = CATALOGUE.find
newest = CATALOGUE.newest
known = CATALOGUE.known
every = CATALOGUE.every
read = CATALOGUE.read


def load_all() -> None:
    """Import every declaring module, for tools that show the whole catalogue."""
    for owner in ("runtime", "contacts", "door", "points"):
        importlib.import_module(f"shared.events.{owner}")
