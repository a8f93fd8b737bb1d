"""A write of an API: put the request into the worker's inbox, wait, answer with what was decided (DESIGN §7)."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import Response

from shared.events import catalogue
from shared.events.catalogue import Data
from shared.events.envelope import Event
from shared.http.position import POSITION_HEADER, PositionToken
from shared.http.problems import BadPosition, Fault, KeyReused, NotCaughtUp, NotFound, Refusal, Unavailable
from shared.log.port import AppendFailed, EntryRefused, LogUnavailable
from shared.runtime.front import AheadOfLog, Asked, Front
from shared.runtime.store import StoreUnavailable
from shared.telemetry import correlation_id

REFUSED = "request.refused.v1"
PARKED = "input.parked.v1"


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a caller. `after` is what must be applied before it is appended."""

    tenant: str
    subject: str
    data: Data
    key: str
    body_hash: str
    after: PositionToken
    wait_seconds: float
    location: str
    """Where to ask again when the wait runs out."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A decided request: the outcome's event id, type, data and subject, and the position that includes it."""

    event_id: str
    type: str
    data: Any
    position: PositionToken
    subject: str


class StillDeciding(Exception):
    """The wait ran out: answered as 202 by `accepted`."""

    def __init__(self, location: str, position: PositionToken) -> None:
        super().__init__(location)
        self.location, self.position = location, position


async def caught_up(front: Front, after: PositionToken, wait_seconds: float) -> None:
    """Wait until the worker has reached `after`. Raises NotCaughtUp, BadPosition (ahead of the log, or a position
    that only another service can await)."""
    inbox = after.inboxes.get(front.worker, {})
    if others := sorted(after.inboxes.keys() - {front.worker}):
        raise BadPosition(
            f"Only {', '.join(others)} can await this position: ask there for the stream's position first."
        )
    try:
        if await front.wait(inbox=inbox, events=after.events, wait_seconds=wait_seconds):
            return
        await front.refuse_ahead(inbox=inbox, events=after.events)
    except AheadOfLog as error:
        raise BadPosition(f"{error}. Send a Regulars-Position of this system, unchanged.") from None
    except (StoreUnavailable, LogUnavailable) as error:
        raise Unavailable("The database or the log cannot be reached; try again.") from error
    raise NotCaughtUp("This service has not reached the position yet; try again.")


async def ask(front: Front, question: Question) -> Answered:
    """Decide a request and return its outcome.

    Raises Refusal (409, recorded), KeyReused (422), StillDeciding, Unavailable, Fault.
    """
    if question.after:
        await caught_up(front, question.after, question.wait_seconds)
    event = Event(
        id=question.key,
        source=f"/{front.worker}/api",
        type=catalogue.type_of(question.data).name,
        tenant=question.tenant,
        subject=question.subject,
        time=datetime.now(UTC),
        data=question.data,
        correlation_id=correlation_id.get(),
        request_key=question.key,
        request_hash=question.body_hash,
    )
    try:
        asked = await front.ask(event, question.wait_seconds)
    except (AppendFailed, LogUnavailable, StoreUnavailable) as error:
        raise Unavailable("It is not known whether the request was kept: repeat it with the same key.") from error
    except EntryRefused as error:
        raise Fault(str(error)) from error
    position = PositionToken({front.worker: {asked.partition: asked.offset + 1}})
    if asked.outcome is None:
        raise StillDeciding(question.location, position)
    return answered(asked, question.body_hash, PositionToken({}, {asked.partition: asked.published}))


def answered(asked: Asked, body_hash: str, position: PositionToken) -> Answered:
    """The outcome as an answer, or the problem that it is."""
    outcome = asked.outcome
    assert outcome is not None
    if outcome.body_hash != body_hash:
        raise KeyReused("This Idempotency-Key was used with another body: send a new key, or the same body.")
    data = orjson.loads(outcome.outcome)
    if outcome.type == REFUSED:
        facts = {
            name: value for name, value in data["facts"].items() if name not in ("type", "title", "status", "detail")
        }
        problem = Refusal(data["reason"], data["detail"], **facts)
        problem.headers[POSITION_HEADER] = position.encode()
        raise problem
    if outcome.type == PARKED:
        raise Fault("The request was kept, but deciding on it failed: it is parked and a person will look at it.")
    return Answered(outcome.event_id, outcome.type, data, position, outcome.subject)


async def recalled(front: Front, tenant: str, key: str, wait_seconds: float, *, request: str, outcome: str) -> Answered:
    """What became of the request of this type that was asked with this key: the answer behind the Location of a 202.

    `outcome` is the type of the fact that grants it. Raises what `ask` does, NotFound when there is no such outcome,
    NotCaughtUp when the log has not acknowledged it in time.
    """
    try:
        asked = await front.recall(tenant, key, wait_seconds)
    except (LogUnavailable, StoreUnavailable) as error:
        raise Unavailable("The database or the log cannot be reached; try again.") from error
    if asked is None or not _is_of(asked, request, outcome):
        raise NotFound(
            "Nothing was decided under this key here: check it, and send the position of the 202 as Regulars-After."
        )
    assert asked.outcome is not None
    if not asked.published:
        raise NotCaughtUp("It is decided, but the log has not acknowledged it yet; try again.")
    position = PositionToken({}, {asked.partition: asked.published})
    return answered(asked, asked.outcome.body_hash, position)


def _is_of(asked: Asked, request: str, outcome: str) -> bool:
    found = asked.outcome
    if found is None or found.type != REFUSED:
        return found is not None and found.type in (outcome, PARKED)
    return bool(orjson.loads(found.outcome)["request"] == request)


def accepted(still: StillDeciding) -> Response:
    """202: the request is in the log and will be decided; ask at `Location`, or repeat it with the same key."""
    headers = {"Location": still.location, POSITION_HEADER: still.position.encode()}
    return Response(orjson.dumps({"status": "accepted"}), 202, headers=headers, media_type="application/json")
