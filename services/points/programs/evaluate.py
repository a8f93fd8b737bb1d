"""What an event earns: every rule of a program answers with a reason code, and with awards if it fires.

1. The part of an order that was paid with points earns nothing: it is taken off the lines in proportion, exactly.
   Line amounts come net of discounts already.
2. A condition that mentions `line` picks lines, and its rule sees only the picked ones.
3. Fixed and per-amount rules earn first, then multipliers on what those earned, each for itself: two doublings are
   two extras, not a fourfold.
4. Every award of an order is divided over lines, so that a refund takes back what its items earned.

Whole numbers only. The order of results is the document's, the order of awards the order's lines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, assert_never

from services.points.programs.conditions import DETAIL_CHARS_MAX, Condition, ConditionInvalid, ask, compile_condition
from services.points.programs.dates import expires_at
from services.points.programs.document import (
    EarningRule,
    Fixed,
    Multiplier,
    PerAmount,
    ProgramDocument,
    document_hash,
)
from services.points.programs.domain import PURCHASE, Happened
from services.points.programs.inputs import line_values, recorded, values
from services.points.programs.shares import divided, spread
from shared.events.catalogue import POINTS_MAX
from shared.events.envelope import instant

AWARDS_MAX: Final = 2_500
"""Awards of one event, so that its record stays within what the log takes for one input."""

Reason = Literal[
    "fired",
    "other-event",
    "not-yet-valid",
    "no-longer-valid",
    "other-currency",
    "condition-false",
    "condition-error",
    "nothing-to-earn",
    "over-limit",
]


class Award(NamedTuple):
    """Points for one line of an order, or for an event without lines (`line_id` empty)."""

    rule: str
    wallet: str
    points: int
    line_id: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule said to one event, and the values it was decided with (plain JSON)."""

    rule: str
    fired: bool
    reason: Reason
    inputs: dict[str, Any] = field(default_factory=dict)
    awards: tuple[Award, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    results: tuple[RuleResult, ...]

    @property
    def awards(self) -> tuple[Award, ...]:
        return tuple(award for result in self.results for award in result.awards)


@dataclass(frozen=True)
class CompiledRule:
    rule: EarningRule
    condition: Condition
    broken: str = ""
    """Why the stored condition does not compile with this release; such a rule answers `condition-error`."""


@dataclass(frozen=True)
class CompiledProgram:
    document: ProgramDocument
    document_hash: str
    rules: tuple[CompiledRule, ...]


def compile_program(document: ProgramDocument) -> CompiledProgram:
    """Compile the conditions. Never raises: whether a document may be published is asked by `checks`."""
    wallets = tuple(wallet.code for wallet in document.wallets)
    return CompiledProgram(
        document, document_hash(document), tuple(_compiled(rule, wallets) for rule in document.rules)
    )


@lru_cache(maxsize=512)
def compiled_from(text: str) -> CompiledProgram:
    """The program of a stored document's JSON text; remembered by the text."""
    return compile_program(ProgramDocument.model_validate_json(text))


def _compiled(rule: EarningRule, wallets: tuple[str, ...]) -> CompiledRule:
    try:
        return CompiledRule(rule, compile_condition(rule.when, purchase=rule.on == PURCHASE, wallets=wallets))
    except ConditionInvalid as error:
        return CompiledRule(rule, Condition(rule.when), broken=str(error)[:DETAIL_CHARS_MAX])


class _Place(NamedTuple):
    """A line of an order, or the one place of an event without lines."""

    line_id: str
    earning_minor: int
    """The line's amount without its share of what was paid with points."""
    quantity: int


class _Said(NamedTuple):
    """A rule's answer before awards are made: points by place, empty if it earned nothing."""

    reason: Reason
    inputs: dict[str, Any]
    parts: Sequence[int] = ()


def evaluate(program: CompiledProgram, happened: Happened) -> Evaluation:
    """Ask every rule. Never raises for what an event or a condition contains."""
    places = _places(happened)
    base: dict[str, _Said] = {}
    extra: dict[str, _Said] = {}
    for compiled in program.rules:
        if not isinstance(compiled.rule.effect, Multiplier):
            base[compiled.rule.code] = _answer(compiled, happened, places, ())
    for compiled in program.rules:
        if isinstance(compiled.rule.effect, Multiplier):
            earned = _earned(compiled.rule.effect, program, base)
            extra[compiled.rule.code] = _answer(compiled, happened, places, earned)
    return Evaluation(_results(program, happened, places, base | extra))


def _places(happened: Happened) -> list[_Place]:
    if not happened.lines:
        return [_Place("", 0, 1)]
    amounts = [line.amount_minor for line in happened.lines]
    paid = spread(min(happened.paid_with_points_minor, sum(amounts)), amounts)
    return [
        _Place(line.line_id, line.amount_minor - part, line.quantity)
        for line, part in zip(happened.lines, paid, strict=True)
    ]


def _earned(effect: Multiplier, program: CompiledProgram, base: Mapping[str, _Said]) -> list[int]:
    """What the base rules of a multiplier earned, by place; empty if nothing."""
    parts = [
        base[rule.code].parts
        for rule in program.document.rules
        if rule.effect.wallet == effect.wallet
        and rule.code in base
        and base[rule.code].parts
        and (not effect.of or rule.code in effect.of)
    ]
    return [sum(of_place) for of_place in zip(*parts, strict=True)]


def _answer(compiled: CompiledRule, happened: Happened, places: Sequence[_Place], earned: Sequence[int]) -> _Said:
    rule, condition = compiled.rule, compiled.condition
    if (refusal := _unasked(rule, happened)) is not None:
        return refusal
    if compiled.broken:
        return _Said("condition-error", {"error": compiled.broken})
    if condition.expression is None:
        return _effect(rule.effect, places, [True] * len(places), earned, {})
    known = values(condition, happened)
    inputs = recorded(condition, known)
    picked: list[bool] = []
    for of_line in line_values(condition, happened):
        answer = ask(condition, known | of_line)
        if answer.error:
            return _Said("condition-error", {**inputs, "error": answer.error})
        picked.append(answer.matched)
    if condition.per_line:
        inputs["lines_matched"] = sum(picked)
    else:
        picked *= len(places)
    if not any(picked):
        return _Said("condition-false", inputs)
    return _effect(rule.effect, places, picked, earned, inputs)


def _unasked(rule: EarningRule, happened: Happened) -> _Said | None:
    """The answer of a rule that does not even look at the event."""
    if rule.on != happened.name or (rule.on == PURCHASE) == happened.custom:
        return _Said("other-event", {})
    if rule.valid_from is not None and happened.time < rule.valid_from:
        return _Said("not-yet-valid", {"event.time": instant(happened.time)})
    if rule.valid_until is not None and happened.time >= rule.valid_until:
        return _Said("no-longer-valid", {"event.time": instant(happened.time)})
    if not happened.custom and happened.currency != happened.program_currency:
        return _Said("other-currency", {"order.currency": happened.currency})
    return None


def _effect(
    effect: Fixed | PerAmount | Multiplier,
    places: Sequence[_Place],
    picked: Sequence[bool],
    earned: Sequence[int],
    inputs: dict[str, Any],
) -> _Said:
    amounts = [place.earning_minor if yes else 0 for place, yes in zip(places, picked, strict=True)]
    match effect:
        case Fixed():
            pieces = [place.quantity if yes else 0 for place, yes in zip(places, picked, strict=True)]
            parts = spread(effect.points, amounts if any(amounts) else pieces)
        case PerAmount(basis="line"):
            inputs["earning_minor"] = sum(amounts)
            parts = [divided(effect.points * amount, effect.per_minor, effect.rounding) for amount in amounts]
        case PerAmount():
            inputs["earning_minor"] = sum(amounts)
            parts = spread(divided(effect.points * sum(amounts), effect.per_minor, effect.rounding), amounts)
        case Multiplier():
            bases = [points if yes else 0 for points, yes in zip(earned or [0] * len(picked), picked, strict=True)]
            inputs["base_points"] = sum(bases)
            parts = spread(sum(bases) * (effect.factor_percent - 100) // 100, bases)
        case _:
            assert_never(effect)
    total = sum(parts)
    if total <= 0:
        return _Said("nothing-to-earn", inputs)
    if total > POINTS_MAX:
        return _Said("over-limit", inputs)
    return _Said("fired", inputs, parts)


def _results(
    program: CompiledProgram, happened: Happened, places: Sequence[_Place], said: Mapping[str, _Said]
) -> tuple[RuleResult, ...]:
    results: list[RuleResult] = []
    room = AWARDS_MAX
    lapse: dict[str, datetime | None] = {}
    for rule in program.document.rules:
        answer = said[rule.code]
        awards: tuple[Award, ...] = ()
        if answer.parts:
            wallet = rule.effect.wallet
            if wallet not in lapse:
                lapse[wallet] = _lapse(program, wallet, happened)
            awards = _awards(rule, places, answer.parts, lapse[wallet])
            if len(awards) > room:
                answer, awards = _Said("over-limit", answer.inputs), ()
            room -= len(awards)
        results.append(RuleResult(rule.code, bool(awards), answer.reason, answer.inputs, awards))
    return tuple(results)


def _awards(
    rule: EarningRule, places: Sequence[_Place], parts: Sequence[int], lapse: datetime | None
) -> tuple[Award, ...]:
    """One award a line; lines that share an id share an award, because a refund cannot tell them apart."""
    by_line: dict[str, int] = {}
    for place, points in zip(places, parts, strict=True):
        if points:
            by_line[place.line_id] = by_line.get(place.line_id, 0) + points
    return tuple(Award(rule.code, rule.effect.wallet, points, line_id, lapse) for line_id, points in by_line.items())


def _lapse(program: CompiledProgram, code: str, happened: Happened) -> datetime | None:
    wallet = program.document.wallet(code)
    return None if wallet is None else expires_at(wallet.expiry, happened.time, happened.zone)
