"""What a program may say: wallets, earning rules, tiers and redemption, as one document that is saved in versions.

The shopkeeper's reference is `docs/programs.md`. The tenant, not the document, says zone and currency.
"""

import hashlib
import json
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from shared.events.envelope import EnvelopeError, parse_instant

CONDITION_CHARS_MAX: Final = 2_000
EFFECT_POINTS_MAX: Final = 1_000_000
AMOUNT_MINOR_MAX: Final = 10**12


def _instant(value: object) -> datetime:
    """RFC 3339 with a zone, in UTC, so that equal instants make equal documents; numbers are no times."""
    if isinstance(value, datetime):
        value = value.isoformat()
    if not isinstance(value, str):
        raise ValueError("write a time as text, like 2026-03-01T00:00:00+08:00")
    try:
        return parse_instant(value, "the time")
    except EnvelopeError as error:
        raise ValueError(str(error)) from None


Code = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,39}$")]
Title = Annotated[str, Field(min_length=1, max_length=200)]
Instant = Annotated[datetime, BeforeValidator(_instant)]


class Part(BaseModel):
    """A part of a program document: an unknown field is an error, so that a misspelt one is never passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _whole(least: int, most: int) -> object:
    return Field(strict=True, ge=least, le=most)


class NeverExpires(Part):
    """Points stay until they are spent."""

    kind: Literal["never"]


class RollingExpiry(Part):
    """Points lapse some months or days after they were earned, at the end of a day, month or year if rounded."""

    kind: Literal["rolling"]
    months: Annotated[int, _whole(1, 1_200)] | None = None
    days: Annotated[int, _whole(1, 36_500)] | None = None
    round: Literal["none", "day", "month", "year"] = "none"

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.months is None) == (self.days is None):
            raise ValueError("give either months or days")
        return self


class CalendarExpiry(Part):
    """Points earned in a calendar year lapse at the end of one day of that year or of a later one."""

    kind: Literal["calendar"]
    month: Annotated[int, _whole(1, 12)]
    day: Annotated[int, _whole(1, 31)]
    years_after: Annotated[int, _whole(0, 100)]


Expiry = Annotated[NeverExpires | RollingExpiry | CalendarExpiry, Field(discriminator="kind")]


class Wallet(Part):
    """Redeemable points pay; qualifying points only count towards a tier."""

    code: Code
    kind: Literal["redeemable", "qualifying"]
    name: Title
    expiry: Expiry = NeverExpires(kind="never")


class Fixed(Part):
    """The same points each time."""

    kind: Literal["fixed"]
    wallet: Code
    points: Annotated[int, _whole(1, EFFECT_POINTS_MAX)]


class PerAmount(Part):
    """`points` for every `per_minor` paid, rounded once for the order or once for each line."""

    kind: Literal["per_amount"]
    wallet: Code
    points: Annotated[int, _whole(1, EFFECT_POINTS_MAX)]
    per_minor: Annotated[int, _whole(1, AMOUNT_MINOR_MAX)]
    rounding: Literal["down", "half_up", "up"] = "down"
    basis: Literal["order", "line"] = "order"


class Multiplier(Part):
    """What the base rules of the wallet earned for this event, times `factor_percent`; the extra is its own award."""

    kind: Literal["multiplier"]
    wallet: Code
    factor_percent: Annotated[int, _whole(-10_000, 10_000)]
    of: tuple[Code, ...] = Field((), max_length=100)
    """The base rules that are multiplied; empty means all of this wallet and event."""


Effect = Annotated[Fixed | PerAmount | Multiplier, Field(discriminator="kind")]


class EarningRule(Part):
    """On this event, when this holds, earn that. `on` is an event type without version, or a custom event's name."""

    code: Code
    name: Title
    on: Title
    when: str = Field("true", max_length=CONDITION_CHARS_MAX)
    """A CEL expression; only a real `true` is a match."""
    effect: Effect
    valid_from: Instant | None = None
    valid_until: Instant | None = None
    """The first instant at which the rule no longer holds. Both are compared with the event's own time."""


class Level(Part):
    """A tier level, reached with `threshold` qualifying points in one period."""

    code: Code
    name: Title
    threshold: Annotated[int, _whole(0, 10**15)]
    benefits: tuple[Title, ...] = Field((), max_length=50)


class Review(Part):
    """When a period ends, and how far a member falls who did not qualify again in it.

    Either on the anniversary of joining, or each year at 00:00 of `month`/`day` in the tenant's zone.
    """

    kind: Literal["yearly"]
    on_anniversary: bool = Field(False, strict=True)
    month: Annotated[int, _whole(1, 12)] | None = None
    day: Annotated[int, _whole(1, 31)] | None = None
    downgrade: Literal["none", "step", "full"] = "full"

    @model_validator(mode="after")
    def _one_date(self) -> Self:
        dated = (self.month is not None, self.day is not None)
        if dated not in ((True, True), (False, False)) or dated[0] == self.on_anniversary:
            raise ValueError("give either on_anniversary: true, or both month and day")
        return self


class Tiers(Part):
    """Levels by qualifying points earned since the period's start: up at once, down only at the review."""

    code: Code
    wallet: Code
    levels: tuple[Level, ...] = Field(min_length=1, max_length=50)
    review: Review


class Redemption(Part):
    """What a point pays, and what a refund does when the points it takes back are already spent."""

    wallet: Code
    minor_per_point: Annotated[int, _whole(1, AMOUNT_MINOR_MAX)]
    minimum_points: Annotated[int, _whole(1, 10**12)] = 1
    step_points: Annotated[int, _whole(1, 10**12)] = 1
    refunds: Literal["pending-only", "within-balance", "allow-negative"] = "within-balance"


class ProgramDocument(Part):
    """One version of a program. Its shape is checked here, its sense by `services.points.programs.checks`."""

    name: Title
    wallets: tuple[Wallet, ...] = Field(min_length=1, max_length=20)
    rules: tuple[EarningRule, ...] = Field((), max_length=100)
    tiers: Tiers | None = None
    redemption: Redemption | None = None

    def wallet(self, code: str) -> Wallet | None:
        return next((wallet for wallet in self.wallets if wallet.code == code), None)


def document_text(document: ProgramDocument) -> str:
    """The one JSON text of a document: keys sorted, defaults written out."""
    return json.dumps(document.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def document_hash(document: ProgramDocument) -> str:
    """SHA-256 of `document_text` in hex."""
    return hashlib.sha256(document_text(document).encode()).hexdigest()
