"""What the API reads of programs."""

from datetime import datetime
from typing import NamedTuple

from services.points.programs.store import ProgramRow, PublishedRow
from shared.runtime.migrations import Connection

PUBLISHED_VERSIONS = """
select tenant, program, version, effective_from, document, document_hash, published_by, published_at, fact_id, cause
from published_programs
where tenant = $1
order by program, version
"""


async def published_versions(connection: Connection, tenant: str) -> list[PublishedRow]:
    """Every version that was published, in order."""
    return [PublishedRow(*row) for row in await connection.fetch(PUBLISHED_VERSIONS, tenant)]


DRAFTS = """
select tenant, program, draft, draft_hash, drafted_at, drafted_by, versions from programs
where tenant = $1 and program > $2
order by program
limit $3
"""


async def drafts(connection: Connection, tenant: str, after: str = "", most: int = 1_000) -> list[ProgramRow]:
    """The latest draft of each program, published or not, by code; the next page is `after` the last code."""
    return [ProgramRow(*row) for row in await connection.fetch(DRAFTS, tenant, after, most)]


FIND_DRAFT = """
select tenant, program, draft, draft_hash, drafted_at, drafted_by, versions from programs
where tenant = $1 and program = $2
"""


async def find_draft(connection: Connection, tenant: str, program: str) -> ProgramRow | None:
    """The latest draft of a program."""
    found = await connection.fetchrow(FIND_DRAFT, tenant, program)
    return None if found is None else ProgramRow(*found)


FIND_VERSION = """
select tenant, program, version, effective_from, document, document_hash, published_by, published_at, fact_id, cause
from published_programs
where tenant = $1 and program = $2 and version = $3
"""


async def find_version(connection: Connection, tenant: str, program: str, version: int) -> PublishedRow | None:
    """One version of a program as it was published."""
    found = await connection.fetchrow(FIND_VERSION, tenant, program, version)
    return None if found is None else PublishedRow(*found)


VERSIONS = """
select program, version, effective_from, document_hash, published_by, published_at from published_programs
where tenant = $1
order by program, version
"""


class VersionLine(NamedTuple):
    """A published version without its document."""

    program: str
    version: int
    effective_from: datetime
    document_hash: str
    published_by: str
    published_at: datetime


async def version_lines(connection: Connection, tenant: str) -> list[VersionLine]:
    """Every published version of every program, in order."""
    return [VersionLine(*row) for row in await connection.fetch(VERSIONS, tenant)]


SETTINGS = """
select zone, currency from tenants
where tenant = $1
order by partition
limit 1
"""


class Settings(NamedTuple):
    """`zone` is an IANA name, `currency` an ISO 4217 code."""

    zone: str
    currency: str


async def settings_of(connection: Connection, tenant: str) -> Settings | None:
    """The tenant's settings as points was told of them; None: not yet."""
    found = await connection.fetchrow(SETTINGS, tenant)
    return None if found is None else Settings(*found)


DECLARED_PARTITIONS = """
select partition from program_versions
where tenant = $1 and program = $2 and version = $3
order by partition
"""


async def declared_partitions(connection: Connection, tenant: str, program: str, version: int) -> list[int]:
    """The partitions that have been told of this version and decide by it."""
    return [int(row[0]) for row in await connection.fetch(DECLARED_PARTITIONS, tenant, program, version)]
