"""What a worker's runtime must know of a service, and all it knows: tables and pure functions over their rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

from shared.events.envelope import Event
from shared.runtime.tables import Need, Rows, Table


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to decide on: a request from the inbox, an event from the stream, or a timer that is due."""

    kind: Literal["request", "event", "timer"]
    event: Event
    """The envelope; `data` is the declared model of its type. A timer's has type `timer` and data None."""
    now: datetime
    """The decision's time (DESIGN §5), never before an earlier `now` of the same subject."""
    cause: str
    partition: int
    """The worker's partition q."""


class Draft(NamedTuple):
    """An event that a decision asks for. Its type is that of its data's class in the catalogue, which also says
    whether it is a fact or a letter, and whether it goes to the subject's partition or to all of them. `decide` returns
    facts only; letters follow from them (`Rules.letters`)."""

    data: Any
    subject: str = ""
    """The contact it is about; empty means the input's."""
    time: datetime | None = None
    """When it happened; None means the input's own time."""
    source: str = ""
    """A sender's source and id are kept on what the door recorded of them; empty means ours."""
    id: str = ""


class Refused(Exception):
    """Raised by `decide` for a request that a rule forbids: recorded as `request.refused.v1`, answered as 409.

    `reason` is a stable kebab-case code, `detail` says what to do.
    """

    def __init__(self, reason: str, detail: str, **facts: Any) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.facts = reason, detail, facts


class Rules(Protocol):
    """A service's decisions. Every method is pure but for the rows it puts: no clock, random, I/O or logging."""

    worker: str
    tables: Sequence[Table[Any]]
    requests: frozenset[str]
    """Types accepted in the inbox."""
    reads: frozenset[str]
    """Types read from the stream (others' events and letters); all else is passed over."""
    fold_version: int
    """Raised by a release that folds differently; its deployment ends in a rebuild."""
    settles: bool
    """True: every fact is about a subject of the worker's own partition, which has a last `now` and a timer. False for
    the door, whose facts are about contacts of any partition and which keeps no time of its own."""

    def needs(self, event: Event, partition: int) -> Iterable[Need]:
        """All groups that deciding on this input, or folding this event, may read or put."""
        ...

    def absorb(self, rows: Rows, event: Event, partition: int) -> None:
        """Fold an event of the stream that is not an own fact into the tables fed by others."""
        ...

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        """What follows from this input. For a request, the first draft is its outcome. Raises Refused."""
        ...

    def evolve(self, rows: Rows, event: Event) -> None:
        """Fold an own fact into the tables fed by own facts."""
        ...

    def letters(self, fact: Event) -> Sequence[Draft]:
        """The letters that follow from an own fact, from the fact alone: so a rebuild can send a missing one again."""
        ...

    def due_at(self, rows: Rows, tenant: str, subject: str) -> datetime | None:
        """The earliest instant at which something of this subject falls due, or None.

        A timer input decides all that is due at exactly that instant, so that the next due time is later.
        """
        ...
