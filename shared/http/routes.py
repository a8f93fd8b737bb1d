"""Routes that read bodies safely: bounded, declared as JSON, in UTF-8 without NUL or lone surrogates.

Every router of a service is made by `router()`, with its whole prefix; `build_app` refuses others. An endpoint that
reads `request.body()` or `request.json()` itself has the same protection as one with a typed body.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from shared.http.problems import BodyTooLarge, Invalid, MalformedJson, NotJson

BODY_BYTES_MAX: Final = 512 * 1024

_LIMIT: Final = "__body_bytes_max__"
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def router(prefix: str = "", tags: list[str] | None = None) -> APIRouter:
    """A router whose routes read bodies safely. `prefix` begins with the service's own first path segments."""
    return APIRouter(prefix=prefix, tags=list(tags or []), route_class=Route, redirect_slashes=False)


def body_at_most(size_bytes: int) -> Callable[[Endpoint], Endpoint]:
    """Decorator of an endpoint, below the route's: a body limit of its own instead of BODY_BYTES_MAX."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _LIMIT, size_bytes)
        return endpoint

    return mark


class JsonRequest(Request):
    """A request whose body is read once, bounded. Raises BodyTooLarge, NotJson, MalformedJson, Invalid (NUL)."""

    def __init__(self, request: Request, size_bytes_max: int) -> None:
        super().__init__(request.scope, request.receive)
        self._size_bytes_max = size_bytes_max
        self._read: bytes | None = None
        self._parsed: Any = None
        self._is_parsed = False

    async def body(self) -> bytes:
        if self._read is None:
            announced = self.headers.get("content-length", "")
            if announced.isascii() and announced.isdigit() and int(announced[:20]) > self._size_bytes_max:
                raise self._too_large()
            chunks, size = [], 0
            async for chunk in self.stream():
                size += len(chunk)
                if size > self._size_bytes_max:
                    raise self._too_large()
                chunks.append(chunk)
            self._read = b"".join(chunks)
            if self._read:
                self._check_declared_as_json()
        return self._read

    async def json(self) -> Any:
        if not self._is_parsed:
            self._parsed = parse_json(await self.body())
            self._is_parsed = True
        return self._parsed

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"This address takes at most {self._size_bytes_max} bytes; send less at once.")

    def _check_declared_as_json(self) -> None:
        kind, *parameters = [part.strip().lower() for part in self.headers.get("content-type", "").split(";")]
        if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
            raise NotJson("Send JSON with Content-Type: application/json.")
        charsets = {part[8:].strip('"') for part in parameters if part.startswith("charset=")}
        if charsets - {"utf-8", "utf8"}:
            raise NotJson("Send JSON in UTF-8, without another charset.")
        if self.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise NotJson("Send the body uncompressed, without Content-Encoding.")


def parse_json(raw: bytes) -> Any:
    """JSON in UTF-8 (no NaN, no lone surrogates, bounded depth); raises MalformedJson, or Invalid for a NUL."""
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"Send valid JSON in UTF-8; it breaks off at line {error.lineno}.") from None
    if b"\\u0000" in raw and _holds_nul(parsed):
        raise Invalid(NUL_DETAIL)
    return parsed


NUL_DETAIL: Final = "Remove the NUL characters (U+0000); text with them cannot be stored."


def _holds_nul(parsed: Any) -> bool:
    waiting = [parsed]
    while waiting:
        match waiting.pop():
            case str(text) if "\0" in text:
                return True
            case dict(members):
                waiting.extend(members.keys())
                waiting.extend(members.values())
            case list(items):
                waiting.extend(items)
            case _:
                pass
    return False


class Route(APIRoute):
    """Checks the address and wraps the request before FastAPI reads anything of it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        size_bytes_max: int = getattr(self.endpoint, _LIMIT, BODY_BYTES_MAX)
        typed_body = self.body_field is not None

        async def checked(request: Request) -> Response:
            if "\0" in request.scope["path"] or b"\0" in unquote_to_bytes(request.scope["query_string"]):
                raise Invalid(NUL_DETAIL)
            bounded = JsonRequest(request, size_bytes_max)
            if typed_body and await bounded.body():
                await bounded.json()
            return await handle(bounded)

        return checked
