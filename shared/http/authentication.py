"""Who may do what: `Authorization: Bearer <key>` to a Principal, and `requires(scope)` on every endpoint."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from shared.http.admission import Admission
from shared.http.credentials import Credentials, Principal
from shared.http.problems import MissingScope, Unauthenticated

SECRET_CHARACTERS_MAX: Final = 200

BEARER: Final = HTTPBearer(
    scheme_name="apiKey",
    description="An API key of a tenant (`rk_live_…`); creating tenants takes the operator's admin key.",
    auto_error=False,
)


async def _authenticated(
    request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> AsyncIterator[Principal]:
    """The caller, holding a place of its tenant until the answer is sent."""
    if sent is None:
        raise Unauthenticated("Send your API key as Authorization: Bearer <key>.")
    credentials: Credentials = request.app.state.credentials
    readable = len(sent.credentials) <= SECRET_CHARACTERS_MAX and sent.credentials.isascii()
    principal = await credentials.find(sent.credentials) if readable else None
    if principal is None:
        raise Unauthenticated("This API key is unknown or revoked; ask your administrator for another.")
    request.state.principal = principal
    admission: Admission = request.app.state.admission
    with admission.admit(principal.tenant):
        yield principal


async def _authorised(wanted: SecurityScopes, principal: Annotated[Principal, Depends(_authenticated)]) -> Principal:
    for scope in wanted.scopes:
        if scope not in principal.scopes:
            raise MissingScope(f"Use an API key with the scope {scope}.", scope=scope)
    return principal


def requires(*scopes: str) -> Any:
    """Dependency: the caller, who has all these scopes (`caller: Annotated[Principal, requires("points:read")]`)."""
    return Security(_authorised, scopes=list(scopes))
