"""Decisions about a tenant as a whole: its settings, its API keys, its test clock. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from shared.events.contacts import (
    AdvanceClock,
    ClockAdvanced,
    ClockDeclared,
    CreateTenant,
    Credential,
    CredentialDeclared,
    CredentialIssued,
    CredentialRevoked,
    IssueCredential,
    TenantCreated,
    TenantDeclared,
    TenantSettings,
)
from shared.events.envelope import Event
from shared.runtime.rules import Draft, Refused

STEP_MAX: Final = timedelta(days=1)
"""A test clock moves this far at once: what falls due in between settles day by day, as it would have."""
CLOCK_FROM: Final = datetime(1970, 1, 1, tzinfo=UTC)
CLOCK_BEFORE: Final = datetime(2200, 1, 1, tzinfo=UTC)
CREDENTIALS_MAX: Final = 1_000
"""API keys of one tenant, revoked ones included."""


class TenantRow(NamedTuple):
    """A tenant's settings; `clock` is where its test clock stands, None on real time."""

    tenant: str
    name: str
    zone: str
    currency: str
    clock: datetime | None


class CredentialRow(NamedTuple):
    """An API key by its hash; `scopes` are separated by spaces."""

    tenant: str
    credential_id: str
    secret_hash: str
    scopes: str
    name: str
    revoked: bool


def create(asked: CreateTenant, known: TenantRow | None, zones: frozenset[str], currencies: frozenset[str]) -> Draft:
    if known is not None:
        raise Refused("tenant-exists", "this tenant is created already; choose another name for a new one")
    if asked.zone not in zones:
        raise Refused("zone-unknown", "send an IANA time zone, as Asia/Shanghai")
    if asked.currency not in currencies:
        raise Refused("currency-unknown", "send an ISO 4217 code, as CNY or USD")
    if asked.clock_at is not None and not CLOCK_FROM <= asked.clock_at < CLOCK_BEFORE:
        raise Refused("clock-out-of-range", "start the test clock between 1970 and 2199")
    return Draft(TenantCreated(**asked.model_dump()))


def issue(asked: IssueCredential, tenant: TenantRow | None, known: Sequence[CredentialRow]) -> Draft:
    _must_exist(tenant)
    if any(row.credential_id == asked.credential_id for row in known):
        raise Refused("credential-exists", "this credential_id is taken; issue the key under a new one")
    if any(row.secret_hash == asked.secret_hash for row in known):
        raise Refused("secret-in-use", "this key is issued already; make a new random one")
    if len(known) >= CREDENTIALS_MAX:
        raise Refused("too-many-credentials", f"a tenant has at most {CREDENTIALS_MAX} API keys, revoked ones included")
    return Draft(CredentialIssued(**asked.model_dump()))


def revoke(tenant: TenantRow | None, known: CredentialRow | None) -> Draft:
    _must_exist(tenant)
    if known is None:
        raise Refused("credential-unknown", "there is no API key with this credential_id; list them first")
    if known.revoked:
        raise Refused("credential-already-revoked", "this API key does not work any more; nothing is left to do")
    return Draft(
        CredentialRevoked(
            credential_id=known.credential_id,
            secret_hash=known.secret_hash,
            scopes=tuple(known.scopes.split()),
            name=known.name,
        )
    )


def advance(asked: AdvanceClock, tenant: TenantRow | None) -> Draft:
    known = _must_exist(tenant)
    if known.clock is None:
        raise Refused(
            "no-test-clock", "this tenant runs on real time; create one with clock_at to run it on a test clock"
        )
    if asked.to <= known.clock:
        raise Refused(
            "clock-not-forward",
            "a test clock moves forward only; send a later time",
            clock=known.clock.isoformat(),
        )
    if asked.to - known.clock > STEP_MAX:
        raise Refused("clock-step-too-long", "advance by a day at most, again and again", clock=known.clock.isoformat())
    if asked.to >= CLOCK_BEFORE:
        raise Refused("clock-out-of-range", "a test clock runs until 2199")
    return Draft(ClockAdvanced(to=asked.to))


def letter_of(fact: Event) -> Draft:
    """What every partition of every service is told of a fact. Raises ValueError for what is no fact of this noun."""
    match fact.data:
        case TenantCreated():
            return Draft(TenantDeclared(**fact.data.model_dump()))
        case CredentialIssued():
            return Draft(CredentialDeclared(**fact.data.model_dump(), revoked=False))
        case CredentialRevoked():
            return Draft(CredentialDeclared(**fact.data.model_dump(), revoked=True))
        case ClockAdvanced():
            return Draft(ClockDeclared(to=fact.data.to))
        case _:
            raise ValueError(f"{fact.type} is no fact about a tenant")


def tenant_row(tenant: str, settings: TenantSettings) -> TenantRow:
    return TenantRow(tenant, settings.name, settings.zone, settings.currency, settings.clock_at)


def credential_row(tenant: str, credential: Credential, *, revoked: bool) -> CredentialRow:
    return CredentialRow(
        tenant,
        credential.credential_id,
        credential.secret_hash,
        " ".join(credential.scopes),
        credential.name,
        revoked,
    )


def _must_exist(tenant: TenantRow | None) -> TenantRow:
    if tenant is None:
        raise Refused("tenant-unknown", "create the tenant first")
    return tenant
