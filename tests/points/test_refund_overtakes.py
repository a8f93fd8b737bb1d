"""A refund that overtakes its order: it waits, and what remains is the same whichever of the two came first."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from services.points.ledger.store import (
    ACCOUNTS,
    EVALUATIONS,
    LEDGER_ENTRIES,
    LOTS,
    MEMBERS,
    ORDER_AWARDS,
    ORDER_LINES,
    REFUNDS,
    WAITING_REFUNDS,
)
from services.points.programs.sample import SAMPLE_PROGRAM
from services.points.tiers.store import TIERS
from shared.events.door import Line
from shared.events.envelope import Event
from shared.events.points import PointsReversed, ReversalDeferred, RulesEvaluated
from shared.runtime.accept import Work
from tests.points.test_ledger_laws import assert_balanced, assert_same, law_program
from tests.points.till import Till, day, program, refolded

POLICIES = ("pending-only", "within-balance", "allow-negative")


def open_till(refunds: str = "within-balance") -> Till:
    """The sample program without a welcome gift; the order is of 3 books for 100 points and a record for 50."""
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


def types(facts: Sequence[Event]) -> list[str]:
    return [fact.type for fact in facts]


def told(till: Till, contact: str = "li") -> list[tuple[str, str]]:
    return [(row.event_type.split(".")[1], row.reason) for row in till.tables.of(EVALUATIONS, contact)]


def waiting(till: Till, contact: str = "li") -> list[str]:
    return [row.refund_id for row in till.tables.of(WAITING_REFUNDS, contact) if not row.released_by]


def test_a_refund_of_an_order_that_is_not_known_is_recorded_and_waits() -> None:
    till = open_till()
    (fact,) = till.refund("li", "o1", pieces={"b": 1})
    assert isinstance(fact.data, ReversalDeferred)
    assert [(line.line_id, line.quantity) for line in fact.data.lines] == [("b", 1)]
    assert waiting(till) == ["r1"]
    assert told(till) == [("refunded", "order-awaited")]
    assert till.tables.of(LEDGER_ENTRIES, "li") == till.tables.of(REFUNDS, "li") == []


def test_the_purchase_earns_first_and_then_gives_back_what_waited() -> None:
    till = open_till()
    happened_at = till.now - timedelta(minutes=1)
    (deferred,) = till.refund("li", "o1", at=happened_at, pieces={"b": 1})
    till.now += timedelta(seconds=2)
    facts = till.buy("li", order(), "o1")
    assert types(facts) == ["points.earned.v1", "tier.changed.v1", "points.reversed.v1"]
    taken = facts[-1]
    assert isinstance(taken.data, PointsReversed)
    assert (taken.data.event_id, taken.data.event_type) == (deferred.data.event_id, "purchase.refunded.v1")
    assert (taken.time, taken.recorded_at, taken.data.waited_since) == (happened_at, till.now, deferred.recorded_at)
    assert (taken.data.reason, till.available("li"), waiting(till)) == ("reversed", 117, [])
    assert told(till) == [("refunded", "order-awaited"), ("completed", "evaluated"), ("refunded", "reversed")]


def test_a_refund_that_comes_after_its_order_did_not_wait() -> None:
    till = open_till()
    till.buy("li", order(), "o1")
    (fact,) = till.refund("li", "o1", pieces={"b": 1})
    assert fact.data.waited_since is None
    assert till.tables.of(WAITING_REFUNDS, "li") == []


def test_those_that_wait_are_taken_in_the_order_in_which_they_were_recorded() -> None:
    till = open_till()
    for refund in ("z", "a", "m"):
        till.refund("li", "o1", refund, pieces={"b": 1})
    facts = [fact.data for fact in till.buy("li", order(), "o1")]
    taken = [fact for fact in facts if isinstance(fact, PointsReversed)]
    assert [(each.refund_id, each.reversals[0].points) for each in taken] == [("z", 33), ("a", 33), ("m", 34)]


def test_only_the_order_and_the_contact_that_a_refund_names_release_it() -> None:
    till = open_till()
    till.refund("li", "o1")
    till.buy("li", order(), "o2")
    till.buy("wang", order(), "o1")
    assert waiting(till) == ["r1"]
    assert (till.available("li"), till.available("wang")) == (150, 150)


def test_a_second_report_changes_nothing_while_it_waits_and_after() -> None:
    till = open_till()
    till.refund("li", "o1", pieces={"b": 1})
    (again,) = till.refund("li", "o1", pieces={"b": 2})
    till.buy("li", order(), "o1")
    (after,) = till.refund("li", "o1", pieces={"b": 1})
    assert (again.data.reason, after.data.reason) == ("refund-already-known", "refund-already-known")
    assert till.available("li") == 117


def test_a_level_that_the_purchase_reached_is_kept_as_if_the_refund_had_come_after() -> None:
    till = open_till()
    till.refund("li", "o1", pieces={"b": 3, "r": 1})
    till.buy("li", order(), "o1")
    (tier,) = till.tables.of(TIERS, "li")
    assert (tier.level, tier.qualified) == ("silver", 0)


def test_an_order_that_earns_nothing_still_settles_what_waited() -> None:
    till = Till()
    till.refund("li", "o1", pieces={"b": 1})
    facts = till.buy("li", order(), "o1")
    assert [fact.data.reason for fact in facts] == ["no-program", "nothing-earned"]
    assert waiting(till) == []


def test_what_cannot_be_written_down_in_one_go_waits_for_the_next_event_that_names_the_order() -> None:
    till = Till(program(rules=SAMPLE_PROGRAM["rules"][:1]))
    lines = [Line(line_id=f"{n:03}{'龍' * 197}", sku="CD", quantity=3, amount_minor=300) for n in range(500)]
    for refund in ("r1", "r2", "r3"):
        till.refund("li", "o1", refund, pieces={line.line_id: 1 for line in lines})
    till.buy("li", lines, "o1")
    assert (till.available("li"), waiting(till)) == (1_500, ["r1", "r2", "r3"])
    for left in (["r3"], []):
        till.buy("li", lines, "o1")
        assert (till.available("li"), waiting(till)) == (500 * len(left), left)
    assert_same(till.tables, refolded(till, own_first=True))


def test_while_its_tenant_is_not_known_nothing_is_guessed() -> None:
    till = open_till()
    till.tables.rows["tenants"].clear()
    (fact,) = till.buy("li", order(), "o1")
    assert isinstance(fact.data, RulesEvaluated)
    assert (fact.data.reason, fact.data.program, till.available("li")) == ("tenant-unknown", "", 0)
    assert till.redeem("li", 10).data.reason == till.adjust("li", 10).data.reason == "tenant-unknown"


class Story(NamedTuple):
    """A member's past, an order, and refunds that fit it, all of one moment."""

    program: dict[str, Any]
    earlier: int
    spent: int
    given: int
    bought: list[Line]
    days_ago: int
    refunds: list[dict[str, int]]
    seconds: int
    """Between any two inputs."""

    def till(self) -> Till:
        """The past: an earlier order, of which some is spent, and points given by hand."""
        till = Till(self.program, zone="Asia/Shanghai")
        till.now = day(1)
        till.buy("li", self.earlier, "earlier")
        till.redeem("li", self.spent)
        if self.given:
            till.adjust("li", self.given)
        if self.spent:
            till.refund("li", "earlier", "all of it")
        till.now = day(3)
        return till

    def works(self, till: Till, places: Sequence[int]) -> list[Work]:
        """-1 is the purchase, the others are refunds."""
        at = till.now
        works: list[Work] = []
        for place in places:
            if place < 0:
                works.append(till.purchase_work("li", self.bought, "o1", at - timedelta(days=self.days_ago)))
            else:
                works.append(till.refund_work("li", "o1", f"r{place}", at, self.refunds[place]))
            till.now += timedelta(seconds=self.seconds)
        return works

    def told(self, places: Sequence[int], *, at_once: bool = False) -> Till:
        """Feed the inputs in that order, one by one or in one batch."""
        till = self.till()
        works = self.works(till, places)
        for batch in [works] if at_once else [[work] for work in works]:
            till.feed(batch)
        return till


@st.composite
def stories(draw: st.DrawFn, seconds: int = 0) -> Story:
    bought = draw(
        st.lists(
            st.builds(
                Line,
                line_id=st.sampled_from(("1", "2")),
                sku=st.just("CD"),
                quantity=st.integers(1, 4),
                amount_minor=st.integers(0, 30_000),
            ),
            min_size=1,
            max_size=3,
        )
    )
    left = Counter[str]()
    for line in bought:
        left[line.line_id] += line.quantity
    refunds: list[dict[str, int]] = []
    for _ in range(draw(st.integers(1, 4))):
        pieces = {line_id: draw(st.integers(0, most)) for line_id, most in left.items()}
        left.subtract(pieces)
        if any(pieces.values()):
            refunds.append({line_id: count for line_id, count in pieces.items() if count})
    return Story(
        program=law_program(draw(st.sampled_from(POLICIES)), draw(st.integers(0, 2)), draw(st.integers(1, 2))),
        earlier=draw(st.integers(0, 30_000)),
        spent=draw(st.integers(0, 200)),
        given=draw(st.integers(0, 100)),
        bought=bought,
        days_ago=draw(st.sampled_from((0, 0, 1, 12))),
        refunds=refunds,
        seconds=seconds,
    )


STATE = (ACCOUNTS, LOTS, TIERS, ORDER_LINES, ORDER_AWARDS)
"""What must not depend on which came first: balances, lots, tiers, and what is left of the order."""


def postings(till: Till) -> list[Any]:
    """The ledger without the ids of what happened and of what was decided."""
    rows = till.tables.of(LEDGER_ENTRIES, "li")
    return [row._replace(event_id="", fact_id="", cause="") for row in rows]


@settings(max_examples=60, deadline=None)
@given(story=stories(), at_once=st.booleans())
def test_wherever_the_purchase_comes_among_its_refunds_the_ledger_is_the_same(story: Story, at_once: bool) -> None:
    count = len(story.refunds)
    first = story.told([-1, *range(count)])
    event(f"{count} refunds, {till_policy(first)}")
    for place in range(count):
        places = list(range(count))
        places.insert(place + 1, -1)
        other = story.told(places, at_once=at_once)
        for table in STATE:
            assert other.tables.of(table, "li") == first.tables.of(table, "li"), table.name
        (was,), (member,) = first.tables.of(MEMBERS, "li"), other.tables.of(MEMBERS, "li")
        assert member._replace(evaluations=was.evaluations) == was
        assert postings(other) == postings(first)
        assert waiting(other) == []
        assert_balanced(other.tables, "li")
        assert_same(other.tables, refolded(other, own_first=True, batch=1 + place))


def till_policy(till: Till) -> str:
    return next((each.data.policy for each in till.stream if isinstance(each.data, PointsReversed)), "no refund")


@settings(max_examples=60, deadline=None)
@given(story=stories(), drawn=st.data())
def test_in_whatever_order_all_of_them_come_what_remains_is_the_same(story: Story, drawn: st.DataObject) -> None:
    count = len(story.refunds)
    places = drawn.draw(st.permutations([-1, *range(count)]))
    first, other = story.told([-1, *range(count)]), story.told(places)
    for table in STATE:
        assert other.tables.of(table, "li") == first.tables.of(table, "li"), table.name
    assert_balanced(other.tables, "li")


@settings(max_examples=30, deadline=None)
@given(story=stories(seconds=1), drawn=st.data())
def test_when_time_passes_between_them_only_times_differ(story: Story, drawn: st.DataObject) -> None:
    """Times of recording only: the purchase is decided when it comes, by then a moment later."""
    count = len(story.refunds)
    places = drawn.draw(st.permutations([-1, *range(count)]))
    first, other = story.told([-1, *range(count)]), story.told(places)
    for table in (ACCOUNTS, ORDER_LINES):
        assert other.tables.of(table, "li") == first.tables.of(table, "li"), table.name
    for found, expected in zip(other.tables.of(LOTS, "li"), first.tables.of(LOTS, "li"), strict=True):
        assert found == expected._replace(earned_at=found.earned_at, expires_at=found.expires_at)
    ranks = [[(row.level, row.qualified) for row in till.tables.of(TIERS, "li")] for till in (first, other)]
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize("refunds", POLICIES)
def test_points_of_a_returned_order_cannot_be_spent_by_sending_the_refund_first(refunds: str) -> None:
    till = open_till(refunds)
    till.refund("li", "o1", pieces={"b": 3, "r": 1})
    till.buy("li", order(), "o1")
    assert till.redeem("li", 10).data.reason == "not-enough-points"
