"""The tiers' tables, folded from this worker's own facts: where each member stands, and how it came there."""

from datetime import datetime
from typing import NamedTuple

from shared.runtime.tables import Table

LOAD_TIERS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, contact)
cross join lateral (
    select tenant, contact, tiers, program, version, wallet, level, level_since, joined_at, qualified,
        period_started_at, review_at, changes
    from tiers
    where (tenant, contact) = (asked.tenant, asked.contact)
    offset 0
) as found
"""
SAVE_TIERS = """
insert into tiers (
    tenant, contact, tiers, program, version, wallet, level, level_since, joined_at, qualified, period_started_at,
    review_at, changes
)
select * from unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::timestamptz[],
    $9::timestamptz[], $10::bigint[], $11::timestamptz[], $12::timestamptz[], $13::bigint[]
)
on conflict (tenant, contact) do update
set tiers = excluded.tiers, program = excluded.program, version = excluded.version, wallet = excluded.wallet,
    level = excluded.level, level_since = excluded.level_since, joined_at = excluded.joined_at,
    qualified = excluded.qualified, period_started_at = excluded.period_started_at, review_at = excluded.review_at,
    changes = excluded.changes
"""


class TierRow(NamedTuple):
    """A member's level and the period that runs: `qualified` points of `wallet` since `period_started_at`."""

    tenant: str
    contact: str
    tiers: str
    program: str
    version: int
    wallet: str
    level: str
    level_since: datetime
    joined_at: datetime
    qualified: int
    period_started_at: datetime
    review_at: datetime | None
    """None: nothing to review until points are earned again."""
    changes: int
    """The last number used in the member's tier history."""


TIERS = Table("tiers", TierRow, ("tenant", "contact"), ("tenant", "contact"), "own", LOAD_TIERS, SAVE_TIERS, kept=True)


class TierChangeRow(NamedTuple):
    """One step of a member's tier history, never changed."""

    tenant: str
    contact: str
    number: int
    tiers: str
    program: str
    version: int
    change: str
    from_level: str
    to_level: str
    qualified: int
    reviewed: int | None
    period_started_at: datetime
    review_at: datetime | None
    fact_id: str
    effective_at: datetime
    recorded_at: datetime
    cause: str


TIER_CHANGES = Table(
    "tier_changes", TierChangeRow, ("tenant", "contact", "number"), ("tenant", "contact"), "own", append_only=True
)

TABLES = (TIERS, TIER_CHANGES)
