"""What senders are told: of an event just sent, of a receipt, of what is wrong with a delivery."""

from collections.abc import Collection, Sequence
from typing import Final, Literal, assert_never
from urllib.parse import urlencode

from pydantic import BaseModel, Field

from services.contacts.door.intake import Named, Shape, Taken
from services.contacts.door.problems import Code, DeliveryProblem
from services.contacts.door.receipts import Told
from services.contacts.door.rules import is_contact
from services.contacts.door.store import Receipt
from shared.events.door import CONFLICT
from shared.http.problems import TYPE_BASE, BodyTooLarge, FieldError, Invalid, Problem

Outcome = Literal["recorded", "deferred", "duplicate", "refused"]
"""recorded: it is a fact. deferred: a refund waits for its order. duplicate: what it says was recorded before.
refused: it cannot take effect, and why."""
WHAT_TO_DO: Final[dict[str, str]] = {
    CONFLICT: "Another body is recorded under this source and id, and stays; send a new event under a new id.",
    "order-already-known": "This order is recorded with other content or of another contact; "
    "send a refund for what went back.",
    "refund-already-known": "This refund is recorded with other content; "
    "send what else went back under a new refund_id.",
    "currency-differs": "The order was paid in another currency; send its refund in the order's.",
    "line-unknown": "The order has no such line; name the lines by the line_ids that it was reported with.",
    "refund-exceeds-order": "With its other refunds more pieces or money would go back than were bought; "
    "send what really went back.",
    "too-many-deferred": "Too many refunds wait for this order already; send the order first, then its refunds.",
}
"""By the reason of a refusal; the fact on the stream says it with the numbers."""
Status = Literal["accepted", "recorded", "deferred", "duplicate", "refused", "parked", "invalid"]

_OUTCOMES: Final[dict[str, Outcome]] = {
    "refund.deferred.v1": "deferred",
    "refund.refused.v1": "refused",
    "delivery.refused.v1": "refused",
}


class EventAnswer(BaseModel):
    """What became of one event of a request."""

    index: int | None = Field(None, description="Its place in the batch, from 0.")
    status: Status = Field(
        description="`accepted`: the log has it, it is not decided yet. `invalid`: it was not taken; type, detail and "
        "errors are those of the problem. `parked`: it was taken, and a person will look at it. Else see `outcome` of "
        "the receipt."
    )
    receipt: str | None = Field(None, description="Where its receipt is.")
    contact: str | None = None
    reason: str | None = Field(None, description="Why it was refused: a stable code.")
    type: str | None = Field(None, description="What is wrong: a stable problem type.")
    detail: str | None = Field(None, description="What to do.")
    errors: list[FieldError] | None = None


class BatchAnswer(BaseModel):
    """One answer an event, in the order in which they were sent."""

    items: list[EventAnswer]


class ReceiptAnswer(BaseModel):
    """What became of a sender's event, for ever."""

    source: str
    id: str
    outcome: Outcome = Field(
        description="`recorded`: it is a fact. `deferred`: a refund that waits for its order. `duplicate`: what it "
        "says was recorded under another id. `refused`: it cannot take effect, see `reason`."
    )
    type: str = Field(description="The type of the event that stands on the stream for it.")
    reason: str | None = Field(description="Why it was refused: a stable code.")
    detail: str | None = Field(description="What to do about a refusal.")
    contact: str | None = Field(description="Whom it is about, if known.")
    conflicts: int = Field(description="How many other bodies came under the same source and id, and were refused.")


def problem_of(problem: DeliveryProblem, shape: Shape = "structured", index: int = 0) -> Problem:
    """What is wrong with one event, as an answer; `errors` names where in the request it was sent."""
    detail = f"{problem.detail[:1].upper()}{problem.detail[1:]}."
    if problem.code is Code.BODY_TOO_LARGE:
        return BodyTooLarge(detail)
    where = _sent_in(problem.at, shape, index)
    invalid = Invalid(detail, [{"field": where, "message": problem.detail}] if problem.at else [])
    invalid.code = problem.code.value
    return invalid


def _sent_in(at: str, shape: Shape, index: int) -> str:
    match shape:
        case "structured":
            return f"body.{at}"
        case "batch":
            return f"body.{index}.{at}"
        case "binary":
            return f"body{at[4:]}" if at == "data" or at.startswith("data.") else f"header.ce-{at}"
    assert_never(shape)


def receipt_link(source: str, event_id: str) -> str:
    return "/v1/events?" + urlencode({"source": source, "id": event_id})


def outcome_of(receipt: Receipt) -> Outcome:
    if receipt.reason == "ignored-duplicate":
        return "duplicate"
    return _OUTCOMES.get(receipt.outcome, "recorded")


def receipt_answer(source: str, event_id: str, receipt: Receipt) -> ReceiptAnswer:
    return ReceiptAnswer(
        source=source,
        id=event_id,
        outcome=outcome_of(receipt),
        type=receipt.outcome,
        reason=receipt.reason or None,
        detail=WHAT_TO_DO.get(receipt.reason),
        contact=receipt.subject if is_contact(receipt.subject) else None,
        conflicts=receipt.conflicts,
    )


def event_answers(
    taken: Sequence[Taken | DeliveryProblem], told: Told | None, known: Collection[Named]
) -> list[EventAnswer]:
    """One answer an event, in order. `told`: None while they are not decided; `known`: decided on before they came."""
    answers: list[EventAnswer] = []
    seen = set(known)
    for index, one in enumerate(taken):
        if isinstance(one, DeliveryProblem):
            answers.append(_invalid(one, index))
        elif told is None:
            answers.append(EventAnswer(index=index, status="accepted", receipt=receipt_link(*one.named)))
        else:
            answers.append(_decided(one, told.receipts.get(one.named), index, known=one.named in seen))
            seen.add(one.named)
    return answers


def _invalid(problem: DeliveryProblem, index: int) -> EventAnswer:
    shown = problem_of(problem, "batch", index)
    return EventAnswer(
        index=index,
        status="invalid",
        type=TYPE_BASE + shown.code,
        detail=shown.detail,
        errors=[FieldError.model_validate(error) for error in shown.facts.get("errors", ())] or None,
    )


def _decided(taken: Taken, receipt: Receipt | None, index: int, *, known: bool) -> EventAnswer:
    link = receipt_link(*taken.named)
    if receipt is None:
        return EventAnswer(index=index, status="parked", receipt=link)
    status: Status = "duplicate" if known else outcome_of(receipt)
    reason = receipt.reason
    if receipt.body_hash != taken.delivery.body_hash:
        status, reason = "refused", CONFLICT
    contact = receipt.subject if is_contact(receipt.subject) else None
    return EventAnswer(
        index=index, status=status, receipt=link, contact=contact, reason=reason or None, detail=WHAT_TO_DO.get(reason)
    )
