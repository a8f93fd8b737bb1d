"""Events that every worker may emit through the runtime: outcomes of its own, not of a service's rules."""

from typing import Any

from pydantic import Field

from shared.events.catalogue import Data, Time, declare

ANY_WORKER = "runtime"


@declare(
    "request.refused.v1",
    ANY_WORKER,
    "fact",
    {"request": "points.redeem.v1", "reason": "not-enough-points", "detail": "120 available, 500 asked", "facts": {}},
)
class RequestRefused(Data):
    """A request was decided and refused by a rule."""

    request: str
    reason: str
    detail: str
    facts: dict[str, Any] = Field(default_factory=dict)


@declare(
    "input.parked.v1",
    ANY_WORKER,
    "fact",
    {
        "topic": "regulars.inbox.points.1",
        "partition": 3,
        "offset": 17,
        "reason": "not JSON",
        "sealed": "sealed.v1.k1.AAAA",
        "readable_until": "2026-12-01T00:00:00Z",
    },
)
class InputParked(Data):
    """An inbox record could not be decoded, or its decision raised; it waits for a person."""

    topic: str
    partition: int
    offset: int
    reason: str
    sealed: str
    readable_until: Time


@declare(
    "input.retry.v1",
    ANY_WORKER,
    "request",
    {"topic": "regulars.inbox.points.1", "partition": 3, "offset": 17, "value": "eyJzcGVjdmVyc2lvbiI6IjEuMCJ9"},
)
class RetryInput(Data):
    """Decide a parked input again; `value` is its bytes in base64, unsealed by whoever asks."""

    topic: str
    partition: int
    offset: int
    value: str


@declare("input.retried.v1", ANY_WORKER, "fact", {"topic": "regulars.inbox.points.1", "partition": 3, "offset": 17})
class InputRetried(Data):
    """A parked input was decided again; what came of it stands beside this event."""

    topic: str
    partition: int
    offset: int
