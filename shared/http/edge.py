"""The outermost layer of every API: correlation, trace context, access log, metrics, and the last resort for faults."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.telemetry import HTTP_IN_FLIGHT, HTTP_REQUESTS, HTTP_SECONDS, Metrics, correlation_id, trace_parent

CORRELATION_HEADER: Final = b"x-correlation-id"
TRACE_HEADER: Final = b"traceparent"
QUIET_ROUTES: Final = frozenset({"/livez", "/readyz", "/metrics"})
NO_ROUTE: Final = "(none)"
KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_LEFT: Final = 499
"""In logs and metrics only: the client went away before the answer began."""

_CORRELATION = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_TRACE = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")

log = logging.getLogger("regulars.http")


@dataclass(slots=True)
class _Answer:
    status: int = 0
    complete: bool = False


class Edge:
    """ASGI middleware. `now` returns seconds of a clock that never goes back."""

    def __init__(self, app: ASGIApp, metrics: Metrics, now: Callable[[], float] = time.perf_counter) -> None:
        self._app, self._metrics, self._now = app, metrics, now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        correlation = _correlate(scope)
        answer = _Answer()

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                message["headers"] = [*message.get("headers", []), (CORRELATION_HEADER, correlation)]
            await send(message)
            answer.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        began = self._now()
        self._metrics.add(HTTP_IN_FLIGHT, 1)
        try:
            await self._app(scope, receive, send_on)
        except ClientDisconnect:
            answer.status = answer.status or CLIENT_LEFT
        except Exception as error:
            log.exception("request failed", extra={"route": _route(scope)})
            if not answer.complete:
                raise ConnectionAbortedError("the answer broke off when the request failed") from error
        except asyncio.CancelledError:
            answer.status = answer.status or CLIENT_LEFT
            raise
        finally:
            self._metrics.add(HTTP_IN_FLIGHT, -1)
            self._record(scope, answer.status, self._now() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in KNOWN_METHODS else "(other)"
        self._metrics.count(HTTP_REQUESTS, method=method, route=route, status=str(status))
        self._metrics.observe(HTTP_SECONDS, seconds, method=method, route=route)
        principal: Any = scope["state"].get("principal")
        log.log(
            logging.DEBUG if route in QUIET_ROUTES else logging.INFO,
            "answered",
            extra={
                "method": method,
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1000, 3),
                "tenant": principal.tenant if principal else "",
                "credential_id": principal.credential_id if principal else "",
            },
        )


def _correlate(scope: Scope) -> bytes:
    """Take over the caller's correlation id and trace, or begin new ones; both hold until the answer is sent."""
    sent: dict[bytes, bytes] = dict(reversed(scope["headers"]))
    trace = sent.get(TRACE_HEADER, b"")
    if not _TRACE.match(trace):
        trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00".encode()
    correlation = sent.get(CORRELATION_HEADER, b"")
    if not _CORRELATION.match(correlation):
        correlation = trace[3:35]
    trace_parent.set(trace.decode())
    correlation_id.set(correlation.decode())
    return correlation


def _route(scope: Scope) -> str:
    """The route's template: bounded in number, and free of what a caller put into the address."""
    return getattr(scope.get("route"), "path", NO_ROUTE)
