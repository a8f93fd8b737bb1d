"""What every route of points has in common: reading one tenant's state at an instant, and asking the worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute

from services.points.members.read_store import tenant_clock
from shared.events.catalogue import Data, Time
from shared.http.asking import Answered, Question, StillDeciding, accepted, ask, caught_up, recalled
from shared.http.authentication import requires
from shared.http.credentials import Principal
from shared.http.database import tenant_connection
from shared.http.headers import IdempotencyKey, body_hash, wait_seconds
from shared.http.position import POSITION_HEADER, After, PositionToken
from shared.http.problems import Invalid, problem_responses
from shared.http.routes import router
from shared.runtime.front import Front
from shared.runtime.migrations import Connection
from shared.service import Access

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

WORKER: Final = "points"

Reader = Annotated[Principal, requires("points:read")]
Writer = Annotated[Principal, requires("points:write")]
Publisher = Annotated[Principal, requires("programs:write")]

AsOf = Annotated[Time | None, Query(description="Event time: what was so at that instant (RFC 3339). Empty: now.")]
KnownAt = Annotated[Time | None, Query(description="Log time: only what was written down by then. Empty: all.")]

MAY_WAIT: Final[dict[int | str, dict[str, Any]]] = {
    202: {"description": "In the log, not decided yet: Location says where its outcome will be."},
    **problem_responses(409),
}


async def _known_queries(request: Request) -> None:
    """Refuse a query parameter that the route does not have: a misspelt `as_of` must not answer with today."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = {field.alias for field in route.dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        takes = f"this address takes {', '.join(sorted(known))}" if known else "this address takes none"
        errors = [{"field": f"query.{name[:100]}", "message": f"unknown; {takes}"} for name in unknown]
        raise Invalid(f"Leave out unknown query parameters: {takes}.", errors)


def points_router(*tags: str) -> APIRouter:
    """A router of this service: query parameters that a route does not name are refused."""
    api = router(tags=list(tags))
    api.dependencies.append(Depends(_known_queries))
    return api


@dataclass(frozen=True, slots=True)
class Reading:
    """One caller's read: the position that it must include, and how long it may wait for that."""

    after: PositionToken
    wait_seconds: float

    @asynccontextmanager
    async def state(self, access: Access, tenant: str) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """The tenant's rows as of one instant, once the worker has got there. Raises NotCaughtUp, Unavailable."""
        await caught_up(front_of(access), self.after, self.wait_seconds)
        async with tenant_connection(access.pools[WORKER], tenant) as connection:
            yield connection


async def _reading(after: After, wait: Annotated[float, wait_seconds()]) -> Reading:
    return Reading(after, wait)


Reads = Annotated[Reading, Depends(_reading)]
"""Parameter of every endpoint of points that only reads."""


@dataclass(frozen=True, slots=True)
class Asking:
    """One caller's write: its key, its body as sent, and what it must see before it is decided."""

    request: Request
    key: str
    reading: Reading

    async def decided(self, access: Access, tenant: str, subject: str, data: Data, outcomes: str) -> Answered:
        """Ask the worker. `outcomes` is the address below which this request's outcome will be found.

        The route belongs to the body: a key that was used at another address is refused. Raises what `ask` does.
        """
        route = f"{self.request.method} {self.request.url.path}\n".encode()
        question = Question(
            tenant=tenant,
            subject=subject,
            data=data,
            key=self.key,
            body_hash=body_hash(route + await self.request.body()),
            after=self.reading.after,
            wait_seconds=self.reading.wait_seconds,
            location=f"{outcomes}/{quote(self.key, safe='')}",
        )
        return await ask(front_of(access), question)

    def accepted(self, still: StillDeciding) -> Response:
        """202 with the key to repeat the request with, which may be one that we chose."""
        response = accepted(still)
        response.headers["Idempotency-Key"] = self.key
        return response


async def _asking(
    request: Request, key: IdempotencyKey, after: After, wait: Annotated[float, wait_seconds()]
) -> Asking:
    return Asking(request, key, Reading(after, wait))


Writes = Annotated[Asking, Depends(_asking)]
"""Parameter of every endpoint of points that asks the worker."""


def front_of(access: Access) -> Front:
    return access.fronts[WORKER]


def placed(response: Response, answer: Answered) -> None:
    """Say which position includes what was decided."""
    response.headers[POSITION_HEADER] = answer.position.encode()


async def outcome_of(
    access: Access, tenant: str, key: str, reading: Reading, *, request: str, outcome: str
) -> Answered:
    """What became of an earlier request (the Location of a 202). Raises NotFound, NotCaughtUp, Refusal."""
    front = front_of(access)
    await caught_up(front, reading.after, reading.wait_seconds)
    return await recalled(front, tenant, key, reading.wait_seconds, request=request, outcome=outcome)


async def tenant_now(access: Access, connection: Connection, tenant: str) -> datetime:
    """The tenant's time: its test clock, or the host's."""
    return await tenant_clock(connection, tenant) or access.now()
