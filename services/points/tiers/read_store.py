"""What the API reads of tiers."""

from datetime import datetime
from typing import NamedTuple

from services.points.programs.read_store import published_versions, settings_of
from services.points.tiers.domain import Standing, standing_at
from services.points.tiers.store import TierChangeRow, TierRow
from shared.events.contacts import TenantSettings
from shared.runtime.migrations import Connection

TIER = """
select tenant, contact, tiers, program, version, wallet, level, level_since, joined_at, qualified, period_started_at,
    review_at, changes
from tiers
where tenant = $1 and contact = $2
"""


async def tier_of(connection: Connection, tenant: str, contact: str) -> TierRow | None:
    """The row as it was last decided; reviews that are due and not run are left to `member_standing`."""
    found = await connection.fetchrow(TIER, tenant, contact)
    return None if found is None else TierRow(*found)


async def member_standing(connection: Connection, tenant: str, contact: str, at: datetime) -> Standing | None:
    """Level and progress at that instant, as a decision then would see them. None: the member is in no tiers."""
    tier = await tier_of(connection, tenant, contact)
    if tier is None:
        return None
    settings = await settings_of(connection, tenant)
    zone = TenantSettings(name="-").zone if settings is None else settings.zone
    return standing_at(tier, await published_versions(connection, tenant), zone, at)


TIER_AS_OF = """
select tenant, contact, number, tiers, program, version, change, from_level, to_level, qualified, reviewed,
    period_started_at, review_at, fact_id, effective_at, recorded_at, cause
from tier_changes
where tenant = $1 and contact = $2 and effective_at <= $3 and ($4::timestamptz is null or recorded_at <= $4)
order by number desc
limit 1
"""


async def tier_as_of(
    connection: Connection, tenant: str, contact: str, as_of: datetime, known_at: datetime | None = None
) -> TierChangeRow | None:
    """The step that put the member on the level held at `as_of`; None: not in the tiers yet."""
    found = await connection.fetchrow(TIER_AS_OF, tenant, contact, as_of, known_at)
    return None if found is None else TierChangeRow(*found)


TIER_HISTORY = """
select tenant, contact, number, tiers, program, version, change, from_level, to_level, qualified, reviewed,
    period_started_at, review_at, fact_id, effective_at, recorded_at, cause
from tier_changes
where tenant = $1 and contact = $2 and number < $3
order by number desc
limit $4
"""


async def tier_history(
    connection: Connection, tenant: str, contact: str, most: int, before: int = 2**62
) -> list[TierChangeRow]:
    """A page of the member's steps, latest first."""
    return [TierChangeRow(*row) for row in await connection.fetch(TIER_HISTORY, tenant, contact, before, most)]


MEMBERS_PER_LEVEL = """
select tiers, level, count(*)::bigint as members, (count(*) filter (where review_at <= $2))::bigint as overdue
from tiers
where tenant = $1
group by tiers, level
order by tiers, level
"""


class LevelCount(NamedTuple):
    """Members of a level as last decided; `overdue` of them have a review that is due and not run yet."""

    tiers: str
    level: str
    members: int
    overdue: int


async def members_per_level(connection: Connection, tenant: str, at: datetime) -> list[LevelCount]:
    """How many members each level has."""
    return [LevelCount(*row) for row in await connection.fetch(MEMBERS_PER_LEVEL, tenant, at)]
