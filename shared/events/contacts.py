"""Events of the contacts worker: tenants, credentials and clocks, each a fact and its tenant-wide letter."""

from typing import Annotated, Final

from pydantic import Field

from shared.events.catalogue import Data, Time, declare

OWNER: Final = "contacts"
TENANT_SUBJECT: Final = "tenant"
"""The subject of what concerns a tenant as a whole; its partition is the tenant's partition."""


class TenantSettings(Data):
    """What every service must know of a tenant."""

    name: str = Field(min_length=1, max_length=200)
    zone: str = "UTC"
    """IANA time zone of expiry, windows and reports."""
    currency: str = Field("USD", pattern="^[A-Z]{3}$")
    clock_at: Time | None = None
    """The test clock's start; None: the tenant runs on real time."""


_SETTINGS = {"name": "Acme", "zone": "Asia/Shanghai", "currency": "CNY", "clock_at": None}


@declare("tenant.create.v1", OWNER, "request", _SETTINGS)
class CreateTenant(TenantSettings):
    """Create a tenant."""


@declare("tenant.created.v1", OWNER, "fact", _SETTINGS)
class TenantCreated(TenantSettings):
    """A tenant was created."""


@declare("tenant.declared.v1", OWNER, "letter", _SETTINGS, everywhere=True)
class TenantDeclared(TenantSettings):
    """What holds for a tenant from now on, told to every partition of every service."""


_CREDENTIAL = {
    "credential_id": "c_01",
    "secret_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "scopes": ["events:write", "points:read"],
    "name": "till",
}


class Credential(Data):
    """An API key, hashed with SHA-256; the key itself is shown once and kept nowhere."""

    credential_id: str = Field(min_length=1, max_length=64)
    secret_hash: str = Field(pattern="^[0-9a-f]{64}$")
    scopes: tuple[Annotated[str, Field(pattern="^[a-z-]{1,40}:[a-z-]{1,40}$")], ...] = Field(max_length=50)
    name: str = Field(max_length=200)


@declare("credential.issue.v1", OWNER, "request", _CREDENTIAL)
class IssueCredential(Credential):
    """Issue an API key; only its hash travels."""


@declare("credential.issued.v1", OWNER, "fact", _CREDENTIAL)
class CredentialIssued(Credential):
    """An API key was issued."""


@declare("credential.declared.v1", OWNER, "letter", {**_CREDENTIAL, "revoked": False}, everywhere=True)
class CredentialDeclared(Credential):
    """An API key as it stands, told to every service."""

    revoked: bool = False


@declare("credential.revoke.v1", OWNER, "request", {"credential_id": "c_01"})
class RevokeCredential(Data):
    """Revoke an API key."""

    credential_id: str


@declare("credential.revoked.v1", OWNER, "fact", _CREDENTIAL)
class CredentialRevoked(Credential):
    """An API key was revoked; all of it, so that its letter follows from the fact alone."""


@declare("clock.advance.v1", OWNER, "request", {"to": "2026-01-02T00:00:00Z"})
class AdvanceClock(Data):
    """Move a test-clock tenant's clock forward, at most a day."""

    to: Time


@declare("clock.advanced.v1", OWNER, "fact", {"to": "2026-01-02T00:00:00Z"})
class ClockAdvanced(Data):
    """A test clock was moved."""

    to: Time


@declare("clock.declared.v1", OWNER, "letter", {"to": "2026-01-02T00:00:00Z"}, everywhere=True)
class ClockDeclared(Data):
    """The test clock as it stands, told to every partition; each applies it in its own order."""

    to: Time
