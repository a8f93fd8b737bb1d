"""Tier levels by qualifying points: up at once, down only at the review."""

from typing import NamedTuple, assert_never

from services.points.programs.document import Level, Tiers


class Progress(NamedTuple):
    """How far the next level is; `next` is None and `missing` 0 at the top."""

    level: Level
    next: Level | None
    missing: int
    """Qualifying points still to earn in this period."""


def tier_for(tiers: Tiers, qualified: int) -> Level:
    """The highest level whose threshold is reached; the lowest if none is (a balance below 0)."""
    reached = [level for level in tiers.levels if level.threshold <= qualified]
    return reached[-1] if reached else tiers.levels[0]


def upgraded(tiers: Tiers, current: str, qualified: int) -> Level:
    """The level during a period: the current one or a higher one that is reached.

    A current level that this version of the program no longer has counts as the lowest.
    """
    return tiers.levels[max(_place(tiers, current), _place(tiers, tier_for(tiers, qualified).code))]


def apply_review(tiers: Tiers, current: str, qualified: int) -> Level:
    """The level for the next period, from what was qualified in the period that ends now."""
    held, earned = _place(tiers, current), _place(tiers, tier_for(tiers, qualified).code)
    match tiers.review.downgrade:
        case "none":
            return tiers.levels[max(held, earned)]
        case "step":
            return tiers.levels[max(held - 1, earned)]
        case "full":
            return tiers.levels[earned]
        case _:
            assert_never(tiers.review.downgrade)


def progress(tiers: Tiers, current: str, qualified: int) -> Progress:
    """The next level above the current one, and the points missing to it."""
    place = _place(tiers, upgraded(tiers, current, qualified).code)
    if place + 1 == len(tiers.levels):
        return Progress(tiers.levels[place], None, 0)
    above = tiers.levels[place + 1]
    return Progress(tiers.levels[place], above, above.threshold - qualified)


def _place(tiers: Tiers, code: str) -> int:
    return next((place for place, level in enumerate(tiers.levels) if level.code == code), 0)
