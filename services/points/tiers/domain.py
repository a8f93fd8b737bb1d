"""Where a member stands in the tiers: up at once, down only at the review. Pure.

As a shopkeeper would say it: all qualifying points earned since the period began count, in the period in which they
are written down. Whoever reaches a level has it at once. Once a year the level is set anew from the points of the year
that ends, and the count begins at 0. A refund takes points out of the count, but a level is lost at a review only.
A member of the lowest level who earned nothing in a period is not reviewed again until points come in.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from services.points.ledger.domain import InForce
from services.points.programs.dates import review_at
from services.points.programs.document import Tiers
from services.points.programs.domain import version_at
from services.points.programs.evaluate import compiled_from
from services.points.programs.levels import apply_review, progress, tier_for, upgraded
from services.points.programs.store import PublishedRow
from services.points.tiers.store import TierRow
from shared.events.points import TierChanged


class Setting(NamedTuple):
    """The tiers of the version in force."""

    tiers: Tiers
    program: str
    version: int
    zone: str


def setting_of(inforce: InForce | None) -> Setting | None:
    """None: no program is in force, or it has no tiers."""
    if inforce is None or inforce.document.tiers is None:
        return None
    return Setting(inforce.document.tiers, inforce.program, inforce.version, inforce.zone)


def after_points(tier: TierRow | None, setting: Setting | None, added: int, now: datetime) -> TierChanged | None:
    """What a change of the count by `added` points does to the level; None when nothing changes."""
    if setting is None:
        return None
    tiers = setting.tiers
    if tier is None:
        level = tier_for(tiers, added).code
        return _changed(setting, "entered", "", level, added, joined_at=now, started_at=now, now=now)
    qualified = tier.qualified + added
    level = upgraded(tiers, tier.level, qualified).code
    if tier.review_at is None:
        if added <= 0:
            return None
        return _changed(
            setting, "resumed", tier.level, level, qualified, joined_at=tier.joined_at, started_at=now, now=now
        )
    known = any(each.code == tier.level for each in tiers.levels)
    if level == tier.level and tiers.wallet == tier.wallet and tiers.code == tier.tiers:
        return None
    change: Literal["upgraded", "moved"] = "upgraded" if known and level != tier.level else "moved"
    return TierChanged(
        tiers=tiers.code,
        program=setting.program,
        version=setting.version,
        wallet=tiers.wallet,
        change=change,
        from_level=tier.level,
        to_level=level,
        qualified=qualified,
        joined_at=tier.joined_at,
        period_started_at=tier.period_started_at,
        review_at=tier.review_at,
    )


def review(tier: TierRow, setting: Setting | None, at: datetime) -> TierChanged:
    """The yearly review that falls due at that instant."""
    if setting is None:
        return TierChanged(
            tiers=tier.tiers,
            program=tier.program,
            version=tier.version,
            wallet=tier.wallet,
            change="kept",
            from_level=tier.level,
            to_level=tier.level,
            qualified=0,
            reviewed=tier.qualified,
            joined_at=tier.joined_at,
            period_started_at=at,
            review_at=None,
        )
    levels = [level.code for level in setting.tiers.levels]
    level = apply_review(setting.tiers, tier.level, tier.qualified).code
    before = levels.index(tier.level) if tier.level in levels else -1
    change: Literal["moved", "kept", "upgraded", "downgraded"] = "kept"
    if before < 0:
        change = "moved"
    elif levels.index(level) != before:
        change = "upgraded" if levels.index(level) > before else "downgraded"
    fact = _changed(setting, change, tier.level, level, 0, joined_at=tier.joined_at, started_at=at, now=at)
    idle = level == levels[0] and tier.qualified <= 0
    return fact.model_copy(update={"reviewed": tier.qualified, "review_at": None if idle else fact.review_at})


def placed(tier: TierRow | None, tenant: str, contact: str, fact: TierChanged, at: datetime) -> TierRow:
    """The member's row after the fact; `at` is when the change took effect."""
    same = tier is not None and tier.level == fact.to_level
    return TierRow(
        tenant=tenant,
        contact=contact,
        tiers=fact.tiers,
        program=fact.program,
        version=fact.version,
        wallet=fact.wallet,
        level=fact.to_level,
        level_since=tier.level_since if tier is not None and same else at,
        joined_at=fact.joined_at,
        qualified=fact.qualified,
        period_started_at=fact.period_started_at,
        review_at=fact.review_at,
        changes=(0 if tier is None else tier.changes) + 1,
    )


class Standing(NamedTuple):
    """A member's place at an instant, and the way to the next level."""

    level: str
    qualified: int
    period_started_at: datetime
    review_at: datetime | None
    next_level: str
    """Empty at the top, or when the program in force has no tiers."""
    missing: int
    """Qualifying points still to earn for the next level."""


def standing_at(tier: TierRow, versions: Sequence[PublishedRow], zone: str, at: datetime) -> Standing:
    """What a decision at that instant would see: reviews due by then are applied, whether or not they have run."""
    while tier.review_at is not None and tier.review_at <= at:
        setting, due_at = _setting_at(versions, zone, tier.review_at), tier.review_at
        tier = placed(tier, tier.tenant, tier.contact, review(tier, setting, due_at), due_at)
    found = _setting_at(versions, zone, at)
    if found is None:
        return Standing(tier.level, tier.qualified, tier.period_started_at, tier.review_at, "", 0)
    above = progress(found.tiers, tier.level, tier.qualified)
    next_level = "" if above.next is None else above.next.code
    return Standing(tier.level, tier.qualified, tier.period_started_at, tier.review_at, next_level, above.missing)


def _setting_at(versions: Sequence[PublishedRow], zone: str, at: datetime) -> Setting | None:
    found = version_at(versions, at)
    if found is None:
        return None
    tiers = compiled_from(found.document).document.tiers
    return None if tiers is None else Setting(tiers, found.program, found.version, zone)


def _changed(
    setting: Setting,
    change: Literal["entered", "resumed", "moved", "kept", "upgraded", "downgraded"],
    from_level: str,
    to_level: str,
    qualified: int,
    *,
    joined_at: datetime,
    started_at: datetime,
    now: datetime,
) -> TierChanged:
    """A change that begins a period."""
    return TierChanged(
        tiers=setting.tiers.code,
        program=setting.program,
        version=setting.version,
        wallet=setting.tiers.wallet,
        change=change,
        from_level=from_level,
        to_level=to_level,
        qualified=qualified,
        joined_at=joined_at,
        period_started_at=started_at,
        review_at=review_at(setting.tiers.review, joined_at, now, setting.zone),
    )
