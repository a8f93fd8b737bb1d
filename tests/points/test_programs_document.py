"""Documents that are refused, each with the problem that says what to do; and that the rest is taken as written."""

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from services.points.programs.checks import OUR_NAMESPACES, PROBLEMS_MAX, ProgramInvalid, problems, read_document
from services.points.programs.document import ProgramDocument, document_hash, document_text
from services.points.programs.sample import SAMPLE_PROGRAM
from shared.events import catalogue, door

Change = dict[str, Any]


def changed(changes: Change) -> dict[str, Any]:
    """The sample program with values replaced by path; a path that ends in `+` appends to a list."""
    document = copy.deepcopy(SAMPLE_PROGRAM)
    for path, value in changes.items():
        *steps, last = path.split(".")
        place: Any = document
        for step in steps:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if last == "+":
            place.append(value)
        else:
            place[int(last) if isinstance(place, list) else last] = value
    return document


def refused(raw: Any) -> dict[str, str]:
    with pytest.raises(ProgramInvalid) as caught:
        read_document(raw)
    assert all(problem.detail for problem in caught.value.problems)
    return {problem.path: problem.code for problem in caught.value.problems}


RULE = {"code": "r", "name": "r", "on": "store.visited", "effect": {"kind": "fixed", "wallet": "points", "points": 1}}
WALLET = {"code": "w", "kind": "redeemable", "name": "w"}


@pytest.mark.parametrize(
    ("changes", "path", "code"),
    [
        ({"wallets.+": {**WALLET, "code": "points"}}, "wallets.points", "duplicate-code"),
        ({"rules.1.code": "dollar"}, "rules.dollar", "duplicate-code"),
        ({"tiers.levels.2.code": "silver"}, "tiers.levels.silver", "duplicate-code"),
        ({"wallets.+": {**WALLET, "code": "in"}}, "wallets.in", "reserved-code"),
        ({"rules.0.effect.wallet": "bonus"}, "rules.dollar.effect.wallet", "unknown-wallet"),
        ({"tiers.wallet": "bonus"}, "tiers.wallet", "unknown-wallet"),
        ({"redemption.wallet": "bonus"}, "redemption.wallet", "unknown-wallet"),
        ({"rules.0.on": "purchase.completed.v1"}, "rules.dollar.on", "unknown-event"),
        ({"rules.0.on": "purchase.refunded"}, "rules.dollar.on", "unknown-event"),
        ({"rules.0.on": "tier.changed"}, "rules.dollar.on", "unknown-event"),
        ({"rules.0.on": "store.visited"}, "rules.dollar.effect", "no-amount"),
        ({"rules.2.valid_from": "2026-01-01T00:00:00Z", "rules.2.valid_until": "2026-01-01T08:00:00+08:00"},
         "rules.welcome.valid_until", "validity-empty"),
        ({"rules.2.when": "order.totl > 1"}, "rules.welcome.when", "condition-invalid"),
        ({"rules.2.when": "order.total_minor > 1.5"}, "rules.welcome.when", "condition-invalid"),
        ({"rules.2.when": "member.balances.bonus > 1"}, "rules.welcome.when", "condition-invalid"),
        ({"rules.2.when": "order.total_minor"}, "rules.welcome.when", "condition-invalid"),
        ({"rules.+": {**RULE, "when": "order.total_minor > 1"}}, "rules.r.when", "condition-invalid"),
        ({"rules.1.effect.factor_percent": 100}, "rules.member_day.effect.factor_percent", "factor-too-small"),
        ({"rules.1.effect.factor_percent": 0}, "rules.member_day.effect.factor_percent", "factor-too-small"),
        ({"rules.1.effect.factor_percent": -200}, "rules.member_day.effect.factor_percent", "factor-too-small"),
        ({"rules.1.effect.of": ["dollars"]}, "rules.member_day.effect.of", "no-base-rule"),
        ({"rules.1.effect.of": ["member_day"]}, "rules.member_day.effect.of", "no-base-rule"),
        ({"rules.1.effect.of": ["status"]}, "rules.member_day.effect.of", "no-base-rule"),
        ({"rules.1.on": "store.visited"}, "rules.member_day.effect", "no-base-rule"),
        ({"wallets.+": WALLET, "rules.1.effect.wallet": "w"}, "rules.member_day.effect", "no-base-rule"),
        ({"tiers.wallet": "points"}, "tiers.wallet", "wallet-not-qualifying"),
        ({"redemption.wallet": "status"}, "redemption.wallet", "wallet-not-redeemable"),
        ({"tiers.levels.0.threshold": 1}, "tiers.levels", "first-threshold"),
        ({"tiers.levels.2.threshold": 100}, "tiers.levels.gold", "thresholds-not-rising"),
        ({"tiers.levels.2.threshold": 50}, "tiers.levels.gold", "thresholds-not-rising"),
        ({"redemption.minimum_points": 150}, "redemption.minimum_points", "minimum-off-step"),
        ({"redemption.minimum_points": 50}, "redemption.minimum_points", "minimum-off-step"),
        ({"wallets.0.expiry": {"kind": "calendar", "month": 6, "day": 30, "years_after": 0}},
         "wallets.points.expiry", "expires-before-earned"),
    ],
)  # fmt: skip
def test_a_document_that_contradicts_itself_is_refused(changes: Change, path: str, code: str) -> None:
    assert refused(changed(changes))[path] == code


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"nmae": "x"}, "nmae"),
        ({"zone": "UTC"}, "zone"),
        ({"name": ""}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"wallets": []}, "wallets"),
        ({"wallets.0.code": "Points"}, "wallets.0.code"),
        ({"wallets.0.code": "my-points"}, "wallets.0.code"),
        ({"wallets.0.code": "p" * 41}, "wallets.0.code"),
        ({"wallets.0.kind": "gold"}, "wallets.0.kind"),
        ({"wallets.0.expiry": {"kind": "soon"}}, "wallets.0.expiry"),
        ({"wallets.0.expiry": {"kind": "rolling"}}, "wallets.0.expiry.rolling"),
        ({"wallets.0.expiry": {"kind": "rolling", "months": 1, "days": 1}}, "wallets.0.expiry.rolling"),
        ({"wallets.0.expiry": {"kind": "rolling", "months": 0}}, "wallets.0.expiry.rolling.months"),
        ({"wallets.0.expiry": {"kind": "rolling", "months": 1.0}}, "wallets.0.expiry.rolling.months"),
        ({"wallets.0.expiry": {"kind": "calendar", "month": 13, "day": 1, "years_after": 1}},
         "wallets.0.expiry.calendar.month"),
        ({"rules.0.effect.points": 1.5}, "rules.0.effect.per_amount.points"),
        ({"rules.0.effect.points": "1"}, "rules.0.effect.per_amount.points"),
        ({"rules.0.effect.points": True}, "rules.0.effect.per_amount.points"),
        ({"rules.0.effect.points": 0}, "rules.0.effect.per_amount.points"),
        ({"rules.0.effect.points": -1}, "rules.0.effect.per_amount.points"),
        ({"rules.0.effect.per_minor": 0}, "rules.0.effect.per_amount.per_minor"),
        ({"rules.0.effect.per_minor": 10**30}, "rules.0.effect.per_amount.per_minor"),
        ({"rules.0.effect.rounding": "bankers"}, "rules.0.effect.per_amount.rounding"),
        ({"rules.0.when": "x" * 2001}, "rules.0.when"),
        ({"rules.0.when": True}, "rules.0.when"),
        ({"rules.0.valid_from": "2026-01-01T00:00:00"}, "rules.0.valid_from"),
        ({"rules.0.valid_from": "2026-01-01"}, "rules.0.valid_from"),
        ({"rules.0.valid_from": 1767225600}, "rules.0.valid_from"),
        ({"rules.0.valid_from": "1767225600"}, "rules.0.valid_from"),
        ({"rules": [RULE] * 101}, "rules"),
        ({"tiers.levels": []}, "tiers.levels"),
        ({"tiers.levels.1.threshold": -5}, "tiers.levels.1.threshold"),
        ({"tiers.review": {"kind": "yearly"}}, "tiers.review"),
        ({"tiers.review": {"kind": "yearly", "month": 1}}, "tiers.review"),
        ({"tiers.review": {"kind": "yearly", "month": 1, "day": 1, "on_anniversary": True}}, "tiers.review"),
        ({"redemption.minor_per_point": 0}, "redemption.minor_per_point"),
        ({"redemption.step_points": 0}, "redemption.step_points"),
        ({"redemption.refunds": "maybe"}, "redemption.refunds"),
    ],
)  # fmt: skip
def test_a_malformed_document_is_refused(changes: Change, path: str) -> None:
    assert refused(changed(changes)) == {path: "malformed"}


@pytest.mark.parametrize("raw", [None, [], "x", 1, {}, {"name": "x", "wallets": {}}])
def test_what_is_no_document_is_refused(raw: Any) -> None:
    assert set(refused(raw).values()) == {"malformed"}


def test_a_bottomless_document_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert refused(changed({"wallets.0.expiry": deep}))


def test_all_problems_are_told_at_once_but_not_without_end() -> None:
    both = refused(changed({"tiers.wallet": "points", "redemption.wallet": "status", "rules.2.when": "1"}))
    assert set(both) == {"tiers.wallet", "redemption.wallet", "rules.welcome.when"}
    rules = [{**RULE, "code": f"r{n}", "when": "1"} for n in range(99)]
    assert len(refused(changed({"rules": rules}))) == PROBLEMS_MAX


def test_a_problem_says_what_to_do() -> None:
    (problem,) = problems(ProgramDocument.model_validate(changed({"rules.0.effect.wallet": "bonus", "rules.1": RULE})))
    assert problem.detail == "there is no wallet 'bonus'; use one of points, status, or add it to wallets"


def test_the_sample_program_is_without_problems() -> None:
    document = read_document(SAMPLE_PROGRAM)
    assert [rule.code for rule in document.rules] == ["dollar", "member_day", "welcome", "status"]
    assert document.wallet("points") == document.wallets[0]
    assert document.wallet("none") is None


def test_a_published_document_reads_back_the_same() -> None:
    document = read_document(changed({"rules.0.valid_from": "2026-01-01T08:00:00+08:00"}))
    assert document.rules[0].valid_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert ProgramDocument.model_validate_json(document_text(document)) == document
    assert read_document(document.model_dump(mode="json")) == document
    assert read_document(document.model_dump()) == document


def test_documents_that_mean_the_same_have_one_hash() -> None:
    plain = read_document(SAMPLE_PROGRAM)
    turned = read_document(dict(reversed(changed({"rules.0.when": "true"}).items())))
    assert document_hash(turned) == document_hash(plain)
    assert document_hash(read_document(changed({"rules.0.effect.points": 2}))) != document_hash(plain)


def test_a_document_cannot_be_changed() -> None:
    document = read_document(SAMPLE_PROGRAM)
    with pytest.raises(ValueError, match="frozen"):
        document.__setattr__("name", "Other")


def test_no_custom_event_is_mistaken_for_a_type_that_members_events_have() -> None:
    types = [declared.name for declared in catalogue.every() if declared.owner == door.OWNER]
    ours = {name.split(".")[0] for name in types if declared_for_members(name)}
    assert ours == {"contact", "purchase", "custom"}
    assert ours <= OUR_NAMESPACES


def declared_for_members(name: str) -> bool:
    return catalogue.find(name).kind == "fact" and not name.startswith(("delivery.", "refund."))
