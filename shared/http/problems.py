"""Errors as callers see them: RFC 9457 problems, each with a stable `type`, mapped to HTTP here and nowhere else."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from shared.http.field_messages import field_message
from shared.telemetry import correlation_id

log = logging.getLogger("regulars.http")

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "/problems/"
FIELDS_SHOWN_MAX: Final = 50


class Problem(Exception):
    """
    Problem
    ├── BadPosition        400 bad-position        Regulars-After is not a token of ours, or ahead of the log
    ├── Unauthenticated    401 unauthenticated     no credential, or one we do not know
    ├── MissingScope       403 missing-scope       the credential lacks a scope
    ├── NotFound           404 not-found           no such thing in this tenant
    ├── NotAllowed         405 method-not-allowed
    ├── Refusal            409 <the rule's reason> a rule forbids it; the reason is recorded
    ├── StaleVersion       412 stale-version       somebody changed it meanwhile
    ├── BodyTooLarge       413 body-too-large
    ├── NotJson            415 not-json            the body is not declared as JSON
    ├── Invalid            422 invalid-request     well-formed, but fields are wrong: `errors` names each
    │   ├── MalformedJson  422 malformed-json      not JSON in UTF-8
    │   ├── BadCursor      422 bad-cursor          not a cursor of this list
    │   ├── BadKey         422 bad-idempotency-key
    │   └── KeyReused      422 idempotency-key-reused  the same key came with another body
    ├── TooManyRequests    429 too-many-requests   Retry-After says when
    ├── Fault              500 internal-error      ours; the correlation id finds it in the logs
    └── Unavailable        503 unavailable         Retry-After says when
        ├── NotReady       503 not-ready           a check of /readyz failed
        └── NotCaughtUp    503 not-caught-up       the read cannot wait longer for Regulars-After
    """

    status: ClassVar[int] = 500
    code: str = "internal-error"
    title: ClassVar[str] = "Something failed on our side"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **facts: Any) -> None:
        """`detail` says what to do, without personal data; `facts` become members of the problem document."""
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})
        self.facts = facts


class BadPosition(Problem):
    status, code, title = 400, "bad-position", "The position token cannot be used"


class Unauthenticated(Problem):
    status, code, title = 401, "unauthenticated", "A valid credential is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="regulars"'})


class MissingScope(Problem):
    status, code, title = 403, "missing-scope", "The credential does not allow this"


class NotFound(Problem):
    status, code, title = 404, "not-found", "There is no such thing here"


class NotAllowed(Problem):
    status, code, title = 405, "method-not-allowed", "This address does not take this method"


class Refusal(Problem):
    """A rule's recorded refusal; `reason` is its stable kebab-case code and the end of the problem's type."""

    status, title = 409, "A rule forbids this"

    def __init__(self, reason: str, detail: str, **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.code = reason


class StaleVersion(Problem):
    status, code, title = 412, "stale-version", "It was changed meanwhile"


class BodyTooLarge(Problem):
    status, code, title = 413, "body-too-large", "The body is too large"


class NotJson(Problem):
    status, code, title = 415, "not-json", "The body must be JSON"


class Invalid(Problem):
    """`errors` is a list of {"field", "message"}; `field` is a dotted path that begins with where it was sent."""

    status, code, title = 422, "invalid-request", "The request is not valid"

    def __init__(self, detail: str, errors: Sequence[Mapping[str, str]] = (), **facts: Any) -> None:
        super().__init__(detail, **facts)
        if errors:
            self.facts["errors"] = [dict(error) for error in errors]


class MalformedJson(Invalid):
    code, title = "malformed-json", "The body is not JSON"


class BadCursor(Invalid):
    code, title = "bad-cursor", "The cursor cannot be used"


class BadKey(Invalid):
    code, title = "bad-idempotency-key", "The Idempotency-Key cannot be used"


class KeyReused(Invalid):
    code, title = "idempotency-key-reused", "The Idempotency-Key belongs to another request"


class TooManyRequests(Problem):
    status, code, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})


class Fault(Problem):
    pass


class Unavailable(Problem):
    status, code, title = 503, "unavailable", "This cannot be answered now"

    def __init__(self, detail: str, retry_after_seconds: int = 1, **facts: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)}, **facts)


class NotReady(Unavailable):
    code, title = "not-ready", "Not ready to serve"


class NotCaughtUp(Unavailable):
    code, title = "not-caught-up", "Not caught up with the position asked for"


class FieldError(BaseModel):
    """One wrong field."""

    field: str = Field(description="Dotted path, beginning with where it was sent: body.lines.0.sku")
    message: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem. `type` is stable; `detail` says what to do. Refusals carry further members (facts)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["/problems/not-enough-points"])
    title: str
    status: int
    detail: str
    correlation_id: str = ""
    errors: list[FieldError] = Field(default_factory=list)


MEANINGS: Final[dict[int, str]] = {
    400: "The position token cannot be used",
    401: "No valid credential",
    403: "The credential lacks a scope",
    404: "No such thing",
    405: "Method not allowed",
    409: "Refused by a rule",
    412: "Changed meanwhile",
    413: "Body too large",
    415: "Body is not JSON",
    422: "Malformed: each field is named",
    429: "Too many requests: see Retry-After",
    500: "A fault of ours",
    503: "Cannot be answered now: see Retry-After",
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses=`: what else it may answer (`problem_responses(409, 412)`)."""
    return {status: {"model": ProblemDocument, "description": MEANINGS[status]} for status in statuses}


def render(problem: Problem) -> Response:
    body = {
        **problem.facts,
        "type": TYPE_BASE + problem.code,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "correlation_id": correlation_id.get(),
    }
    content = orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)
    return Response(content, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def map_problems(app: FastAPI) -> None:
    """Answer our problems, the framework's own errors and failed validation as problem documents."""
    app.add_exception_handler(Problem, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _fault)


async def _ours(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if isinstance(error, Unavailable) and error.__cause__ is not None:
        log.warning("%s: %r", error.detail, error.__cause__)
    return render(error)


async def _fault(_: Request, __: Exception) -> Response:
    return render(Fault(FAULT_DETAIL))


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return render(invalid_fields(error.errors()))


def invalid_fields(errors: Iterable[Mapping[str, Any]], prefix: str = "") -> Invalid:
    """Pydantic's errors as one problem that names each field; what was sent is not repeated, it may be personal."""
    shown = [
        {
            "field": ".".join(map(_printable, ([prefix] if prefix else []) + list(error["loc"]))),
            "message": field_message(error),
        }
        for error in errors
    ]
    fields = ", ".join(error["field"] for error in shown[:5])
    return Invalid(f"Correct {fields or 'the request'} and send it again.", shown[:FIELDS_SHOWN_MAX])


def _printable(part: object) -> str:
    return str(part).encode("utf-8", "replace").decode()[:100]


_BY_STATUS: Final[dict[int, tuple[type[Problem], str]]] = {
    404: (NotFound, "Check the address and the method; /openapi.json lists them all."),
    405: (NotAllowed, "Use a method that the Allow header names."),
    413: (BodyTooLarge, "Send less at once."),
    415: (NotJson, "Send JSON with Content-Type: application/json."),
}


async def _framework(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in _BY_STATUS:
        kind, detail = _BY_STATUS[error.status_code]
        return render(kind(detail, headers=error.headers))
    if 400 <= error.status_code < 500:
        return render(Invalid("The request cannot be read; check its headers and body."))
    return render(Fault(FAULT_DETAIL))


FAULT_DETAIL: Final = "It is not your request. Send it again later; if it stays, report the correlation id."
