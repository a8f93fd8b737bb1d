"""`/v1/events`: what happened comes in as CloudEvents, a receipt goes out.

An event is answered as soon as the log has it. On the way there is one parse and no database.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from services.contacts.door.answers import (
    BatchAnswer,
    EventAnswer,
    ReceiptAnswer,
    event_answers,
    problem_of,
    receipt_answer,
)
from services.contacts.door.intake import EVENTS_MAX, Intake, Taken, events_of, next_offsets
from services.contacts.door.problems import DeliveryProblem
from services.contacts.door.receipts import Receipts
from services.contacts.tenants.clocks import TenantClocks
from shared.events.door import Delivery
from shared.http.asking import caught_up
from shared.http.authentication import requires
from shared.http.credentials import Principal
from shared.http.headers import wait_seconds
from shared.http.position import POSITION_HEADER, After, PositionToken
from shared.http.problems import NotFound, problem_responses
from shared.http.routes import body_at_most, router
from shared.service import Access

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a whole request; one event is bounded by `delivery.EVENT_BYTES_MAX`."""

Name = Annotated[str, Query(min_length=1, max_length=200)]

_EVENT: Final = {
    "type": "object",
    "required": ["specversion", "id", "source", "type", "time", "data"],
    "example": {
        "specversion": "1.0",
        "id": "evt-1",
        "source": "https://shop.example/pos-7",
        "type": "purchase.completed",
        "time": "2026-01-02T10:00:00Z",
        "data": {
            "customer": {"reference": "C-17", "email": "li@example.com"},
            "channel": "web",
            "order_id": "1001",
            "currency": "USD",
            "lines": [{"line_id": "1", "sku": "CD-1", "quantity": 2, "amount_minor": 2950}],
        },
    },
}
_BATCH: Final = {"type": "array", "maxItems": EVENTS_MAX, "items": _EVENT}
_BODY: Final = {
    "required": True,
    "content": {
        "application/cloudevents+json": {"schema": _EVENT},
        "application/cloudevents-batch+json": {"schema": _BATCH},
        "application/json": {
            "schema": {
                "description": "A CloudEvent or an array of them; with ce- headers (binary mode) the event's data.",
                "oneOf": [_EVENT, _BATCH],
            }
        },
    },
}


def routes(access: Access) -> APIRouter:
    """The door's routes."""
    api = router("/v1/events", tags=["events"])
    _receiving(api, access)
    _telling(api, access)
    return api


def _receiving(api: APIRouter, access: Access) -> None:
    front = access.fronts["door"]
    intake = Intake(front, TenantClocks(access.pools["contacts"], access.now), access.master.identity_secret)
    receipts = Receipts(front, access.pools["door"])

    @api.post(
        "",
        status_code=202,
        response_model=EventAnswer | BatchAnswer,
        responses={200: {"model": EventAnswer | BatchAnswer, "description": "Decided within the wait"}},
        openapi_extra={"requestBody": _BODY},
    )
    @body_at_most(BATCH_BYTES_MAX)
    async def receive(
        request: Request,
        caller: Annotated[Principal, requires("events:write")],
        after: After,
        wait: Annotated[float, wait_seconds(0)],
    ) -> Response:
        """Take one CloudEvent (structured or binary) or up to 500 in an array, each answered for itself.

        202 says that the log has what is `accepted`; with `Prefer: wait=N` the answer is 200 and says what became of
        each. Sending an event again, in whatever company, changes nothing: when an answer was lost, repeat it.
        """
        if after:
            await caught_up(front, after, wait)
        content_type = request.headers.get("content-type", "")
        try:
            events, shape = events_of(content_type, request.headers.items(), await request.body())
        except DeliveryProblem as problem:
            raise problem_of(problem) from None
        found = await intake.read(caller.tenant, events)
        named = [(one.source, one.id) for one in found if isinstance(one, Delivery)]
        known = await receipts.known(caller.tenant, named) if wait else set()
        taken = await intake.keep(caller.tenant, found)
        if shape != "batch" and isinstance(taken[0], DeliveryProblem):
            raise problem_of(taken[0], shape)
        kept = [one for one in taken if isinstance(one, Taken)]
        told = await receipts.decided(caller.tenant, kept, wait) if wait else None
        position = PositionToken({front.worker: next_offsets(kept)} if kept else {}) if told is None else told.position
        answers = event_answers(taken, told, known)
        answer = BatchAnswer(items=answers) if shape == "batch" else answers[0].model_copy(update={"index": None})
        headers = {POSITION_HEADER: position.encode()}
        if told is None and shape != "batch":
            headers["Location"] = answers[0].receipt or ""
        content = answer.model_dump_json(exclude_none=True)
        return Response(content, 202 if told is None else 200, headers, media_type="application/json")


def _telling(api: APIRouter, access: Access) -> None:
    front = access.fronts["door"]
    receipts = Receipts(front, access.pools["door"])

    @api.get("", responses=problem_responses(404))
    async def receipt(
        response: Response,
        source: Name,
        id: Name,
        caller: Annotated[Principal, requires("events:read")],
        after: After,
        wait: Annotated[float, wait_seconds()],
    ) -> ReceiptAnswer:
        """What became of an event, by its `source` and `id`: the receipt, kept for ever.

        With the position that accepting it answered as `Regulars-After`, the receipt is there; the position answered
        here can be awaited by every service.
        """
        await caught_up(front, after, wait)
        found = await receipts.told(caller.tenant, [(source, id)], wait)
        if (source, id) not in found.receipts:
            raise NotFound(
                "No such event was received, or it is not decided yet, or it is parked: check source and id."
            )
        response.headers[POSITION_HEADER] = found.position.encode()
        return receipt_answer(source, id, found.receipts[source, id])
