"""Earning, spending, lapsing and adjusting, one sentence a rule."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.points.ledger.store import ACCOUNTS, EVALUATIONS, LEDGER_ENTRIES, LOTS, MEMBERS
from services.points.programs.sample import SAMPLE_PROGRAM
from shared.events.catalogue import POINTS_MAX
from shared.events.door import Line
from shared.events.envelope import Event
from shared.events.points import PointsAdjusted, PointsEarned, PointsExpired, PointsRedeemed, RulesEvaluated
from shared.events.runtime import RequestRefused
from tests.points.till import OPENED, Till, day, program

NEW_YEAR_27 = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def till() -> Till:
    """A shop with the sample program, on 2 December 2025."""
    found = Till(SAMPLE_PROGRAM)
    found.now = day(1)
    return found


def one(facts: list[Event], kind: type[Any]) -> Any:
    (found,) = [fact.data for fact in facts if isinstance(fact.data, kind)]
    return found


def refusal(fact: Event) -> RequestRefused:
    assert isinstance(fact.data, RequestRefused), fact
    return fact.data


def test_a_purchase_earns_one_lot_for_each_rule_that_fires_and_says_why_the_others_did_not(till: Till) -> None:
    facts = till.buy("li", 12_950, "o1")
    earned = one(facts, PointsEarned)
    assert {each.rule: each.reason for each in earned.results} == {
        "dollar": "fired",
        "member_day": "condition-false",
        "welcome": "fired",
        "status": "fired",
    }
    assert [(each.rule, each.points, each.lot) for each in earned.awards] == [
        ("dollar", 129, 1),
        ("welcome", 50, 2),
        ("status", 129, 3),
    ]
    lots = till.tables.of(LOTS, "li")
    assert [(lot.number, lot.wallet, lot.remaining, lot.expires_at) for lot in lots] == [
        (1, "points", 129, NEW_YEAR_27),
        (2, "points", 50, NEW_YEAR_27),
        (3, "status", 129, None),
    ]
    (entry, *_) = till.tables.of(LEDGER_ENTRIES, "li")
    assert (entry.source, entry.destination, entry.points) == ("program:issued", "member:available", 129)
    assert (entry.rule, entry.version, entry.event_id, entry.order_id) == ("dollar", 1, earned.event_id, "o1")


def test_an_event_that_fires_no_rule_is_recorded_with_its_reasons(till: Till) -> None:
    till.visit("li", minutes=12)
    (row,) = till.tables.of(EVALUATIONS, "li")
    assert row.reason == "evaluated"
    assert row.results.count('"reason":"other-event"') == 4
    assert till.tables.of(LEDGER_ENTRIES, "li") == []


def test_without_a_program_nothing_is_earned_and_the_order_is_known() -> None:
    till = Till()
    assert one(till.buy("li", 5_000, "o1"), RulesEvaluated).reason == "no-program"
    assert one(till.buy("li", 5_000, "o1"), RulesEvaluated).reason == "order-already-known"


def test_a_known_order_never_earns_twice(till: Till) -> None:
    till.buy("li", 12_950, "o1")
    before = till.tables.of(ACCOUNTS, "li"), till.tables.of(LOTS, "li")
    (fact,) = till.buy("li", 99_900, "o1")
    assert fact.data.reason == "order-already-known"
    assert (till.tables.of(ACCOUNTS, "li"), till.tables.of(LOTS, "li")) == before
    assert till.tables.of(MEMBERS, "li")[0].purchases == 1


def test_the_version_in_force_at_the_time_of_the_purchase_says_what_it_earns(till: Till) -> None:
    double = [{**rule, "effect": {**rule["effect"], "points": 2}} for rule in SAMPLE_PROGRAM["rules"][:1]]
    till.publish(program(rules=double), effective_from=day(10))
    till.now = day(20)
    late = one(till.buy("li", 1_000, at=day(9)), PointsEarned)
    new = one(till.buy("li", 1_000, at=day(11)), PointsEarned)
    assert (late.version, new.version) == (1, 2)
    assert [each.points for each in new.awards] == [20]


def test_a_purchase_from_a_clock_that_is_ahead_takes_effect_when_it_is_recorded(till: Till) -> None:
    facts = till.buy("li", 1_000, at=till.now + timedelta(minutes=4))
    assert {fact.time for fact in facts} == {till.now}


def test_points_of_a_purchase_so_late_that_they_have_lapsed_are_earned_and_lapse_at_once(till: Till) -> None:
    till.publish(SAMPLE_PROGRAM, effective_from=OPENED - timedelta(days=2_000))
    facts = till.buy("li", 1_000, at=OPENED - timedelta(days=800))
    assert sum(part.points for each in one(facts, PointsExpired).lapsed for part in each.lots) == 60
    assert till.available("li") == 0
    assert till.available("li", "status") == 10
    assert till.tables.rows["subjects"][("acme", "li")].due_at > till.now


def test_points_lapse_at_the_very_instant_and_not_before(till: Till) -> None:
    till.buy("li", 12_950, "o1")
    till.pass_time(NEW_YEAR_27 - timedelta(microseconds=1))
    assert till.available("li") == 179
    (fact,) = [fact for fact in till.pass_time(NEW_YEAR_27) if isinstance(fact.data, PointsExpired)]
    assert fact.time == fact.recorded_at == NEW_YEAR_27
    assert till.available("li") == 0


def test_points_lapse_though_the_timer_has_not_run(till: Till) -> None:
    till.buy("li", 12_950, "o1")
    till.pass_time(NEW_YEAR_27, run_timers=False)
    assert refusal(till.redeem("li", 100)).facts == {"available": 0, "asked": 100}


def test_what_lapses_first_is_spent_first(till: Till) -> None:
    till.adjust("li", 30)  # lapses on 1 January 2027, like what is earned in December
    till.now = day(40)
    till.buy("li", 7_000, "o1")  # 70 and 50, on 1 February 2027
    fact = till.redeem("li", 100)
    assert isinstance(fact.data, PointsRedeemed)
    assert [(part.lot, part.points) for part in fact.data.lots] == [(1, 30), (2, 70)]
    assert fact.data.worth_minor == 100
    assert fact.data.available == 50
    spent = [entry for entry in till.tables.of(LEDGER_ENTRIES, "li") if entry.destination == "program:redeemed"]
    assert [(entry.lot, entry.points, entry.reference) for entry in spent] == [(1, 30, "till 7"), (2, 70, "till 7")]


def test_points_that_never_lapse_are_spent_last(till: Till) -> None:
    forever = [{**SAMPLE_PROGRAM["wallets"][0], "expiry": {"kind": "never"}}, SAMPLE_PROGRAM["wallets"][1]]
    till.publish(program(wallets=forever), effective_from=day(2))
    till.now = day(3)
    till.adjust("li", 100)
    till.now = day(1)
    till.buy("li", 5_000, "o1", at=day(1))
    fact = till.redeem("li", 100)
    assert isinstance(fact.data, PointsRedeemed)
    assert [part.points for part in fact.data.lots] == [50, 50]
    assert all(part.lot != 1 for part in fact.data.lots)


@pytest.mark.parametrize(
    ("points", "wallet", "reason"),
    [
        (300, "", "not-enough-points"),
        (0, "", "points-not-positive"),
        (-100, "", "points-not-positive"),
        (50, "", "below-minimum"),
        (150, "", "not-a-step"),
        (100, "stars", "unknown-wallet"),
        (100, "status", "wallet-not-redeemable"),
    ],
)
def test_a_redemption_is_refused_with_its_reason_and_changes_nothing(
    till: Till, points: int, wallet: str, reason: str
) -> None:
    till.buy("li", 12_950, "o1")
    before = till.tables.of(ACCOUNTS, "li"), till.tables.of(LOTS, "li")
    assert refusal(till.redeem("li", points, wallet)).reason == reason
    assert (till.tables.of(ACCOUNTS, "li"), till.tables.of(LOTS, "li")) == before


def test_a_redemption_worth_more_than_money_can_say_is_refused() -> None:
    till = Till(program(redemption={"wallet": "points", "minor_per_point": 10**12}))
    assert refusal(till.redeem("li", POINTS_MAX)).reason == "too-many-points"


def test_nothing_is_redeemed_without_a_program_or_where_it_has_no_redemption() -> None:
    assert refusal(Till().redeem("li", 100)).reason == "no-program"
    assert refusal(Till(program(redemption=None)).redeem("li", 100)).reason == "redemption-closed"


def test_points_given_by_hand_make_a_lot_with_the_reason_and_lapse_by_the_wallets_rule(till: Till) -> None:
    fact = till.adjust("li", 200, reason="late parcel")
    assert isinstance(fact.data, PointsAdjusted)
    assert fact.data.expires_at == NEW_YEAR_27
    (entry,) = till.tables.of(LEDGER_ENTRIES, "li")
    assert (entry.source, entry.reference, entry.by) == ("program:adjusted", "late parcel", "li")
    assert till.redeem("li", 200).data.lots[0].lot == entry.number


def test_points_taken_by_hand_come_from_the_lots_and_never_go_below_zero(till: Till) -> None:
    till.buy("li", 12_950, "o1")
    assert refusal(till.adjust("li", -180)).facts == {"available": 179, "asked": 180}
    till.adjust("li", -179)
    assert till.available("li") == 0
    assert till.tables.of(ACCOUNTS, "li")[0].adjusted == -179


@pytest.mark.parametrize(
    ("points", "wallet", "reason", "refused"),
    [
        (0, "points", "why not", "points-zero"),
        (10, "points", "  ", "reason-missing"),
        (10, "stars", "why not", "unknown-wallet"),
    ],
)
def test_an_adjustment_is_refused_with_its_reason(
    till: Till, points: int, wallet: str, reason: str, refused: str
) -> None:
    assert refusal(till.adjust("li", points, wallet, reason)).reason == refused
    assert till.tables.of(LEDGER_ENTRIES, "li") == []


def test_all_that_a_member_was_ever_given_stays_within_its_bound(till: Till) -> None:
    till.adjust("li", POINTS_MAX - 100)
    assert refusal(till.adjust("li", 101)).reason == "balance-too-large"
    assert one(till.buy("li", 5_100, "o1"), RulesEvaluated).reason == "balance-too-large"
    assert till.available("li") == POINTS_MAX - 100


def test_a_purchase_too_large_to_be_written_down_is_recorded_and_stops_nothing(till: Till) -> None:
    lines = [Line(line_id=f"{n:03}{'龍' * 197}", sku="CD", quantity=1, amount_minor=100) for n in range(500)]
    (fact,) = till.buy("li", lines, "o1")
    assert (fact.data.reason, len(fact.data.lines), fact.data.results) == ("too-large", 500, ())
    assert one(till.buy("li", lines, "o1"), RulesEvaluated).reason == "order-already-known"
    assert one(till.buy("li", 1_000, "o2"), PointsEarned).awards[0].points == 10


def test_an_order_of_500_lines_under_five_rules_is_written_down() -> None:
    rules = [{**SAMPLE_PROGRAM["rules"][0], "code": f"r{n}"} for n in range(5)]
    till = Till(program(rules=rules))
    lines = [Line(line_id=f"gid-{n:016}", sku="CD", quantity=1, amount_minor=100) for n in range(500)]
    assert len(one(till.buy("li", lines, "o1"), PointsEarned).awards) == 2_500
    assert till.available("li") == 2_500


def test_points_that_only_count_and_never_lapse_share_one_standing_lot(till: Till) -> None:
    for _ in range(5):
        till.buy("li", 1_000)
    (lot,) = [lot for lot in till.tables.of(LOTS, "li") if lot.wallet == "status"]
    assert (lot.standing, lot.earned, lot.remaining) == (True, 50, 50)
