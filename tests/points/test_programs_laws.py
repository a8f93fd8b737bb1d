"""Laws of earning and taking back, over any order: exact sums, no points from nothing, N pieces = one."""

from datetime import UTC, datetime
from fractions import Fraction
from math import floor

from hypothesis import given
from hypothesis import strategies as st

from services.points.programs.document import Fixed, Multiplier, PerAmount, ProgramDocument
from services.points.programs.domain import MemberFacts, happened_from
from services.points.programs.evaluate import CompiledProgram, Evaluation, compile_program, evaluate
from services.points.programs.shares import divided, refund_share, spread
from shared.events.door import Line, PurchaseCompleted
from shared.events.envelope import Event

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
weights = st.lists(st.integers(0, 10**9), min_size=1, max_size=30)
lines = st.lists(
    st.tuples(st.integers(0, 10**7), st.integers(1, 50), st.sampled_from(["music", "home"])), min_size=1, max_size=8
).map(
    lambda rows: tuple(
        Line(line_id=str(at), sku="s", amount_minor=amount, quantity=quantity, category=category)
        for at, (amount, quantity, category) in enumerate(rows)
    )
)
per_amounts = st.builds(
    PerAmount,
    kind=st.just("per_amount"),
    wallet=st.just("p"),
    points=st.integers(1, 500),
    per_minor=st.integers(1, 10_000),
    rounding=st.sampled_from(["down", "half_up", "up"]),
    basis=st.sampled_from(["order", "line"]),
)
fixed = st.builds(Fixed, kind=st.just("fixed"), wallet=st.just("p"), points=st.integers(1, 10_000))
multipliers = st.builds(
    Multiplier, kind=st.just("multiplier"), wallet=st.just("p"), factor_percent=st.integers(101, 1000)
)
conditions = st.sampled_from(["true", 'line.category == "music"', "line.amount_minor > 5000", "order.line_count > 2"])


def program(*effects: tuple[Fixed | PerAmount | Multiplier, str]) -> CompiledProgram:
    rules = [
        {"code": f"r{at}", "name": "r", "on": "purchase.completed", "when": when, "effect": effect.model_dump()}
        for at, (effect, when) in enumerate(effects)
    ]
    wallet = {"code": "p", "kind": "redeemable", "name": "p"}
    return compile_program(ProgramDocument.model_validate({"name": "p", "wallets": [wallet], "rules": rules}))


def bought(compiled: CompiledProgram, order: tuple[Line, ...], paid: int = 0) -> Evaluation:
    purchase = PurchaseCompleted(channel="web", order_id="1", currency="USD", lines=order, paid_with_points_minor=paid)
    event = Event("e", "s", "purchase.completed.v1", "a", "c", NOW, purchase)
    return evaluate(compiled, happened_from(event, MemberFacts(), zone="UTC", currency="USD"))


def earned(evaluation: Evaluation, code: str = "r0") -> int:
    return sum(award.points for award in evaluation.awards if award.rule == code)


@given(st.integers(0, 10**9), weights)
def test_a_spread_is_exact_and_no_part_is_a_whole_point_off(total: int, of: list[int]) -> None:
    if sum(of) == 0:
        total = 0
    parts = spread(total, of)
    assert sum(parts) == total
    for part, weight in zip(parts, of, strict=True):
        share = Fraction(total * weight, sum(of) or 1)
        assert floor(share) <= part <= -floor(-share)


@given(st.integers(0, 10**12), st.integers(1, 10**6))
def test_rounding_is_that_of_the_exact_fraction(number: int, divisor: int) -> None:
    exact = Fraction(number, divisor)
    assert divided(number, divisor, "down") == floor(exact)
    assert divided(number, divisor, "up") == -floor(-exact)
    assert divided(number, divisor, "half_up") == floor(exact + Fraction(1, 2))


@given(lines, per_amounts, st.integers(0, 10**7))
def test_lines_sum_to_what_the_whole_order_earns(order: tuple[Line, ...], effect: PerAmount, paid: int) -> None:
    total = sum(line.amount_minor for line in order)
    net = total - min(paid, total)
    points = earned(bought(program((effect, "true")), order, paid))
    exact = divided(effect.points * net, effect.per_minor, effect.rounding)
    if effect.basis == "order" or len(order) == 1:
        assert points == exact
    else:
        assert abs(points - exact) <= len(order)


@given(lines, fixed, st.integers(0, 10**7))
def test_a_fixed_award_is_whole_whatever_the_order(order: tuple[Line, ...], effect: Fixed, paid: int) -> None:
    assert earned(bought(program((effect, "true")), order, paid)) == effect.points


@given(lines, st.one_of(fixed, per_amounts), conditions, multipliers, st.integers(0, 10**7))
def test_a_multiplier_is_the_exact_extra_of_its_base(
    order: tuple[Line, ...], base: Fixed | PerAmount, when: str, factor: Multiplier, paid: int
) -> None:
    evaluation = bought(program((base, when), (factor, "true")), order, paid)
    assert earned(evaluation, "r1") == earned(evaluation, "r0") * (factor.factor_percent - 100) // 100
    based = {award.line_id for award in evaluation.awards if award.rule == "r0"}
    assert {award.line_id for award in evaluation.awards if award.rule == "r1"} <= based


@given(lines, per_amounts, st.integers(0, 10**7), st.integers(0, 10**5))
def test_paying_more_with_points_never_earns_more(
    order: tuple[Line, ...], effect: PerAmount, paid: int, more: int
) -> None:
    by_order = effect.model_copy(update={"basis": "order"})
    compiled = program((by_order, "true"))
    assert earned(bought(compiled, order, paid + more)) <= earned(bought(compiled, order, paid))


@given(lines, st.one_of(fixed, per_amounts), conditions)
def test_awards_are_positive_follow_the_lines_and_only_picked_lines_earn(
    order: tuple[Line, ...], effect: Fixed | PerAmount, when: str
) -> None:
    awards = bought(program((effect, when)), order).awards
    assert all(award.points > 0 for award in awards)
    assert [award.line_id for award in awards] == sorted({award.line_id for award in awards}, key=int)
    if "music" in when:
        assert all(order[int(award.line_id)].category == "music" for award in awards)


@given(lines, st.lists(st.tuples(st.one_of(fixed, per_amounts, multipliers), conditions), min_size=1, max_size=6))
def test_the_same_event_always_earns_the_same_and_every_rule_answers(
    order: tuple[Line, ...], effects: list[tuple[Fixed | PerAmount | Multiplier, str]]
) -> None:
    first, second = bought(program(*effects), order), bought(program(*effects), order)
    assert first == second
    assert [result.rule for result in first.results] == [f"r{at}" for at in range(len(effects))]
    assert all(result.fired == (result.reason == "fired") == bool(result.awards) for result in first.results)


@given(st.integers(0, 10**9), st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_a_refund_in_pieces_takes_back_what_one_takes_back(awarded: int, pieces: list[int]) -> None:
    quantity, back, taken = sum(pieces), 0, 0
    for piece in pieces:
        share = refund_share(awarded, quantity, back, piece)
        assert share >= 0
        back, taken = back + piece, taken + share
        assert taken == refund_share(awarded, quantity, 0, back)
    assert taken == awarded


@given(st.integers(0, 10**9), st.integers(1, 100), st.integers(0, 200), st.integers(0, 200))
def test_no_refund_takes_back_more_than_was_earned(awarded: int, quantity: int, refunded: int, returning: int) -> None:
    share = refund_share(awarded, quantity, refunded, returning)
    assert 0 <= share <= awarded - refund_share(awarded, quantity, 0, refunded)
