"""All SQL about tenants and API keys, as the contacts worker holds them. One partition writes a tenant's rows."""

from typing import Final

from services.contacts.tenants.domain import CredentialRow, TenantRow
from shared.runtime.postgres_session import Connection
from shared.runtime.tables import Table

LOAD_TENANTS = """
select found.* from unnest($1::text[]) as asked (tenant)
cross join lateral (
    select tenant, name, zone, currency, clock from tenants
    where tenants.tenant = asked.tenant
    offset 0
) as found
"""
SAVE_TENANTS = """
insert into tenants (tenant, name, zone, currency, clock)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
on conflict (tenant) do update
set name = excluded.name, zone = excluded.zone, currency = excluded.currency, clock = excluded.clock
"""
TENANTS: Final = Table("tenants", TenantRow, ("tenant",), ("tenant",), "own", LOAD_TENANTS, SAVE_TENANTS)

LOAD_CREDENTIALS = """
select found.* from unnest($1::text[]) as asked (tenant)
cross join lateral (
    select tenant, credential_id, secret_hash, scopes, name, revoked from credentials
    where credentials.tenant = asked.tenant
    offset 0
) as found
"""
SAVE_CREDENTIALS = """
insert into credentials (tenant, credential_id, secret_hash, scopes, name, revoked)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[])
on conflict (tenant, credential_id) do update set revoked = excluded.revoked
"""
CREDENTIALS: Final = Table(
    "credentials",
    CredentialRow,
    ("tenant", "credential_id"),
    ("tenant",),
    "own",
    LOAD_CREDENTIALS,
    SAVE_CREDENTIALS,
)

TABLES: Final = (TENANTS, CREDENTIALS)

FIND_TENANT = """
select tenant, name, zone, currency, clock from tenants where tenant = $1
"""


async def find_tenant(connection: Connection, tenant: str) -> TenantRow | None:
    """The tenant's settings and where its test clock stands."""
    row = await connection.fetchrow(FIND_TENANT, tenant)
    return None if row is None else TenantRow(*row)


LIST_CREDENTIALS = """
select tenant, credential_id, secret_hash, scopes, name, revoked from credentials
where tenant = $1 and credential_id > $2
order by credential_id limit $3
"""


async def list_credentials(connection: Connection, tenant: str, after: str, most: int) -> list[CredentialRow]:
    """Up to `most` API keys behind the credential_id `after`, revoked ones included."""
    return [CredentialRow(*row) for row in await connection.fetch(LIST_CREDENTIALS, tenant, after, most)]
