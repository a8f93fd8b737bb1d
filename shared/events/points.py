"""Events of the points worker: programs, what was earned, spent, lapsed, adjusted and taken back, and tiers."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from shared.events.catalogue import AmountMinor, Data, Points, Time, declare

OWNER: Final = "points"

Code = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(max_length=500)]
Number = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[Points, Field(ge=0)]

_DOCUMENT: Final = {"name": "Acme Club", "wallets": [{"code": "points", "kind": "redeemable", "name": "Points"}]}
_HASH: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

# Programs: decided on the tenant's partition, told to every partition.


@declare("program.draft.v1", OWNER, "request", {"program": "main", "document": _DOCUMENT, "by": "li"})
class DraftProgram(Data):
    """Keep a draft of a program; nothing earns by it until it is published."""

    program: Code = "main"
    document: dict[str, Any]
    by: Text = ""


@declare(
    "program.drafted.v1", OWNER, "fact", {"program": "main", "document": _DOCUMENT, "document_hash": _HASH, "by": "li"}
)
class ProgramDrafted(DraftProgram):
    """A draft was kept."""

    document_hash: str


@declare(
    "program.publish.v1", OWNER, "request", {"program": "main", "effective_from": "2026-02-01T00:00:00Z", "by": "li"}
)
class PublishProgram(Data):
    """Publish a program's draft as its next version."""

    program: Code = "main"
    effective_from: Time | None = None
    """From which event time on it rules; None: from the moment it is decided."""
    by: Text = ""


_PUBLISHED: Final = {
    "program": "main",
    "version": 1,
    "effective_from": "2026-02-01T00:00:00Z",
    "document": _DOCUMENT,
    "document_hash": _HASH,
}


class ProgramVersion(Data):
    """One version of a program, never changed again."""

    program: Code
    version: Number
    effective_from: Time
    document: dict[str, Any]
    document_hash: str


@declare("program.published.v1", OWNER, "fact", {**_PUBLISHED, "by": "li"})
class ProgramPublished(ProgramVersion):
    """A version of a program was published."""

    by: Text = ""


@declare("program.declared.v1", OWNER, "letter", _PUBLISHED, everywhere=True)
class ProgramDeclared(ProgramVersion):
    """A version of a program, told to every partition of every service."""


# Requests of a member.


@declare("points.redeem.v1", OWNER, "request", {"wallet": "points", "points": 500, "reference": "till 7, order 1002"})
class RedeemPoints(Data):
    """Spend points, all or nothing."""

    wallet: Text = ""
    """Empty: the wallet that the program's redemption names."""
    points: Points
    reference: Text = ""
    """What they pay for, as the caller calls it."""


@declare(
    "points.adjust.v1", OWNER, "request", {"wallet": "points", "points": -50, "reason": "typing error", "by": "li"}
)
class AdjustPoints(Data):
    """Give (above 0) or take (below 0) points by hand, with a reason."""

    wallet: Code
    points: Points
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    by: Code


# What the rules said of one event.


class RuleOutcome(Data):
    """Why a rule did or did not earn: a stable reason code and the values it used."""

    rule: str
    fired: bool
    reason: str
    inputs: dict[str, Any] = Field(default_factory=dict)


class BoughtLine(Data):
    """How many pieces of an order's line were bought."""

    line_id: str
    quantity: Number


_VERSION: Final = {"program": "main", "version": 1}
_RULE: Final = {**_VERSION, "rule": "base", "wallet": "points"}
_LAPSES: Final = "2027-02-01T00:00:00Z"
_CAUSED_BY: Final = {
    "event_source": "https://shop.example/pos-7",
    "event_id": "evt-1",
    "event_type": "purchase.completed.v1",
    "channel": "web",
    "order_id": "1001",
}


class CausedByEvent(Data):
    """The received event that a decision is about, by its sender's source and id, and the order it names."""

    event_source: str
    event_id: str
    event_type: str
    channel: str = ""
    order_id: str = ""


_EVALUATED: Final = {
    **_CAUSED_BY,
    **_VERSION,
    "reason": "evaluated",
    "lines": [{"line_id": "1", "quantity": 2}],
    "results": [{"rule": "base", "fired": False, "reason": "nothing-to-earn", "inputs": {"earning_minor": 0}}],
}


class Evaluated(CausedByEvent):
    """An event was put to the earning rules in force at its time: what each of them said, and why."""

    program: str
    """Empty when no program was in force, and nothing earned."""
    version: int
    reason: str
    """`evaluated`. Of what earned nothing also why no rule was asked (`no-program`, `tenant-unknown`,
    `order-already-known`, `refund-already-known`) or its answer not followed (`balance-too-large`, `too-large`)."""
    lines: tuple[BoughtLine, ...] = ()
    """Of a purchase that is new; empty for all else."""
    results: tuple[RuleOutcome, ...] = ()


@declare("rules.evaluated.v1", OWNER, "fact", _EVALUATED)
class RulesEvaluated(Evaluated):
    """An event was put to the rules, or could not be, and earned nothing."""


# What happened to points. `lot` is the number of the ledger entry that made the lot.


class Earned(Data):
    """Points that one rule gave for one line (or, with an empty `line_id`, for the whole event)."""

    rule: str
    wallet: str
    points: Number
    line_id: str = ""
    expires_at: Time | None = None
    lot: Number
    standing: bool = False
    """True: they join the wallet's standing lot (points of a qualifying wallet that never lapse)."""
    repaid: Count = 0
    """The part that at once paid back what the member owed."""


_AWARD: Final = {"rule": "base", "wallet": "points", "points": 590, "line_id": "1", "expires_at": _LAPSES, "lot": 1}
_FIRED: Final = {"rule": "base", "fired": True, "reason": "fired", "inputs": {"earning_minor": 2950}}


@declare("points.earned.v1", OWNER, "fact", {**_EVALUATED, "results": [_FIRED], "awards": [_AWARD], "qualified": 0})
class PointsEarned(Evaluated):
    """An event was put to the rules and earned points: one lot per award."""

    awards: tuple[Earned, ...] = Field(min_length=1)
    qualified: int
    """By how much the tier's qualifying points of the running period change."""


class FromLot(Data):
    """Points taken out of one lot."""

    lot: Number
    points: Number


_REDEEMED: Final = {
    **_VERSION,
    "wallet": "points",
    "points": 100,
    "worth_minor": 100,
    "currency": "USD",
    "reference": "till 7, order 1002",
    "lots": [{"lot": 1, "points": 100}],
    "available": 490,
}


@declare("points.redeemed.v1", OWNER, "fact", _REDEEMED)
class PointsRedeemed(Data):
    """Points were spent, from the lots named, in burn order."""

    program: str
    version: int
    wallet: str
    points: Number
    worth_minor: AmountMinor
    currency: str
    reference: str
    lots: tuple[FromLot, ...]
    available: Count
    """What is left to spend after it."""


class Lapsed(Data):
    """What was left in lots of one rule and one instant when they lapsed."""

    wallet: str
    program: str
    version: int
    rule: str
    expires_at: Time
    lots: tuple[FromLot, ...] = Field(min_length=1)


_LAPSED: Final = {**_RULE, "expires_at": _LAPSES, "lots": [{"lot": 1, "points": 145}]}


@declare("points.expired.v1", OWNER, "fact", {"lapsed": [_LAPSED]})
class PointsExpired(Data):
    """Lots lapsed."""

    lapsed: tuple[Lapsed, ...] = Field(min_length=1)


_ADJUST: Final = {"wallet": "points", "points": -50, "reason": "typing error", "by": "li"}
_ADJUSTED: Final = {**_ADJUST, **_VERSION, "lots": [{"lot": 1, "points": 50}], "qualified": 0}


@declare("points.adjusted.v1", OWNER, "fact", _ADJUSTED)
class PointsAdjusted(AdjustPoints):
    """Points were given or taken by hand."""

    program: str
    version: int
    expires_at: Time | None = None
    standing: bool = False
    lots: tuple[FromLot, ...]
    """The lot that was made, or those that were drawn on."""
    repaid: Count = 0
    qualified: int


class ReturnedLine(BoughtLine):
    """How many pieces of an order's line came back."""


_REFUND: Final = {**_CAUSED_BY, "event_id": "evt-2", "event_type": "purchase.refunded.v1", "refund_id": "r1"}


@declare("reversal.deferred.v1", OWNER, "fact", {**_REFUND, "lines": [{"line_id": "1", "quantity": 1}]})
class ReversalDeferred(CausedByEvent):
    """A refund came before its order: it waits, and takes points back once the order is decided."""

    refund_id: str
    lines: tuple[ReturnedLine, ...]


class ReversedLine(Data):
    """How much of a line went back: `asked` by the refund, `quantity` of it counted (never more than was left)."""

    line_id: str
    asked: Number
    quantity: Count


class Reversed(Data):
    """What one award of the order gives back for this refund: `points` = taken + owed + forgiven."""

    entry: Number
    """The ledger entry of the award."""
    rule: str
    wallet: str
    program: str
    version: int
    points: Number
    taken: tuple[FromLot, ...] = ()
    owed: Count = 0
    """Already spent and now owed (policy `allow-negative`)."""
    forgiven: Count = 0
    """Already spent or lapsed, and left at that."""


_REVERSED: Final = {
    **_REFUND,
    "reason": "reversed",
    "policy": "within-balance",
    "lines": [{"line_id": "1", "asked": 1, "quantity": 1}],
    "reversals": [{**_RULE, "entry": 1, "points": 295, "taken": [{"lot": 1, "points": 295}]}],
    "qualified": 0,
}


@declare("points.reversed.v1", OWNER, "fact", _REVERSED)
class PointsReversed(CausedByEvent):
    """A refund took back what its items had earned, by the rule version of the purchase."""

    refund_id: str
    reason: str
    """`reversed`, `nothing-earned`, `nothing-left` (all of it had gone back before), `too-large`."""
    policy: str
    lines: tuple[ReversedLine, ...]
    reversals: tuple[Reversed, ...]
    qualified: int
    waited_since: Time | None = None
    """When it was deferred, because it had come before its order; decided with the order's purchase."""


_TIER: Final = {
    **_VERSION,
    "tiers": "club",
    "wallet": "growth",
    "change": "upgraded",
    "from_level": "member",
    "to_level": "silver",
    "qualified": 120,
    "joined_at": "2026-01-02T10:00:00Z",
    "period_started_at": "2026-01-02T10:00:00Z",
    "review_at": "2027-01-02T10:00:00Z",
}


@declare("tier.changed.v1", OWNER, "fact", _TIER)
class TierChanged(Data):
    """A member entered the tiers, rose, or was reviewed."""

    tiers: str
    program: str
    version: int
    wallet: str
    change: Literal["entered", "upgraded", "moved", "resumed", "kept", "downgraded"]
    """`entered` the tiers; `upgraded` at once or at a review; `moved`, because the program no longer has the level
    held; `resumed` a period after one without points; `kept` or `downgraded` at a review."""
    from_level: str
    to_level: str
    qualified: int
    """Qualifying points, from now on, in the period that runs."""
    reviewed: int | None = None
    """At a review: the qualifying points of the period that ended."""
    joined_at: Time
    period_started_at: Time
    review_at: Time | None
    """The next review; None: nothing to review until points are earned again."""
