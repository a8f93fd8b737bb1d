"""Tables of programs: drafts and versions as decided, and each partition's own copy of what was declared."""

from datetime import datetime
from typing import NamedTuple

from shared.runtime.tables import Table

LOAD_PROGRAMS = """
select found.* from unnest($1::text[]) as asked (tenant)
cross join lateral (
    select tenant, program, draft, draft_hash, drafted_at, drafted_by, versions from programs
    where programs.tenant = asked.tenant
    offset 0
) as found
"""
SAVE_PROGRAMS = """
insert into programs (tenant, program, draft, draft_hash, drafted_at, drafted_by, versions)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::int[])
on conflict (tenant, program) do update
set draft = excluded.draft, draft_hash = excluded.draft_hash, drafted_at = excluded.drafted_at,
    drafted_by = excluded.drafted_by, versions = excluded.versions
"""


class ProgramRow(NamedTuple):
    """A program's draft (JSON text) and how many versions of it were published."""

    tenant: str
    program: str
    draft: str
    draft_hash: str
    drafted_at: datetime
    drafted_by: str
    versions: int


PROGRAMS = Table("programs", ProgramRow, ("tenant", "program"), ("tenant",), "own", LOAD_PROGRAMS, SAVE_PROGRAMS)


class PublishedRow(NamedTuple):
    """A version as it was published; the tenant's own record, which the API reads."""

    tenant: str
    program: str
    version: int
    effective_from: datetime
    document: str
    document_hash: str
    published_by: str
    published_at: datetime
    fact_id: str
    cause: str


PUBLISHED = Table(
    "published_programs", PublishedRow, ("tenant", "program", "version"), ("tenant",), "own", append_only=True
)

LOAD_PROGRAM_VERSIONS = """
select found.* from unnest($1::text[], $2::int[]) as asked (tenant, partition)
cross join lateral (
    select tenant, partition, program, version, effective_from, document, document_hash from program_versions
    where (tenant, partition) = (asked.tenant, asked.partition)
    offset 0
) as found
"""
SAVE_PROGRAM_VERSIONS = """
insert into program_versions (tenant, partition, program, version, effective_from, document, document_hash)
select * from unnest($1::text[], $2::int[], $3::text[], $4::int[], $5::timestamptz[], $6::text[], $7::text[])
on conflict (tenant, partition, program, version) do nothing
"""


class ProgramVersionRow(NamedTuple):
    """A version as this partition was told of it: what its decisions look up."""

    tenant: str
    partition: int
    program: str
    version: int
    effective_from: datetime
    document: str
    document_hash: str


PROGRAM_VERSIONS = Table(
    "program_versions",
    ProgramVersionRow,
    ("tenant", "partition", "program", "version"),
    ("tenant", "partition"),
    "others",
    LOAD_PROGRAM_VERSIONS,
    SAVE_PROGRAM_VERSIONS,
    kept=True,
)

LOAD_TENANTS = """
select found.* from unnest($1::text[], $2::int[]) as asked (tenant, partition)
cross join lateral (
    select tenant, partition, zone, currency from tenants
    where (tenant, partition) = (asked.tenant, asked.partition)
    offset 0
) as found
"""
SAVE_TENANTS = """
insert into tenants (tenant, partition, zone, currency)
select * from unnest($1::text[], $2::int[], $3::text[], $4::text[])
on conflict (tenant, partition) do update set zone = excluded.zone, currency = excluded.currency
"""


class TenantRow(NamedTuple):
    """A tenant's settings as this partition was told of them."""

    tenant: str
    partition: int
    zone: str
    currency: str


TENANTS = Table(
    "tenants",
    TenantRow,
    ("tenant", "partition"),
    ("tenant", "partition"),
    "others",
    LOAD_TENANTS,
    SAVE_TENANTS,
    kept=True,
)

LOAD_IDENTITIES = """
select found.* from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as asked (tenant, kind, hash, contact)
cross join lateral (
    select tenant, kind, hash, contact, identified_at from identities
    where (tenant, kind, hash, contact) = (asked.tenant, asked.kind, asked.hash, asked.contact)
    offset 0
) as found
"""
SAVE_IDENTITIES = """
insert into identities (tenant, kind, hash, contact, identified_at)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
on conflict (tenant, kind, hash, contact) do nothing
"""


class IdentityRow(NamedTuple):
    """A contact is known by this identity; `hash` is the door's keyed hash of it, never the value."""

    tenant: str
    kind: str
    hash: str
    contact: str
    identified_at: datetime


IDENTITIES = Table(
    "identities",
    IdentityRow,
    ("tenant", "kind", "hash", "contact"),
    ("tenant", "kind", "hash", "contact"),
    "others",
    LOAD_IDENTITIES,
    SAVE_IDENTITIES,
)

TABLES = (PROGRAMS, PUBLISHED, PROGRAM_VERSIONS, TENANTS, IDENTITIES)
