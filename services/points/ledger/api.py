"""`/v1/redemptions`, `/v1/adjustments`, `/v1/explain`, `/v1/totals`: spend points, correct them, ask why, add up."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from services.points.asking import (
    MAY_WAIT,
    Asking,
    AsOf,
    KnownAt,
    Reader,
    Reads,
    Writer,
    Writes,
    front_of,
    outcome_of,
    placed,
    points_router,
    tenant_now,
)
from services.points.ledger.answers import (
    AdjustmentAnswer,
    ExplainedEvent,
    ExplainedLine,
    RedemptionAnswer,
    TotalsAnswer,
    adjustment_answer,
    evaluation_answer,
    explained_line,
    redemption_answer,
    totals_answer,
)
from services.points.ledger.read_store import (
    evaluations_of,
    explain_entry,
    ledger_proof,
    program_totals,
    totals_as_of,
)
from services.points.members.answers import entry_parts
from services.points.members.whom import Whom, contact_of
from services.points.programs.read_store import find_version
from shared.events.catalogue import POINTS_MAX
from shared.events.points import AdjustPoints, Code, RedeemPoints, Text
from shared.http.asking import StillDeciding
from shared.http.problems import NotFound, Refusal, Unavailable, problem_responses
from shared.runtime.store import StoreUnavailable
from shared.service import Access

LOT_ENTRIES_MAX: Final = 200
EVENT_CHARACTERS_MAX: Final = 500

REDEMPTIONS: Final = "/v1/redemptions"
ADJUSTMENTS: Final = "/v1/adjustments"
RULE_DESCRIPTION: Final = "Only what this rule said."
SOURCE_DESCRIPTION: Final = "Only the event of this sender."
DECIDED: Final[dict[int | str, dict[str, Any]]] = {**MAY_WAIT, **problem_responses(404)}


class NewRedemption(Whom):
    """Points to spend, all or nothing."""

    wallet: Text = Field("", description="Empty: the wallet that the program's redemption names.")
    points: Annotated[int, Field(strict=True, ge=1, le=POINTS_MAX)]
    reference: Text = Field("", description="What they pay for, as the caller calls it.", examples=["till 7, 1002"])


class NewAdjustment(Whom):
    """Points to give (above 0) or to take (below 0) by hand."""

    wallet: Code
    points: Annotated[int, Field(strict=True, ge=-POINTS_MAX, le=POINTS_MAX)]
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    by: Code | None = Field(None, description="Who does it; null: the API key.")


def routes(access: Access) -> APIRouter:
    """The routes of the ledger."""
    api = points_router("ledger")
    _redemptions(api, access)
    _adjustments(api, access)
    _explain(api, access)
    _totals(api, access)
    return api


def _redemptions(api: APIRouter, access: Access) -> None:
    @api.post(REDEMPTIONS, status_code=201, response_model=RedemptionAnswer, responses=DECIDED)
    async def redeem(
        asked: NewRedemption, caller: Writer, asking: Writes, response: Response
    ) -> RedemptionAnswer | Response:
        """Spend points. With an Idempotency-Key it may be sent again: the answer is the same, the effect is one."""
        contact = await _contact(access, caller.tenant, asked, asking)
        request = RedeemPoints(wallet=asked.wallet, points=asked.points, reference=asked.reference)
        try:
            answer = await asking.decided(access, caller.tenant, contact, request, REDEMPTIONS)
        except StillDeciding as still:
            return asking.accepted(still)
        placed(response, answer)
        return redemption_answer(answer)

    @api.get(REDEMPTIONS + "/{key:path}", responses=problem_responses(409))
    async def redemption(key: str, caller: Writer, reading: Reads, response: Response) -> RedemptionAnswer:
        """What became of a redemption, by the Idempotency-Key it was sent with. A refusal is answered as it was."""
        answer = await outcome_of(
            access, caller.tenant, key, reading, request="points.redeem.v1", outcome="points.redeemed.v1"
        )
        placed(response, answer)
        return redemption_answer(answer)


def _adjustments(api: APIRouter, access: Access) -> None:
    @api.post(ADJUSTMENTS, status_code=201, response_model=AdjustmentAnswer, responses=DECIDED)
    async def adjust(
        asked: NewAdjustment, caller: Writer, asking: Writes, response: Response
    ) -> AdjustmentAnswer | Response:
        """Give or take points by hand, with a reason; never more than there are."""
        contact = await _contact(access, caller.tenant, asked, asking)
        request = AdjustPoints(
            wallet=asked.wallet, points=asked.points, reason=asked.reason, by=asked.by or caller.credential_id
        )
        try:
            answer = await asking.decided(access, caller.tenant, contact, request, ADJUSTMENTS)
        except StillDeciding as still:
            return asking.accepted(still)
        placed(response, answer)
        return adjustment_answer(answer)

    @api.get(ADJUSTMENTS + "/{key:path}", responses=problem_responses(409))
    async def adjustment(key: str, caller: Writer, reading: Reads, response: Response) -> AdjustmentAnswer:
        """What became of an adjustment, by the Idempotency-Key it was sent with."""
        answer = await outcome_of(
            access, caller.tenant, key, reading, request="points.adjust.v1", outcome="points.adjusted.v1"
        )
        placed(response, answer)
        return adjustment_answer(answer)


def _explain(api: APIRouter, access: Access) -> None:
    @api.get("/v1/explain/entries/{entry}")
    async def entry(entry: Annotated[str, Path(max_length=300)], caller: Reader, reading: Reads) -> ExplainedLine:
        """Why a ledger line is there: its rule as it was, the values it used, the event, and what became of its lot."""
        parts = entry_parts(entry)
        async with reading.state(access, caller.tenant) as connection:
            found = (
                None if parts is None else await explain_entry(connection, caller.tenant, *parts, LOT_ENTRIES_MAX + 1)
            )
            if found is None:
                raise NotFound("There is no such ledger line; a member's ledger lists them under `entry`.")
            version = await find_version(connection, caller.tenant, found.entry.program, found.entry.version)
        return explained_line(found, version, LOT_ENTRIES_MAX + 1)

    @api.get("/v1/explain/events/{event:path}")
    async def event(
        event: Annotated[str, Path(max_length=EVENT_CHARACTERS_MAX, description="The sender's id of the event.")],
        caller: Reader,
        reading: Reads,
        rule: Annotated[str | None, Query(max_length=100, description=RULE_DESCRIPTION)] = None,
        source: Annotated[str | None, Query(max_length=EVENT_CHARACTERS_MAX, description=SOURCE_DESCRIPTION)] = None,
    ) -> ExplainedEvent:
        """What each rule said of an event, by its sender's id: that it fired, or why not and with which values.

        Of a refund: what each award of the order gave back.
        """
        async with reading.state(access, caller.tenant) as connection:
            rows = await evaluations_of(connection, caller.tenant, event)
        items = [evaluation_answer(row, rule) for row in rows if source is None or row.event_source == source]
        if not items:
            raise NotFound("Points was told of no such event: check its id, and GET /v1/events for its receipt.")
        asked = any(row.results != "[]" for row in rows)
        if rule is not None and asked and not any(item.rules or item.reversals for item in items):
            raise NotFound("No rule of this code was asked about the event; leave `rule` out to see them all.")
        return ExplainedEvent(items=items)


def _totals(api: APIRouter, access: Access) -> None:
    @api.get("/v1/totals")
    async def totals(caller: Reader, reading: Reads, as_of: AsOf = None, known_at: KnownAt = None) -> TotalsAnswer:
        """Points issued, redeemed, lapsed, adjusted, taken back and outstanding, and whether the books balance."""
        async with reading.state(access, caller.tenant) as connection:
            now = await tenant_now(access, connection, caller.tenant)
            at = now if as_of is None else as_of
            if as_of is None and known_at is None:
                rows = await program_totals(connection, caller.tenant, at)
            else:
                rows = await totals_as_of(connection, caller.tenant, at, known_at)
            proof = await ledger_proof(connection, caller.tenant)
        return totals_answer(at, rows, proof)


async def _contact(access: Access, tenant: str, whom: Whom, asking: Asking) -> str:
    """The contact that a request is about.

    A request that was decided keeps its contact, also when its identity has come to name nobody or several.
    """
    try:
        async with asking.reading.state(access, tenant) as connection:
            return await contact_of(connection, tenant, whom, access.master)
    except (NotFound, Refusal):
        try:
            recorded = await front_of(access).outcome(tenant, asking.key)
        except StoreUnavailable:
            raise Unavailable("The database cannot be reached; try again.") from None
        if recorded is None:
            raise
        return recorded.subject
