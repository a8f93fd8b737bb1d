"""What an event earns, one sentence a rule: Given a program, When something happened, Then this is earned and why."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from services.points.programs.checks import read_document
from services.points.programs.document import ProgramDocument
from services.points.programs.domain import MemberFacts, happened_from, version_at
from services.points.programs.evaluate import Award, Evaluation, RuleResult, compile_program, compiled_from, evaluate
from services.points.programs.sample import SAMPLE_PROGRAM
from shared.events.contacts import TenantSettings
from shared.events.door import CustomRecorded, Line, PurchaseCompleted
from shared.events.envelope import Event

STRANGER = MemberFacts()
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)
POINTS = {"code": "points", "kind": "redeemable", "name": "Points"}
STATUS = {"code": "status", "kind": "qualifying", "name": "Status"}
DOLLAR = {"kind": "per_amount", "wallet": "points", "points": 1, "per_minor": 100}
TEN = {"kind": "fixed", "wallet": "points", "points": 10}
DOUBLE = {"kind": "multiplier", "wallet": "points", "factor_percent": 200}


def rule(code: str, effect: dict[str, Any], when: str = "true", **more: Any) -> dict[str, Any]:
    return {"code": code, "name": code, "on": "purchase.completed", "when": when, "effect": effect, **more}


def line(amount_minor: int, line_id: str = "1", quantity: int = 1, **more: Any) -> Line:
    return Line(line_id=line_id, sku=more.pop("sku", "CD"), quantity=quantity, amount_minor=amount_minor, **more)


@dataclass(frozen=True)
class Given:
    """A program of these rules, and a member."""

    rules: tuple[dict[str, Any], ...]
    member: MemberFacts = STRANGER
    zone: str = "UTC"
    currency: str = "USD"
    expiry: dict[str, Any] | None = None

    def bought(self, *lines: Line, at: datetime = NOON, paid_with_points: int = 0, **more: Any) -> Evaluation:
        order: dict[str, Any] = {"channel": "web", "order_id": "1", "currency": "USD", **more}
        return self._when(PurchaseCompleted(lines=lines, paid_with_points_minor=paid_with_points, **order), at)

    def recorded(self, name: str, at: datetime = NOON, **fields: Any) -> Evaluation:
        return self._when(CustomRecorded(name=name, fields=fields), at)

    def _when(self, what: PurchaseCompleted | CustomRecorded, at: datetime) -> Evaluation:
        points = POINTS if self.expiry is None else {**POINTS, "expiry": self.expiry}
        document = ProgramDocument.model_validate({"name": "P", "wallets": [points, STATUS], "rules": self.rules})
        event = Event("e", "s", "t.v1", "acme", "c1", at, what)
        return evaluate(
            compile_program(document), happened_from(event, self.member, zone=self.zone, currency=self.currency)
        )


def given(*rules: dict[str, Any], **more: Any) -> Given:
    return Given(rules, **more)


def earned(evaluation: Evaluation) -> dict[tuple[str, str], int]:
    return {(award.rule, award.line_id): award.points for award in evaluation.awards}


def said(evaluation: Evaluation, code: str) -> RuleResult:
    return next(result for result in evaluation.results if result.rule == code)


def test_an_order_earns_per_amount_rounded_down_once() -> None:
    evaluation = given(rule("dollar", DOLLAR)).bought(line(150, "1"), line(150, "2"))
    assert earned(evaluation) == {("dollar", "1"): 2, ("dollar", "2"): 1}
    assert said(evaluation, "dollar").inputs == {"earning_minor": 300}


def test_a_line_basis_rounds_each_line() -> None:
    evaluation = given(rule("dollar", {**DOLLAR, "basis": "line"})).bought(line(150, "1"), line(150, "2"))
    assert earned(evaluation) == {("dollar", "1"): 1, ("dollar", "2"): 1}


@pytest.mark.parametrize(("rounding", "points"), [("down", 1), ("half_up", 2), ("up", 2)])
def test_rounding_of_one_and_a_half(rounding: str, points: int) -> None:
    assert earned(given(rule("r", {**DOLLAR, "rounding": rounding})).bought(line(150))) == {("r", "1"): points}


def test_half_up_rounds_below_a_half_down_and_up_rounds_a_trace_up() -> None:
    order = (line(149),)
    assert earned(given(rule("r", {**DOLLAR, "rounding": "half_up"})).bought(*order)) == {("r", "1"): 1}
    assert earned(given(rule("r", {**DOLLAR, "rounding": "up"})).bought(line(101))) == {("r", "1"): 2}


def test_too_small_an_amount_earns_nothing_and_says_so() -> None:
    result = said(given(rule("dollar", DOLLAR)).bought(line(99)), "dollar")
    assert (result.fired, result.reason, result.awards) == (False, "nothing-to-earn", ())


def test_the_discount_earns_nothing_because_amounts_are_net() -> None:
    assert earned(given(rule("dollar", DOLLAR)).bought(line(1000, discount_minor=500))) == {("dollar", "1"): 10}


def test_what_was_paid_with_points_earns_nothing() -> None:
    evaluation = given(rule("dollar", DOLLAR)).bought(line(1000, "1"), line(3000, "2"), paid_with_points=2000)
    assert earned(evaluation) == {("dollar", "1"): 5, ("dollar", "2"): 15}


def test_an_order_paid_wholly_with_points_earns_nothing_and_so_does_one_overpaid() -> None:
    for paid in (1000, 5000):
        evaluation = given(rule("dollar", DOLLAR)).bought(line(1000), paid_with_points=paid)
        assert said(evaluation, "dollar").reason == "nothing-to-earn"


def test_a_fixed_award_is_divided_over_what_was_paid_for() -> None:
    evaluation = given(rule("ten", TEN)).bought(line(100, "1"), line(0, "2"), line(200, "3"))
    assert earned(evaluation) == {("ten", "1"): 3, ("ten", "3"): 7}


def test_a_fixed_award_on_free_lines_is_divided_by_pieces() -> None:
    evaluation = given(rule("ten", TEN)).bought(line(0, "1", quantity=1), line(0, "2", quantity=4))
    assert earned(evaluation) == {("ten", "1"): 2, ("ten", "2"): 8}


def test_a_multiplier_adds_an_award_of_its_own() -> None:
    evaluation = given(rule("double", DOUBLE), rule("dollar", DOLLAR)).bought(line(1000))
    assert [(award.rule, award.points) for award in evaluation.awards] == [("double", 10), ("dollar", 10)]
    assert said(evaluation, "double").inputs == {"base_points": 10}


def test_two_multipliers_each_count_from_the_base() -> None:
    evaluation = given(rule("dollar", DOLLAR), rule("a", DOUBLE), rule("b", DOUBLE)).bought(line(1000))
    assert earned(evaluation) == {("dollar", "1"): 10, ("a", "1"): 10, ("b", "1"): 10}


def test_a_multiplier_rounds_its_extra_down_once() -> None:
    half = {**DOUBLE, "factor_percent": 150}
    evaluation = given(rule("dollar", DOLLAR), rule("half", half)).bought(*(line(100, str(n)) for n in range(3)))
    assert sum(award.points for award in evaluation.awards if award.rule == "half") == 1


def test_a_multiplier_multiplies_only_the_rules_it_names() -> None:
    evaluation = given(rule("dollar", DOLLAR), rule("ten", TEN), rule("double", {**DOUBLE, "of": ["dollar"]})).bought(
        line(500)
    )
    assert earned(evaluation) == {("dollar", "1"): 5, ("ten", "1"): 10, ("double", "1"): 5}


def test_a_multiplier_multiplies_only_its_own_wallet() -> None:
    evaluation = given(
        rule("dollar", DOLLAR), rule("growth", {**DOLLAR, "wallet": "status"}), rule("double", DOUBLE)
    ).bought(line(500))
    assert said(evaluation, "double").inputs == {"base_points": 5}


def test_a_multiplier_of_nothing_earns_nothing() -> None:
    evaluation = given(rule("dollar", DOLLAR, "false"), rule("double", DOUBLE)).bought(line(500))
    assert [result.reason for result in evaluation.results] == ["condition-false", "nothing-to-earn"]


def test_a_condition_about_a_line_picks_the_lines_that_earn() -> None:
    evaluation = given(rule("music", DOLLAR, 'line.category == "music"')).bought(
        line(1000, "1", category="music"), line(2000, "2", category="home"), line(500, "3", category="music")
    )
    assert earned(evaluation) == {("music", "1"): 10, ("music", "3"): 5}
    assert said(evaluation, "music").inputs == {"lines_matched": 2, "earning_minor": 1500}


def test_a_multiplier_about_a_line_raises_only_that_line() -> None:
    evaluation = given(rule("dollar", DOLLAR), rule("double", DOUBLE, 'line.category == "music"')).bought(
        line(1000, "1", category="music"), line(2000, "2")
    )
    assert earned(evaluation) == {("dollar", "1"): 10, ("dollar", "2"): 20, ("double", "1"): 10}


def test_a_condition_that_no_line_meets_is_false() -> None:
    result = said(given(rule("music", DOLLAR, 'line.category == "music"')).bought(line(1000)), "music")
    assert (result.reason, result.inputs) == ("condition-false", {"lines_matched": 0})


def test_lines_that_share_an_id_share_an_award() -> None:
    assert earned(given(rule("dollar", DOLLAR)).bought(line(100, "1"), line(200, "1"))) == {("dollar", "1"): 3}


def test_a_condition_about_all_lines_is_asked_once() -> None:
    rules = given(rule("big", TEN, 'lines.exists(l, l.brand == "Acme" && l.quantity >= 2)'))
    assert said(rules.bought(line(100, brand="Acme", quantity=1)), "big").reason == "condition-false"
    result = said(rules.bought(line(100, brand="Acme", quantity=2), line(5, "2")), "big")
    assert (result.reason, result.inputs) == ("fired", {"lines": 2})


def test_a_rule_names_the_values_it_was_decided_with() -> None:
    member = MemberFacts(tier="gold", balances={"points": 70}, purchases_before=3)
    when = 'member.tier == "gold" && member.balances.points > 60 && member.purchases_before > 2 && order.quantity == 2'
    result = said(given(rule("r", TEN, when), member=member).bought(line(100, quantity=2)), "r")
    assert result.fired
    assert result.inputs == {
        "member.balances.points": 70,
        "member.purchases_before": 3,
        "member.tier": "gold",
        "order.quantity": 2,
    }


def test_a_wallet_without_points_has_the_balance_0() -> None:
    assert said(given(rule("r", TEN, "member.balances.status == 0")).bought(line(100)), "r").fired


def test_the_hour_and_the_day_are_those_of_the_tenants_zone() -> None:
    when = "event.day == 16 && event.hour == 1 && event.minute == 30 && event.weekday == 1 && event.month == 3"
    late = datetime(2026, 3, 15, 17, 30, tzinfo=UTC)
    assert said(given(rule("r", TEN, when), zone="Asia/Shanghai").bought(line(100), at=late), "r").fired
    assert not said(given(rule("r", TEN, when), zone="UTC").bought(line(100), at=late), "r").fired


def test_validity_is_asked_of_the_events_own_time_and_its_end_is_outside() -> None:
    rules = given(rule("r", TEN, valid_from="2026-03-01T00:00:00+08:00", valid_until="2026-03-02T00:00:00+08:00"))

    def reason(at: datetime) -> str:
        return said(rules.bought(line(100), at=at), "r").reason

    assert reason(datetime(2026, 2, 28, 15, 59, 59, tzinfo=UTC)) == "not-yet-valid"
    assert reason(datetime(2026, 2, 28, 16, tzinfo=UTC)) == "fired"
    assert reason(datetime(2026, 3, 1, 15, 59, 59, 999999, tzinfo=UTC)) == "fired"
    assert reason(datetime(2026, 3, 1, 16, tzinfo=UTC)) == "no-longer-valid"


def test_an_order_in_another_currency_earns_nothing() -> None:
    result = said(given(rule("r", TEN), currency="CNY").bought(line(100)), "r")
    assert (result.reason, result.inputs) == ("other-currency", {"order.currency": "USD"})


def test_a_custom_event_earns_by_its_name_and_fields() -> None:
    rules = given(rule("visit", TEN, "event.fields.minutes >= 10", on="store.visited"))
    result = said(rules.recorded("store.visited", minutes=12, note="x"), "visit")
    assert result.awards == (Award("visit", "points", 10, "", None),)
    assert result.inputs == {"event.fields.minutes": 12}
    assert said(rules.recorded("store.visited", minutes=9), "visit").reason == "condition-false"
    assert said(rules.recorded("store.left", minutes=12), "visit").reason == "other-event"
    assert said(rules.bought(line(100)), "visit").reason == "other-event"


def test_a_custom_event_that_calls_itself_a_purchase_earns_nothing() -> None:
    assert said(given(rule("r", TEN)).recorded("purchase.completed"), "r").reason == "other-event"


def test_a_field_that_is_missing_is_an_error_and_never_a_match() -> None:
    rules = given(rule("visit", TEN, "event.fields.minutes >= 10", on="store.visited"))
    result = said(rules.recorded("store.visited"), "visit")
    assert (result.fired, result.reason, result.awards) == (False, "condition-error", ())
    assert result.inputs == {"event.fields.minutes": None, "error": 'Key not found in map : "minutes"'}


def test_an_error_on_one_line_stops_the_whole_rule() -> None:
    rules = given(rule("r", DOLLAR, "100 / line.discount_minor > 1"))
    result = said(rules.bought(line(1000, "1", discount_minor=5), line(1000, "2")), "r")
    assert (result.reason, result.inputs["error"]) == ("condition-error", "divide by zero")


def test_a_stored_condition_that_no_longer_compiles_never_fires_and_never_raises() -> None:
    result = said(given(rule("r", TEN, "order.totl > 1")).bought(line(100)), "r")
    assert result.reason == "condition-error"
    assert "order.totl" in result.inputs["error"]


def test_amounts_beyond_the_bound_earn_nothing() -> None:
    huge = rule("r", {"kind": "per_amount", "wallet": "points", "points": 1000, "per_minor": 1})
    assert said(given(huge).bought(line(10**13)), "r").reason == "over-limit"


def test_more_awards_than_a_record_may_carry_are_over_the_limit() -> None:
    lines = tuple(line(100, str(n)) for n in range(500))
    evaluation = given(*(rule(f"r{n}", DOLLAR) for n in range(6))).bought(*lines)
    assert [result.reason for result in evaluation.results] == ["fired"] * 5 + ["over-limit"]
    assert len(evaluation.awards) == 2500


def test_an_award_lapses_as_its_wallet_says_from_the_events_own_time() -> None:
    expiry = {"kind": "rolling", "months": 12, "round": "month"}
    evaluation = given(rule("r", TEN), rule("s", {**TEN, "wallet": "status"}), expiry=expiry).bought(line(100))
    assert [award.expires_at for award in evaluation.awards] == [datetime(2027, 4, 1, tzinfo=UTC), None]


@pytest.mark.parametrize("at", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Shanghai"])
@pytest.mark.parametrize(
    "expiry", [{"kind": "rolling", "days": 1}, {"kind": "calendar", "month": 12, "day": 31, "years_after": 0}]
)
def test_an_event_at_the_end_of_the_calendar_is_answered(at: datetime, zone: str, expiry: dict[str, Any]) -> None:
    rules = given(rule("r", TEN, "event.day > 0 && event.time == event.time"), zone=zone, expiry=expiry)
    assert said(rules.bought(line(100), at=at), "r").reason in ("fired", "condition-error")


def test_long_values_are_recorded_in_short() -> None:
    rules = given(
        rule("r", TEN, '"b" in event.fields.list && event.fields.text.size() == 500 && event.time < event.time', on="x")
    )
    result = said(rules.recorded("x", text="a" * 500, list=["b"] * 1000), "r")
    assert result.inputs == {
        "event.fields.list": "list of 1000",
        "event.fields.text": "a" * 100,
        "event.time": "2026-03-15T12:00:00.000000Z",
    }


def test_no_rule_earns_on_other_data() -> None:
    event = Event("e", "s", "tenant.declared.v1", "acme", "c1", NOON, TenantSettings(name="Acme"))
    with pytest.raises(TypeError, match="TenantSettings"):
        happened_from(event, MemberFacts(), zone="UTC", currency="USD")


@dataclass(frozen=True)
class Published:
    version: int
    effective_from: datetime


def test_the_version_that_took_effect_last_applies() -> None:
    march, may = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
    versions = [Published(1, march), Published(3, march), Published(2, may)]
    assert version_at(versions, datetime(2026, 2, 1, tzinfo=UTC)) is None
    assert version_at(versions, march) == Published(3, march)
    assert version_at(versions, may) == Published(2, may)
    assert version_at([], may) is None


def test_the_sample_program_doubles_dollars_on_the_15th_and_welcomes_once() -> None:
    program = compile_program(read_document(SAMPLE_PROGRAM))
    purchase = PurchaseCompleted(channel="web", order_id="1", currency="USD", lines=(line(2999),))

    def points(day: int, before: int) -> list[tuple[str, int]]:
        event = Event("e", "s", "purchase.completed.v1", "a", "c", datetime(1997, 1, day, 12, tzinfo=UTC), purchase)
        happened = happened_from(event, MemberFacts(purchases_before=before), zone="UTC", currency="USD")
        return [(award.rule, award.points) for award in evaluate(program, happened).awards]

    assert points(14, 0) == [("dollar", 29), ("welcome", 50), ("status", 29)]
    assert points(15, 1) == [("dollar", 29), ("member_day", 29), ("status", 29)]


def test_a_stored_text_compiles_once() -> None:
    program = compile_program(read_document(SAMPLE_PROGRAM))
    text = program.document.model_dump_json()
    assert compiled_from(text) is compiled_from(text)
    assert compiled_from(text).document_hash == program.document_hash
