"""Tiers: up at once, down only at the review, as far as the program says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.points.programs.document import Tiers
from services.points.programs.levels import apply_review, progress, tier_for, upgraded

THRESHOLDS = {"member": 0, "silver": 100, "gold": 300, "platinum": 1000}
codes = st.sampled_from(list(THRESHOLDS))
points = st.integers(-500, 5000)


def tiers(downgrade: str = "full") -> Tiers:
    levels: list[Any] = [{"code": code, "name": code, "threshold": least} for code, least in THRESHOLDS.items()]
    review = {"kind": "yearly", "on_anniversary": True, "downgrade": downgrade}
    return Tiers.model_validate({"code": "club", "wallet": "status", "levels": levels, "review": review})


@pytest.mark.parametrize(
    ("qualified", "level"),
    [
        (-1, "member"),
        (0, "member"),
        (99, "member"),
        (100, "silver"),
        (299, "silver"),
        (300, "gold"),
        (1000, "platinum"),
    ],
)
def test_the_level_is_the_highest_that_is_reached(qualified: int, level: str) -> None:
    assert tier_for(tiers(), qualified).code == level


def test_a_member_moves_up_at_once_over_several_levels_and_not_down() -> None:
    assert upgraded(tiers(), "member", 350).code == "gold"
    assert upgraded(tiers(), "gold", 20).code == "gold"


@pytest.mark.parametrize(
    ("downgrade", "current", "qualified", "level"),
    [
        ("full", "platinum", 0, "member"),
        ("full", "platinum", 320, "gold"),
        ("step", "platinum", 0, "gold"),
        ("step", "platinum", 1000, "platinum"),
        ("step", "gold", 150, "silver"),
        ("step", "member", 0, "member"),
        ("none", "platinum", 0, "platinum"),
        ("none", "member", 100, "silver"),
    ],
)
def test_the_review(downgrade: str, current: str, qualified: int, level: str) -> None:
    assert apply_review(tiers(downgrade), current, qualified).code == level


def test_progress_counts_to_the_level_above_the_one_that_is_held() -> None:
    below = progress(tiers(), "silver", 40)
    assert (below.level.code, below.next and below.next.code, below.missing) == ("silver", "gold", 260)
    top = progress(tiers(), "platinum", 40)
    assert (top.level.code, top.next, top.missing) == ("platinum", None, 0)


def test_a_level_that_a_new_version_dropped_counts_as_the_lowest() -> None:
    assert upgraded(tiers(), "bronze", 120).code == "silver"
    assert apply_review(tiers("step"), "bronze", 0).code == "member"


@given(codes, points, st.sampled_from(["none", "step", "full"]))
def test_who_qualifies_keeps_and_more_points_never_make_a_lower_level(
    current: str, qualified: int, downgrade: str
) -> None:
    system = tiers(downgrade)
    after = apply_review(system, current, qualified).threshold
    assert after <= apply_review(system, current, qualified + 1).threshold
    assert after >= tier_for(system, qualified).threshold
    if qualified >= THRESHOLDS[current]:
        assert after >= THRESHOLDS[current]


@given(codes, points)
def test_earning_what_is_missing_reaches_the_next_level(current: str, qualified: int) -> None:
    ahead = progress(tiers(), current, qualified)
    if ahead.next is not None:
        assert ahead.missing > 0
        assert upgraded(tiers(), current, qualified + ahead.missing) == ahead.next
        assert upgraded(tiers(), current, qualified + ahead.missing - 1) == ahead.level
