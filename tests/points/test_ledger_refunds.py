"""A refund takes back exactly what the returned items earned, one sentence a rule."""

from datetime import UTC, datetime, timedelta

import pytest

from services.points.ledger.store import ACCOUNTS, EVALUATIONS, LEDGER_ENTRIES, LOTS, ORDER_AWARDS, ORDER_LINES, REFUNDS
from services.points.programs.sample import SAMPLE_PROGRAM
from shared.events.door import Line
from shared.events.envelope import Event
from shared.events.points import PointsReversed
from tests.points.till import Till, day, program


def open_till(refunds: str = "within-balance") -> Till:
    """The sample program without a welcome gift, and one point a piece; orders are of 3 books and 1 record."""
    rules = [rule for rule in SAMPLE_PROGRAM["rules"] if rule["code"] != "welcome"]
    redemption = {"wallet": "points", "minor_per_point": 1, "refunds": refunds}
    till = Till(program(rules=rules, redemption=redemption))
    till.now = day(1)
    return till


def order() -> list[Line]:
    return [
        Line(line_id="b", sku="BOOK", quantity=3, amount_minor=10_000),
        Line(line_id="r", sku="RECORD", quantity=1, amount_minor=5_000),
    ]


def reversal(facts: list[Event]) -> PointsReversed:
    (fact,) = facts
    assert isinstance(fact.data, PointsReversed), fact
    return fact.data


def test_a_part_of_a_line_takes_back_its_share_and_the_rest_follows_exactly() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    taken = []
    for number in range(3):
        before = till.available("li")
        till.refund("li", "o1", f"r{number}", pieces={"b": 1})
        taken.append(before - till.available("li"))
    assert taken == [33, 33, 34]
    assert till.available("li") == till.available("li", "status") == 50


def test_the_points_leave_the_lots_they_went_into() -> None:
    till = open_till()
    till.adjust("li", 500)
    till.buy("li", order(), "o1")
    till.refund("li", "o1", pieces={"b": 3})
    assert [(lot.number, lot.remaining) for lot in till.tables.of(LOTS, "li")] == [(1, 500), (2, 0), (3, 50), (4, 50)]


def test_the_rule_version_of_the_purchase_is_the_one_that_is_reversed() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    generous = [{**SAMPLE_PROGRAM["rules"][0], "effect": {**SAMPLE_PROGRAM["rules"][0]["effect"], "points": 9}}]
    till.publish(program(rules=generous), effective_from=day(2))
    till.now = day(3)
    data = reversal(till.refund("li", "o1", pieces={"b": 3, "r": 1}))
    assert {(each.rule, each.version) for each in data.reversals} == {("dollar", 1), ("status", 1)}
    assert till.available("li") == 0


def test_what_a_refund_did_is_told_by_its_event() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    data = reversal(till.refund("li", "o1", pieces={"b": 3}))
    told = till.tables.of(EVALUATIONS, "li")[-1]
    assert (told.event_id, told.reason) == (data.event_id, "reversed")
    assert told.results == (
        '[{"entry":1,"forgiven":0,"owed":0,"points":100,"rule":"dollar"},'
        '{"entry":3,"forgiven":0,"owed":0,"points":100,"rule":"status"}]'
    )


def test_a_second_report_of_a_refund_changes_nothing() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    till.refund("li", "o1", "r1", pieces={"b": 1})
    before = [till.tables.of(table, "li") for table in (ACCOUNTS, LOTS, ORDER_LINES, ORDER_AWARDS, LEDGER_ENTRIES)]
    (fact,) = till.refund("li", "o1", "r1", pieces={"b": 1})
    assert fact.data.reason == "refund-already-known"
    assert before == [
        till.tables.of(table, "li") for table in (ACCOUNTS, LOTS, ORDER_LINES, ORDER_AWARDS, LEDGER_ENTRIES)
    ]


def test_more_pieces_than_are_left_count_as_those_that_are_left() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    till.refund("li", "o1", "r1", pieces={"b": 2})
    data = reversal(till.refund("li", "o1", "r2", pieces={"b": 5}))
    assert [(line.asked, line.quantity) for line in data.lines] == [(5, 1)]
    assert reversal(till.refund("li", "o1", "r3", pieces={"b": 1})).reason == "nothing-left"
    assert till.available("li") == 50


def test_a_refund_of_an_unknown_line_is_recorded_and_takes_nothing() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    assert reversal(till.refund("li", "o1", pieces={"x": 1})).reason == "nothing-left"
    assert [row.reason for row in till.tables.of(REFUNDS, "li")] == ["nothing-left"]
    assert till.available("li") == 150


def test_an_order_that_earned_nothing_gives_nothing_back() -> None:
    till = Till()
    till.buy("li", order(), "o1")
    assert reversal(till.refund("li", "o1", pieces={"b": 1})).reason == "nothing-earned"


@pytest.mark.parametrize(
    ("refunds", "available", "owed", "forgiven"),
    [("pending-only", 40, 0, 130), ("within-balance", 0, 0, 90), ("allow-negative", 0, 90, 0)],
)
def test_points_already_spent_follow_the_programs_policy(
    refunds: str, available: int, owed: int, forgiven: int
) -> None:
    till = open_till(refunds)
    till.buy("li", order(), "o1")
    till.redeem("li", 130)
    till.now = day(40)
    till.adjust("li", 40)
    data = reversal(till.refund("li", "o1", pieces={"b": 3, "r": 1}))
    assert data.policy == refunds
    (account, _) = till.tables.of(ACCOUNTS, "li")
    assert (account.available, account.owed) == (available, owed)
    assert sum(each.forgiven for each in data.reversals) == forgiven


def test_what_is_owed_is_paid_back_by_the_next_points() -> None:
    till = open_till("allow-negative")
    till.buy("li", order(), "o1")
    till.redeem("li", 150)
    till.refund("li", "o1", pieces={"b": 3})
    till.buy("li", 3_000, "o2")
    (account, _) = till.tables.of(ACCOUNTS, "li")
    assert (account.available, account.owed) == (0, 70)
    till.adjust("li", 100)
    (account, _) = till.tables.of(ACCOUNTS, "li")
    assert (account.available, account.owed) == (30, 0)


def test_points_that_lapsed_are_not_taken_a_second_time() -> None:
    till = open_till("allow-negative")
    till.buy("li", order(), "o1")
    till.pass_time(datetime(2027, 1, 1, tzinfo=UTC))
    till.adjust("li", 40)
    data = reversal(till.refund("li", "o1", pieces={"b": 3}))
    assert (data.reversals[0].forgiven, data.reversals[0].taken) == (100, ())
    assert till.available("li") == 40


def test_a_refund_after_the_timer_should_have_run_sees_the_points_lapsed() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    till.pass_time(datetime(2027, 1, 1, tzinfo=UTC) + timedelta(days=1), run_timers=False)
    facts = till.refund("li", "o1", pieces={"b": 3})
    assert [fact.type for fact in facts] == ["tier.changed.v1", "points.expired.v1", "points.reversed.v1"]


def test_lines_with_one_id_come_back_together() -> None:
    till = open_till()
    till.buy("li", [Line(line_id="b", sku=sku, quantity=1, amount_minor=5_000) for sku in ("A", "B")], "o1")
    till.refund("li", "o1", "r1", pieces={"b": 1})
    assert till.available("li") == 50
    till.refund("li", "o1", "r2", pieces={"b": 1})
    assert till.available("li") == 0


def test_a_refund_too_large_to_be_written_down_is_recorded_and_stops_nothing() -> None:
    till = open_till()
    till.buy("li", 4_000_000, "o1")
    till.redeem("li", 40_000)
    (account, _), lots, crumbs = till.tables.of(ACCOUNTS, "li"), till.tables.rows["lots"], 40_000
    crumb = till.tables.of(LOTS, "li")[0]._replace(earned=1, remaining=1)
    lots.update({("acme", "li", n): crumb._replace(number=n) for n in range(1_000, 1_000 + crumbs)})
    till.tables.rows["accounts"]["acme", "li", "points"] = account._replace(available=crumbs, issued=account.issued * 2)
    data = reversal(till.refund("li", "o1"))
    assert (data.reason, data.lines, data.reversals) == ("too-large", (), ())
    assert till.available("li") == crumbs
