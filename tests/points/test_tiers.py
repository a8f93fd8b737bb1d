"""Tiers: up at once, down only at the review, one sentence a rule."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.programs.store import PublishedRow
from services.points.tiers.domain import standing_at
from services.points.tiers.store import TIER_CHANGES, TIERS, TierRow
from shared.events.envelope import Event
from shared.events.points import TierChanged
from tests.points.till import Till, day, program

REVIEW_26 = datetime(2026, 7, 1, tzinfo=UTC)
REVIEW_27 = datetime(2027, 7, 1, tzinfo=UTC)


@pytest.fixture
def till() -> Till:
    found = Till(SAMPLE_PROGRAM)
    found.now = day(1)
    return found


def tier(till: Till, contact: str = "li") -> TierRow:
    (row,) = till.tables.of(TIERS, contact)
    assert isinstance(row, TierRow)
    return row


def changes(facts: list[Event]) -> list[tuple[str, str, str]]:
    return [
        (fact.data.change, fact.data.from_level, fact.data.to_level)
        for fact in facts
        if isinstance(fact.data, TierChanged)
    ]


def tiers(**parts: Any) -> dict[str, Any]:
    return program(tiers={**SAMPLE_PROGRAM["tiers"], **parts})


def test_the_first_event_of_a_member_is_its_entry_to_the_lowest_level(till: Till) -> None:
    assert changes(till.buy("li", 99)) == [("entered", "", "member")]
    assert (tier(till).qualified, tier(till).review_at) == (0, REVIEW_26)


def test_a_level_is_reached_at_once_and_none_between_is_needed(till: Till) -> None:
    till.buy("li", 5_000)
    assert changes(till.buy("li", 30_000)) == [("upgraded", "member", "gold")]
    assert (tier(till).qualified, tier(till).level_since) == (350, till.now)


def test_the_first_purchase_can_reach_the_top(till: Till) -> None:
    assert changes(till.buy("li", 100_000)) == [("entered", "", "platinum")]


def test_spending_points_costs_no_level(till: Till) -> None:
    till.buy("li", 30_000)
    till.redeem("li", 300)
    assert (tier(till).level, tier(till).qualified) == ("gold", 300)


def test_a_refund_leaves_the_count_at_once_but_the_level_until_the_review(till: Till) -> None:
    till.buy("li", 30_000, "o1")
    assert changes(till.refund("li", "o1")) == []
    assert (tier(till).level, tier(till).qualified) == ("gold", 0)
    assert changes(till.pass_time(REVIEW_26)) == [("downgraded", "gold", "silver")]


def test_points_of_an_earlier_period_do_not_leave_the_count_of_this_one(till: Till) -> None:
    till.buy("li", 30_000, "o1")
    till.pass_time(REVIEW_26)
    till.buy("li", 5_000, "o2")
    till.refund("li", "o1")
    assert tier(till).qualified == 50


def test_at_the_review_the_level_is_set_anew_and_the_count_begins_at_zero(till: Till) -> None:
    till.buy("li", 30_000)
    assert changes(till.pass_time(REVIEW_26)) == [("kept", "gold", "gold")]
    assert (tier(till).qualified, tier(till).period_started_at, tier(till).review_at) == (0, REVIEW_26, REVIEW_27)
    assert changes(till.pass_time(REVIEW_27)) == [("downgraded", "gold", "silver")]
    assert till.tables.of(TIER_CHANGES, "li")[-1].reviewed == 0


def test_a_review_that_is_late_decides_as_if_it_had_been_in_time(till: Till) -> None:
    till.buy("li", 30_000)
    till.pass_time(REVIEW_27 + timedelta(days=9), run_timers=False)
    facts = till.buy("li", 10_000)
    assert changes(facts) == [("kept", "gold", "gold"), ("downgraded", "gold", "silver")]
    assert [fact.recorded_at for fact in facts if fact.type == "tier.changed.v1"] == [REVIEW_26, REVIEW_27]
    assert tier(till).qualified == 100


def test_a_member_of_the_lowest_level_without_points_rests_until_points_come_in(till: Till) -> None:
    till.visit("li")
    assert changes(till.pass_time(REVIEW_26)) == [("kept", "member", "member")]
    assert tier(till).review_at is None
    assert till.pass_time(REVIEW_27) == []
    assert changes(till.visit("li")) == []
    assert changes(till.buy("li", 10_000)) == [("resumed", "member", "silver")]
    assert (tier(till).qualified, tier(till).review_at) == (100, datetime(2028, 7, 1, tzinfo=UTC))
    assert tier(till).joined_at == day(1)


def test_the_anniversary_of_joining_is_reviewed_in_the_tenants_zone() -> None:
    till = Till(tiers(review={"kind": "yearly", "on_anniversary": True}), zone="Asia/Shanghai")
    till.now = datetime(2025, 12, 24, 18, tzinfo=UTC)  # already the 25th in Shanghai
    till.buy("li", 10_000)
    assert tier(till).review_at == datetime(2026, 12, 24, 16, tzinfo=UTC)


def test_points_given_by_hand_to_the_qualifying_wallet_count(till: Till) -> None:
    till.adjust("li", 100, wallet="status")
    assert tier(till).level == "silver"
    till.adjust("li", -30, wallet="status")
    assert (tier(till).level, tier(till).qualified) == ("silver", 70)


def test_a_level_that_the_program_no_longer_has_is_left_with_the_next_points(till: Till) -> None:
    till.buy("li", 30_000)
    levels = [level for level in SAMPLE_PROGRAM["tiers"]["levels"] if level["code"] != "gold"]
    till.publish(tiers(levels=levels), effective_from=day(2))
    till.now = day(3)
    assert changes(till.buy("li", 1_000)) == [("moved", "gold", "silver")]


def test_members_of_a_program_that_gave_up_its_tiers_are_reviewed_once_more_and_rest(till: Till) -> None:
    till.buy("li", 30_000)
    till.publish(program(tiers=None), effective_from=day(2))
    assert changes(till.pass_time(REVIEW_26)) == [("kept", "gold", "gold")]
    assert tier(till).review_at is None
    assert changes(till.buy("li", 30_000)) == []


def test_a_read_shows_reviews_that_are_due_though_their_timer_has_not_run(till: Till) -> None:
    till.buy("li", 30_000)
    before = tier(till)
    versions: list[PublishedRow] = list(till.tables.rows["published_programs"].values())
    now = standing_at(before, versions, "UTC", till.now)
    assert (now.level, now.next_level, now.missing) == ("gold", "platinum", 700)
    later = standing_at(before, versions, "UTC", REVIEW_27)
    assert (later.level, later.qualified, later.next_level, later.missing) == ("silver", 0, "gold", 300)
    till.pass_time(REVIEW_27)
    assert standing_at(tier(till), versions, "UTC", REVIEW_27) == later
