"""A small asynchronous client of the public HTTP API.

It reads its own writes: every position that an answer carries is kept and sent with what is asked next. A problem
(RFC 9457) becomes an exception with its type and detail, and a write that may be repeated is, with the same key.

```python
async with Regulars("http://127.0.0.1:8080", "rk_live_…") as shop:
    await shop.record([purchase])
    print(await shop.get("/v1/totals"))
```
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from shared.http.position import AFTER_HEADER, POSITION_HEADER, PositionToken

WAIT_SECONDS: Final = 30
ANSWER_SECONDS_MAX: Final = WAIT_SECONDS + 30
"""From when a request is sent until its answer begins."""
ATTEMPTS_MAX: Final = 6
RETRY_SECONDS_MAX: Final = 5.0
BROKEN_SECONDS_MAX: Final = 1.0
"""Between attempts after a connection broke."""
EVENTS_MAX: Final = 500
"""Events of one batch."""
DAY: Final = timedelta(days=1)
CHANGES_MAX: Final = 100
"""Rounds of waiting for what a clock's step caused; more would be services that answer each other for ever."""

EVENTS_PATH: Final = "/v1/events"
CLOCK_PATH: Final = "/v1/clock"
LOOKED_AT: Final = ("/v1/tenants/current", "/v1/programs")
"""One cheap read of each service: answered once it has reached the position."""

REPEATED: Final = frozenset({429, 502, 503, 504})


class ProblemError(Exception):
    """The API's answer was a problem document. `type` is stable (`/problems/not-enough-points`)."""

    def __init__(self, status: int, type: str, detail: str, facts: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {type}: {detail}")
        self.status, self.type, self.detail, self.facts = status, type, detail, dict(facts)

    @property
    def code(self) -> str:
        """The end of the type: `not-enough-points`."""
        return self.type.rpartition("/")[2]


class Refused(ProblemError):
    """409: a rule forbids it, and that is recorded."""


class Denied(ProblemError):
    """401 or 403: no valid key, or one without the scope."""


class Missing(ProblemError):
    """404: there is no such thing for this tenant."""


class Malformed(ProblemError):
    """400, 413, 415 or 422: the request itself is wrong; `facts["errors"]` may name the fields."""


class TryLater(ProblemError):
    """429 or 503, and repeating did not help."""


class Unfinished(Exception):
    """202: the request is kept and still being decided; `location` answers later."""

    def __init__(self, location: str) -> None:
        super().__init__(f"still being decided: ask {location}")
        self.location = location


OWNERS: Final[Mapping[str, str]] = {
    "/v1/events": "door",
    "/v1/tenants": "contacts",
    "/v1/credentials": "contacts",
    "/v1/clock": "contacts",
}
"""Whose inbox the addresses that begin so append to; all others are those of points."""

_KINDS: Final[Mapping[int, type[ProblemError]]] = {
    400: Malformed,
    401: Denied,
    403: Denied,
    404: Missing,
    409: Refused,
    413: Malformed,
    415: Malformed,
    422: Malformed,
    429: TryLater,
    503: TryLater,
}


class _Transport(AiohttpTransport):
    """aiohttp under httpx: a fifth of the processor time of httpx's own. All its errors are httpx's, and it bounds how
    long a request may take to be sent, too."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await super().handle_async_request(request)
        except aiohttp.ClientError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"no answer within {ANSWER_SECONDS_MAX} s", request=request) from error


class Regulars:
    """One tenant's (or the operator's) way to a Regulars installation."""

    def __init__(
        self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None, connections_max: int = 64
    ) -> None:
        self.position = PositionToken()
        """Everything this client was told of so far."""
        self._unread: list[tuple[str, str]] = []
        """Source and id of events that were kept and whose place on the stream is not known here yet."""
        limits = httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            transport=transport or _Transport(limits=limits),
            timeout=httpx.Timeout(ANSWER_SECONDS_MAX, connect=10),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def get(self, path: str, **query: str | int) -> Any:
        """A read that sees everything this client was told of. Raises ProblemError."""
        await self.arrive()
        return orjson.loads((await self._send("GET", path, query=query)).content)

    async def post(self, path: str, body: Any, key: str = "") -> Any:
        """A request, decided when it returns; `key` names it, so that repeating it does it once.

        Raises ProblemError (Refused for a rule's no), Unfinished.
        """
        await self.arrive()
        return self._outcome(await self._send("POST", path, body, key=key or secrets.token_hex(16)))

    async def put(self, path: str, body: Any, key: str = "") -> Any:
        """As `post`."""
        await self.arrive()
        return self._outcome(await self._send("PUT", path, body, key=key or secrets.token_hex(16)))

    async def record(self, events: Sequence[Mapping[str, Any]], wait_seconds: int = WAIT_SECONDS) -> list[Any]:
        """Send up to EVENTS_MAX CloudEvents in one batch; what became of each, in their order.

        With `wait_seconds` 0 it returns as soon as they are kept; then the next read asks for the receipt of each.
        Raises ProblemError when the batch itself is wrong.
        """
        kind = "application/cloudevents-batch+json"
        answer = await self._send("POST", EVENTS_PATH, list(events), kind=kind, wait_seconds=wait_seconds)
        items: list[Any] = orjson.loads(answer.content)["items"]
        if answer.status_code == 202:
            kept = [event for event, item in zip(events, items, strict=True) if item["status"] == "accepted"]
            self._unread += [(event["source"], event["id"]) for event in kept]
        return items

    async def advance_clock(self, to: datetime) -> datetime:
        """Move a test-clock tenant's clock, a day at most at a time; every service has followed when it returns.

        After each step it waits for the step on every service, and again for what that caused, until nothing changes.
        Raises ProblemError (Refused when the clock would move back, or the tenant has none).
        """
        at = instant_of((await self.get(CLOCK_PATH))["at"])
        while at < to:
            at = min(to, at + DAY)
            await self.step_clock(at)
            await self.settle()
        return at

    async def step_clock(self, to: datetime) -> None:
        """Move the clock at most a day, without waiting for what that causes."""
        await self.post(CLOCK_PATH, {"to": to.astimezone(UTC).isoformat()})

    async def settle(self) -> None:
        """Wait until every service has reached all that this client was told of, and all that this caused."""
        for _ in range(CHANGES_MAX):
            before = self.position
            for path in LOOKED_AT:
                await self.get(path)
            if self.position == before:
                return
        raise TryLater(503, "/problems/not-settled", f"still changing after {CHANGES_MAX} rounds", {})

    async def arrive(self) -> None:
        """Wait until what was sent without waiting is decided, and learn its position, which every service can await.

        Raises ProblemError: TryLater when that takes too long.
        """
        while self._unread:
            source, identifier = self._unread[-1]
            await self._send("GET", EVENTS_PATH, query={"source": source, "id": identifier})
            self._unread.remove((source, identifier))

    async def _send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str | int] | None = None,
        key: str = "",
        kind: str = "application/json",
        wait_seconds: int = WAIT_SECONDS,
    ) -> httpx.Response:
        content = None if body is None else orjson.dumps(body)
        headers = {"Prefer": f"wait={wait_seconds}"}
        if content is not None:
            headers["Content-Type"] = kind
        if key:
            headers["Idempotency-Key"] = key
        for attempt in range(ATTEMPTS_MAX):
            if position := self._position_for(path):
                headers[AFTER_HEADER] = position.encode()
            try:
                answer = await self._http.request(method, path, params=query, content=content, headers=headers)
            except httpx.TransportError:
                if attempt == ATTEMPTS_MAX - 1:
                    raise
                await asyncio.sleep(min(BROKEN_SECONDS_MAX, 0.1 * 2**attempt))
                continue
            if token := answer.headers.get(POSITION_HEADER):
                self.position = self.position.merge(PositionToken.decode(token))
            if answer.status_code not in REPEATED or attempt == ATTEMPTS_MAX - 1:
                break
            asked = answer.headers.get("Retry-After", "")
            await asyncio.sleep(min(RETRY_SECONDS_MAX, float(asked) if asked.isdigit() else 0.5))
        if answer.status_code >= 400:
            raise problem_of(answer)
        return answer

    def _position_for(self, path: str) -> PositionToken:
        """What the service of this address can await: the stream, and its own worker's inbox."""
        owner = next((worker for start, worker in OWNERS.items() if path.startswith(start)), "points")
        inboxes = {worker: offsets for worker, offsets in self.position.inboxes.items() if worker == owner}
        return PositionToken(inboxes, self.position.events)

    def _outcome(self, answer: httpx.Response) -> Any:
        if answer.status_code == 202:
            raise Unfinished(answer.headers.get("Location", ""))
        return orjson.loads(answer.content) if answer.content else None


def problem_of(answer: httpx.Response) -> ProblemError:
    """The exception of a problem document, also of an answer that is none (a proxy's)."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    facts = body if isinstance(body, dict) else {}
    kind = _KINDS.get(answer.status_code, ProblemError)
    return kind(answer.status_code, facts.get("type", "about:blank"), facts.get("detail", answer.text[:200]), facts)


def instant_of(text: str) -> datetime:
    """An aware time from RFC 3339 text."""
    return datetime.fromisoformat(text)
