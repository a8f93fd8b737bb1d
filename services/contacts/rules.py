"""The contacts worker's rules: which rows a request needs, and how a fact becomes rows."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from services.contacts.tenants import domain
from services.contacts.tenants.store import CREDENTIALS, TABLES, TENANTS
from shared.events.contacts import (
    AdvanceClock,
    ClockAdvanced,
    CreateTenant,
    CredentialIssued,
    CredentialRevoked,
    IssueCredential,
    RevokeCredential,
    TenantCreated,
)
from shared.events.envelope import Event
from shared.events.runtime import InputParked, InputRetried, RequestRefused
from shared.runtime.rules import Draft, Input
from shared.runtime.tables import Need, Rows, Table


class ContactsRules:
    """Decides on tenants, their API keys and test clocks, on each tenant's own partition (TENANT_SUBJECT).

    `zones` are the IANA time zones and `currencies` the ISO 4217 codes that a tenant may choose.
    """

    worker = "contacts"
    tables: Sequence[Table[Any]] = TABLES
    requests = frozenset({"tenant.create.v1", "credential.issue.v1", "credential.revoke.v1", "clock.advance.v1"})
    reads: frozenset[str] = frozenset()
    fold_version = 1
    settles = True

    def __init__(self, zones: Collection[str], currencies: Collection[str]) -> None:
        self._zones, self._currencies = frozenset(zones), frozenset(currencies)

    def needs(self, event: Event, _partition: int) -> Iterable[Need]:
        match event.data:
            case CreateTenant() | TenantCreated() | AdvanceClock() | ClockAdvanced():
                yield Need(TENANTS, (event.tenant,))
            case IssueCredential() | CredentialIssued() | RevokeCredential() | CredentialRevoked():
                yield Need(TENANTS, (event.tenant,))
                yield Need(CREDENTIALS, (event.tenant,))
            case _:
                pass

    def absorb(self, _rows: Rows, event: Event, _partition: int) -> None:
        raise ValueError(f"contacts reads nothing of others yet, least of all {event.type}")

    def decide(self, rows: Rows, item: Input) -> Sequence[Draft]:
        tenant = item.event.tenant
        known = rows.get(TENANTS, (tenant,))
        match item.event.data:
            case CreateTenant() as asked:
                return [domain.create(asked, known, self._zones, self._currencies)]
            case IssueCredential() as asked:
                return [domain.issue(asked, known, rows.all(CREDENTIALS, (tenant,)))]
            case RevokeCredential() as asked:
                credential = rows.get(CREDENTIALS, (tenant, asked.credential_id), (tenant,))
                return [domain.revoke(known, credential)]
            case AdvanceClock() as asked:
                return [domain.advance(asked, known)]
            case _:
                raise ValueError(f"contacts does not decide on {item.event.type}")

    def evolve(self, rows: Rows, event: Event) -> None:
        tenant = event.tenant
        match event.data:
            case TenantCreated() as created:
                rows.put(TENANTS, domain.tenant_row(tenant, created))
            case CredentialIssued() as issued:
                rows.put(CREDENTIALS, domain.credential_row(tenant, issued, revoked=False))
            case CredentialRevoked() as revoked:
                rows.put(CREDENTIALS, domain.credential_row(tenant, revoked, revoked=True))
            case ClockAdvanced(to=to):
                known = rows.get(TENANTS, (tenant,))
                if known is None:
                    raise ValueError(f"a clock of a tenant that was never created: {event.id}")
                rows.put(TENANTS, known._replace(clock=to))
            case RequestRefused():
                pass
            case _:
                raise ValueError(f"{event.type} is no fact of contacts")

    def letters(self, fact: Event) -> Sequence[Draft]:
        if isinstance(fact.data, RequestRefused | InputParked | InputRetried):
            return ()
        return [domain.letter_of(fact)]

    def due_at(self, _rows: Rows, _tenant: str, _subject: str) -> datetime | None:
        return None
