"""`/v1/tenants`, `/v1/credentials`, `/v1/clock`: who may come in, and what time it is for them.

Each write concerns a tenant as a whole: its position is the stream's end on every partition once the letters to all of
them are acknowledged, so that any service can await what follows from it.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from secrets import token_hex
from typing import Annotated, Any, Final

import asyncpg
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from services.contacts.tenants.domain import TenantRow
from services.contacts.tenants.store import find_tenant, list_credentials
from shared.events.catalogue import Data, Time
from shared.events.contacts import (
    TENANT_SUBJECT,
    AdvanceClock,
    CreateTenant,
    IssueCredential,
    RevokeCredential,
    TenantSettings,
)
from shared.http.asking import Answered, Question, StillDeciding, accepted, ask, caught_up
from shared.http.authentication import requires
from shared.http.credentials import OPERATOR, Credentials, Principal, new_secret, secret_hash
from shared.http.database import tenant_connection
from shared.http.headers import IdempotencyKey, body_hash, wait_seconds
from shared.http.paging import LIMIT_DEFAULT, Cursor, Keyset, Limit, Page
from shared.http.position import POSITION_HEADER, After, PositionToken
from shared.http.problems import Invalid, MissingScope, NotFound, Unavailable, problem_responses
from shared.http.routes import router
from shared.log.port import LogUnavailable
from shared.runtime.store import StoreUnavailable
from shared.service import Access

SCOPES: Final = (
    "clock:write",
    "credentials:write",
    "events:read",
    "events:write",
    "points:read",
    "points:write",
    "programs:write",
    "tenants:read",
)
"""What an API key can be allowed to do, in all services together."""

BY_CREDENTIAL_ID: Final = Keyset("credentials", (str,))
FIRST_CREDENTIAL: Final = "first"
ONCE: Final = "Shown once and kept nowhere; null when this request was answered before."
MAY_WAIT: Final[dict[int | str, dict[str, Any]]] = {
    202: {
        "description": "In the log, not decided yet: repeat the request with its Idempotency-Key, answered here too."
    },
    **problem_responses(409),
}

TenantName = Annotated[
    str, Field(pattern="^[a-z0-9][a-z0-9-]{0,62}$", description="Small letters, digits and dashes; never changes.")
]
TenantPath = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
Wait = Annotated[float, wait_seconds()]


class NewTenant(TenantSettings):
    """A tenant to create; with `clock_at` it runs on a test clock that begins there and never runs by itself."""

    model_config = ConfigDict(extra="forbid")

    tenant: TenantName


class NewCredential(BaseModel):
    """An API key to issue."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="What it is for, as `till 3`.")
    scopes: list[str] = Field(min_length=1, max_length=50, description=f"Of {', '.join(SCOPES)}.")


class NewTime(BaseModel):
    """Where to move a test clock: forward, a day at most."""

    model_config = ConfigDict(extra="forbid")

    to: Time


class TenantAnswer(BaseModel):
    """A tenant as it stands."""

    tenant: str
    name: str
    zone: str = Field(description="IANA time zone of expiry, windows and reports.")
    currency: str
    clock_at: datetime | None = Field(description="Where its test clock stands; null on real time.")


class CredentialAnswer(BaseModel):
    """An API key as it is known afterwards."""

    credential_id: str
    name: str
    scopes: list[str]
    revoked: bool = False


class IssuedCredential(CredentialAnswer):
    """An API key just issued."""

    api_key: str | None = Field(description=ONCE)


class CreatedTenant(TenantAnswer):
    """A tenant just created, and its first API key, which has all scopes."""

    credential_id: str
    scopes: list[str]
    api_key: str | None = Field(description=ONCE)


class ClockAnswer(BaseModel):
    """What time it is for a tenant."""

    at: datetime
    test_clock: bool = Field(description="Whether it moves by POST only.")


@dataclass(frozen=True, slots=True)
class Asking:
    """One caller's write: what every question of these routes has in common."""

    access: Access
    request: Request
    tenant: str
    key: str
    after: PositionToken
    wait_seconds: float

    async def decided(self, data: Data, key: str = "") -> Answered:
        """Ask the contacts worker; `key` when one request asks twice. Raises what `ask` does."""
        sent = await self.request.body()
        route = f"{self.request.method} {self.request.url.path}\n".encode()
        question = Question(
            tenant=self.tenant,
            subject=TENANT_SUBJECT,
            data=data,
            key=key or self.key,
            body_hash=body_hash(route + sent),
            after=self.after,
            wait_seconds=self.wait_seconds,
            location=self.request.url.path,
        )
        return await ask(self.access.fronts["contacts"], question)

    async def issued(self, wanted: NewCredential, key: str = "") -> IssuedCredential:
        """Issue an API key. Repeated, it is the same one, and its text is not known any more."""
        secret = new_secret()
        asked = IssueCredential(
            credential_id=f"k_{token_hex(8)}",
            secret_hash=secret_hash(secret),
            scopes=tuple(sorted(set(wanted.scopes))),
            name=wanted.name,
        )
        data = (await self.decided(asked, key)).data
        return IssuedCredential(
            credential_id=data["credential_id"],
            name=data["name"],
            scopes=list(data["scopes"]),
            api_key=secret if data["secret_hash"] == asked.secret_hash else None,
        )

    async def told_everywhere(self, response: Response) -> None:
        """Set the position that includes the letters of what was decided.

        The outcome was answered after its relay had all its letters acknowledged, so the ends of now are beyond them.
        """
        try:
            ends = await self.access.fronts["contacts"].stream_ends()
        except LogUnavailable as error:
            raise Unavailable("It is done, but the log cannot be reached: repeat it with the same key.") from error
        response.headers[POSITION_HEADER] = PositionToken({}, ends).encode()
        with suppress(StoreUnavailable):
            await self.access.fronts["door"].wait(inbox={}, events=ends, wait_seconds=self.wait_seconds)

    def accepted(self, still: StillDeciding) -> Response:
        """202 with the key to repeat the request with, which may be one that we chose."""
        response = accepted(still)
        response.headers["Idempotency-Key"] = self.key
        return response


def routes(access: Access) -> APIRouter:
    """The routes about a tenant as a whole."""
    api = router(tags=["tenants"])
    _tenants(api, access)
    _operators_credentials(api, access)
    _credentials(api, access)
    _clock(api, access)
    return api


def _tenants(api: APIRouter, access: Access) -> None:
    @api.post("/v1/tenants", status_code=201, response_model=CreatedTenant, responses=MAY_WAIT)
    async def create(
        request: Request,
        response: Response,
        new: NewTenant,
        key: IdempotencyKey,
        after: After,
        wait: Wait,
        _: Annotated[Principal, requires(OPERATOR)],
    ) -> CreatedTenant | Response:
        """Create a tenant and its first API key, with the operator's key.

        Repeated with the same Idempotency-Key, it is the same tenant and `api_key` is null: no key can be shown twice.
        Lost it? `POST /v1/tenants/{tenant}/credentials` issues another.
        """
        asking = Asking(access, request, new.tenant, key, after, wait)
        try:
            created = await asking.decided(CreateTenant(**new.model_dump(exclude={"tenant"})))
            first = NewCredential(name=FIRST_CREDENTIAL, scopes=list(SCOPES))
            # No caller's key has a space in it, so this one is nobody else's.
            issued = await asking.issued(first, f"{key} {FIRST_CREDENTIAL}")
        except StillDeciding as still:
            return asking.accepted(still)
        await asking.told_everywhere(response)
        known = CreateTenant.model_validate(created.data)
        return CreatedTenant(
            tenant=new.tenant,
            name=known.name,
            zone=known.zone,
            currency=known.currency,
            clock_at=known.clock_at,
            credential_id=issued.credential_id,
            scopes=issued.scopes,
            api_key=issued.api_key,
        )

    @api.get("/v1/tenants/current")
    async def current(caller: Annotated[Principal, requires("tenants:read")], after: After, wait: Wait) -> TenantAnswer:
        """The tenant of the API key that asks."""
        row = await _tenant(access, caller.tenant, after, wait)
        return TenantAnswer(tenant=row.tenant, name=row.name, zone=row.zone, currency=row.currency, clock_at=row.clock)


def _operators_credentials(api: APIRouter, access: Access) -> None:
    @api.post("/v1/tenants/{tenant}/credentials", status_code=201, response_model=IssuedCredential, responses=MAY_WAIT)
    async def issue_as_operator(
        request: Request,
        response: Response,
        tenant: TenantPath,
        new: NewCredential,
        key: IdempotencyKey,
        after: After,
        wait: Wait,
        _: Annotated[Principal, requires(OPERATOR)],
    ) -> IssuedCredential | Response:
        """Issue an API key for any tenant, with the operator's key: when its own are lost, or lack a new scope."""
        return await _issue(Asking(access, request, tenant, key, after, wait), new, response)


def _credentials(api: APIRouter, access: Access) -> None:
    @api.post("/v1/credentials", status_code=201, response_model=IssuedCredential, responses=MAY_WAIT)
    async def issue(
        request: Request,
        response: Response,
        new: NewCredential,
        key: IdempotencyKey,
        after: After,
        wait: Wait,
        caller: Annotated[Principal, requires("credentials:write")],
    ) -> IssuedCredential | Response:
        """Issue a further API key. It may do at most what the key may do that issues it."""
        if beyond := sorted(set(new.scopes).intersection(SCOPES) - caller.scopes):
            raise MissingScope(f"Use an API key that has {', '.join(beyond)} itself.", scope=beyond[0])
        return await _issue(Asking(access, request, caller.tenant, key, after, wait), new, response)

    @api.get("/v1/credentials")
    async def listed(
        caller: Annotated[Principal, requires("credentials:write")],
        after: After,
        wait: Wait,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Page[CredentialAnswer]:
        """All API keys by credential_id, revoked ones included; what opens the door is never shown again."""
        (behind,) = BY_CREDENTIAL_ID.decode(cursor) if cursor else ("",)
        await caught_up(access.fronts["contacts"], after, wait)
        async with tenant_connection(access.pools["contacts"], caller.tenant) as connection:
            rows = await list_credentials(connection, caller.tenant, behind, limit + 1)
        shown = [
            CredentialAnswer(
                credential_id=row.credential_id, name=row.name, scopes=row.scopes.split(), revoked=row.revoked
            )
            for row in rows
        ]
        return BY_CREDENTIAL_ID.page(shown, [(row.credential_id,) for row in rows], limit)

    @api.delete("/v1/credentials/{credential_id}", response_model=CredentialAnswer, responses=MAY_WAIT)
    async def revoke(
        request: Request,
        response: Response,
        credential_id: Annotated[str, Path(max_length=64)],
        key: IdempotencyKey,
        after: After,
        wait: Wait,
        caller: Annotated[Principal, requires("credentials:write")],
    ) -> CredentialAnswer | Response:
        """Revoke an API key: at once for this process, within seconds for every other."""
        asking = Asking(access, request, caller.tenant, key, after, wait)
        try:
            data = (await asking.decided(RevokeCredential(credential_id=credential_id))).data
        except StillDeciding as still:
            return asking.accepted(still)
        await asking.told_everywhere(response)
        credentials: Credentials = request.app.state.credentials
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await credentials.refresh(access.pools["door"])
        return CredentialAnswer(
            credential_id=credential_id, name=data["name"], scopes=list(data["scopes"]), revoked=True
        )


def _clock(api: APIRouter, access: Access) -> None:
    @api.post("/v1/clock", response_model=ClockAnswer, responses=MAY_WAIT)
    async def advance(
        request: Request,
        response: Response,
        new: NewTime,
        key: IdempotencyKey,
        after: After,
        wait: Wait,
        caller: Annotated[Principal, requires("clock:write")],
    ) -> ClockAnswer | Response:
        """Move the tenant's test clock forward, a day at most.

        The position answered covers the news of it on every partition: await it on each service, then what falls due
        until then has been decided there.
        """
        asking = Asking(access, request, caller.tenant, key, after, wait)
        try:
            data = (await asking.decided(AdvanceClock(to=new.to))).data
        except StillDeciding as still:
            return asking.accepted(still)
        await asking.told_everywhere(response)
        return ClockAnswer(at=AdvanceClock.model_validate(data).to, test_clock=True)

    @api.get("/v1/clock")
    async def clock(caller: Annotated[Principal, requires("tenants:read")], after: After, wait: Wait) -> ClockAnswer:
        """What time it is for the tenant."""
        row = await _tenant(access, caller.tenant, after, wait)
        return ClockAnswer(at=row.clock or access.now(), test_clock=row.clock is not None)


async def _issue(asking: Asking, new: NewCredential, response: Response) -> IssuedCredential | Response:
    if unknown := [nth for nth, scope in enumerate(new.scopes) if scope not in SCOPES]:
        message = f"send scopes of {', '.join(SCOPES)}"
        raise Invalid(f"S{message[1:]}.", [{"field": f"body.scopes.{nth}", "message": message} for nth in unknown])
    try:
        issued = await asking.issued(new)
    except StillDeciding as still:
        return asking.accepted(still)
    await asking.told_everywhere(response)
    return issued


async def _tenant(access: Access, tenant: str, after: PositionToken, wait_seconds: float) -> TenantRow:
    await caught_up(access.fronts["contacts"], after, wait_seconds)
    async with tenant_connection(access.pools["contacts"], tenant) as connection:
        row = await find_tenant(connection, tenant)
    if row is None:
        raise NotFound("This tenant is not known here yet; send its Regulars-Position as Regulars-After.")
    return row
