"""Whether a program document makes sense, asked before it is saved and again when it is decided.

Each problem names its place and says what to do.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from services.points.programs.conditions import ConditionInvalid, compile_condition
from services.points.programs.document import (
    CalendarExpiry,
    EarningRule,
    Fixed,
    Multiplier,
    PerAmount,
    ProgramDocument,
)
from services.points.programs.domain import PURCHASE

PROBLEMS_MAX: Final = 50

OUR_NAMESPACES: Final = frozenset(
    {
        *("purchase", "contact", "points", "tier", "reward", "referral", "program", "tenant", "custom"),
        *("interaction", "complaint", "survey", "opportunity", "segment", "message"),
    }
)
"""First words of the system's own event types: no custom event is named so (docs/programs.md)."""

CEL_WORDS: Final = frozenset(
    {
        *("as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let"),
        *("loop", "namespace", "null", "package", "return", "true", "var", "void", "while"),
    }
)
"""https://github.com/google/cel-spec/blob/v0.24.0/doc/langdef.md#syntax, production RESERVED and the literals."""


class Problem(NamedTuple):
    """`path` is where, like `rules.dollar.when`; `code` is stable; `detail` says what to do."""

    path: str
    code: str
    detail: str


class ProgramInvalid(ValueError):
    """The document cannot be saved."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{problem.path}: {problem.detail}" for problem in problems))
        self.problems = problems


def read_document(raw: Any) -> ProgramDocument:
    """The checked document of plain JSON; raises ProgramInvalid with every problem, up to PROBLEMS_MAX."""
    try:
        document = ProgramDocument.model_validate(raw)
    except ValidationError as error:
        found = [Problem(_path(e["loc"]), "malformed", e["msg"]) for e in error.errors(include_url=False)]
        raise ProgramInvalid(tuple(found[:PROBLEMS_MAX])) from None
    except RecursionError:
        raise ProgramInvalid((Problem("", "malformed", "the document is nested too deeply"),)) from None
    if wrong := problems(document):
        raise ProgramInvalid(wrong[:PROBLEMS_MAX])
    return document


def problems(document: ProgramDocument) -> tuple[Problem, ...]:
    """Everything in the document that contradicts itself; empty means it may be published."""
    return (
        *_duplicates("wallets", (wallet.code for wallet in document.wallets)),
        *_duplicates("rules", (rule.code for rule in document.rules)),
        *_wallets(document),
        *(problem for rule in document.rules for problem in _rule(document, rule)),
        *_tiers(document),
        *_redemption(document),
    )


def _path(location: Iterable[int | str]) -> str:
    return ".".join(str(part) for part in location)


def _duplicates(path: str, codes: Iterable[str]) -> Iterator[Problem]:
    for code, times in Counter(codes).items():
        if times > 1:
            yield Problem(f"{path}.{code}", "duplicate-code", f"{times} have the code {code!r}; give each its own")


def _wallets(document: ProgramDocument) -> Iterator[Problem]:
    for wallet in document.wallets:
        path = f"wallets.{wallet.code}"
        if wallet.code in CEL_WORDS:
            yield Problem(path, "reserved-code", f"{wallet.code!r} is a word of the condition language; choose another")
        expiry = wallet.expiry
        if isinstance(expiry, CalendarExpiry) and expiry.years_after == 0 and (expiry.month, expiry.day) != (12, 31):
            yield Problem(
                f"{path}.expiry",
                "expires-before-earned",
                "points earned later in the year would lapse before they are earned; "
                "set years_after to 1, or the day to 31 December",
            )


def _rule(document: ProgramDocument, rule: EarningRule) -> Iterator[Problem]:
    path = f"rules.{rule.code}"
    yield from _wallet_known(document, f"{path}.effect.wallet", rule.effect.wallet)
    yield from _event_known(f"{path}.on", rule.on)
    if rule.valid_from is not None and rule.valid_until is not None and rule.valid_from >= rule.valid_until:
        yield Problem(
            f"{path}.valid_until", "validity-empty", "valid_until must be later than valid_from; swap or change them"
        )
    wallets = tuple(wallet.code for wallet in document.wallets)
    try:
        compile_condition(rule.when, purchase=rule.on == PURCHASE, wallets=wallets)
    except ConditionInvalid as error:
        yield Problem(f"{path}.when", "condition-invalid", str(error))
    match rule.effect:
        case PerAmount() if rule.on != PURCHASE:
            yield Problem(
                f"{path}.effect", "no-amount", f"{rule.on!r} has no amount; use a fixed effect, or on: {PURCHASE}"
            )
        case Multiplier() as multiplier:
            yield from _multiplier(document, rule, multiplier)
        case Fixed() | PerAmount():
            pass


def _event_known(path: str, name: str) -> Iterator[Problem]:
    if name == PURCHASE or name.split(".")[0] not in OUR_NAMESPACES:
        return
    if name.startswith(f"{PURCHASE}.v"):
        yield Problem(path, "unknown-event", f"write {PURCHASE!r}, without the version")
    else:
        yield Problem(
            path, "unknown-event", f"nothing is earned on {name!r}; use {PURCHASE!r} or the name of a custom event"
        )


def _multiplier(document: ProgramDocument, rule: EarningRule, effect: Multiplier) -> Iterator[Problem]:
    path = f"rules.{rule.code}.effect"
    if effect.factor_percent <= 100:
        yield Problem(
            f"{path}.factor_percent",
            "factor-too-small",
            "a factor must be over 100 (200 doubles); to earn less, change the base rule or its condition",
        )
    bases = {
        base.code
        for base in document.rules
        if base.on == rule.on and base.effect.wallet == effect.wallet and not isinstance(base.effect, Multiplier)
    }
    if not bases:
        yield Problem(
            path,
            "no-base-rule",
            f"no fixed or per_amount rule earns {effect.wallet!r} on {rule.on!r}, so there is nothing to multiply; "
            "add one",
        )
    for code in effect.of:
        if bases and code not in bases:
            yield Problem(
                f"{path}.of", "no-base-rule", f"{code!r} is none of the rules it can multiply: {_listed(bases)}"
            )


def _tiers(document: ProgramDocument) -> Iterator[Problem]:
    tiers = document.tiers
    if tiers is None:
        return
    yield from _duplicates("tiers.levels", (level.code for level in tiers.levels))
    yield from _wallet_known(document, "tiers.wallet", tiers.wallet)
    wallet = document.wallet(tiers.wallet)
    if wallet is not None and wallet.kind != "qualifying":
        yield Problem(
            "tiers.wallet",
            "wallet-not-qualifying",
            f"{wallet.code!r} is spent, so it cannot count towards a tier; name a wallet of kind qualifying",
        )
    thresholds = [level.threshold for level in tiers.levels]
    if thresholds[0] != 0:
        yield Problem("tiers.levels", "first-threshold", "the first level is everybody's: its threshold must be 0")
    for below, above in zip(tiers.levels, tiers.levels[1:], strict=False):
        if above.threshold <= below.threshold:
            yield Problem(
                f"tiers.levels.{above.code}",
                "thresholds-not-rising",
                f"its threshold must be over {below.threshold}, that of {below.code!r}; put the levels in order",
            )


def _redemption(document: ProgramDocument) -> Iterator[Problem]:
    redemption = document.redemption
    if redemption is None:
        return
    yield from _wallet_known(document, "redemption.wallet", redemption.wallet)
    wallet = document.wallet(redemption.wallet)
    if wallet is not None and wallet.kind != "redeemable":
        yield Problem(
            "redemption.wallet",
            "wallet-not-redeemable",
            f"{wallet.code!r} only counts towards a tier; name a wallet of kind redeemable",
        )
    if redemption.minimum_points % redemption.step_points:
        yield Problem(
            "redemption.minimum_points",
            "minimum-off-step",
            f"{redemption.minimum_points} can never be redeemed in steps of {redemption.step_points}; "
            "make the minimum a multiple of the step",
        )


def _wallet_known(document: ProgramDocument, path: str, code: str) -> Iterator[Problem]:
    if document.wallet(code) is None:
        known = _listed(wallet.code for wallet in document.wallets)
        yield Problem(path, "unknown-wallet", f"there is no wallet {code!r}; use one of {known}, or add it to wallets")


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(sorted(codes))
