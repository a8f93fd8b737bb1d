"""Request headers with a meaning of their own: Idempotency-Key, and how long to wait (`Prefer: wait=N`, RFC 7240)."""

import hashlib
import re
import secrets
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Header

from shared.http.problems import BadKey

KEY_CHARACTERS_MAX: Final = 255
WAIT_SECONDS_MAX: Final = 60
REQUEST_WAIT_SECONDS: Final = 2.0
"""Default wait of requests and reads; events and webhooks wait 0."""

_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}\Z")
_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?\Z", re.ASCII | re.IGNORECASE)


def body_hash(raw: bytes) -> str:
    """SHA-256 of a body as it was sent, in lower-case hex: the same key with another hash is another request."""
    return hashlib.sha256(raw).hexdigest()


def parse_idempotency_key(text: str | None) -> str:
    """The caller's key, or a random one when none was sent; raises BadKey."""
    if text is None:
        return secrets.token_hex(16)
    if not _VISIBLE.match(text):
        raise BadKey(f"Send an Idempotency-Key of 1 to {KEY_CHARACTERS_MAX} visible ASCII characters, without spaces.")
    return text


async def _idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(description="Names this request; repeated with it, the request is answered again and not done again."),
    ] = None,
) -> str:
    return parse_idempotency_key(idempotency_key)


IdempotencyKey = Annotated[str, Depends(_idempotency_key)]
"""Parameter of a writing endpoint."""


def parse_wait(lines: list[str], default_seconds: float) -> float:
    """Seconds to wait at most: the first `wait` of all Prefer lines, bounded to WAIT_SECONDS_MAX.

    As RFC 7240 §2 has it, a preference that cannot be understood is passed over.
    """
    for line in lines:
        for preference in line.split(","):
            if found := _WAIT.match(preference.split(";")[0].strip()):
                return float(min(int(found[1]), WAIT_SECONDS_MAX))
    return default_seconds


def wait_seconds(default_seconds: float = REQUEST_WAIT_SECONDS) -> Any:
    """Dependency: how long this request may wait (`wait: Annotated[float, wait_seconds(0)]`)."""

    async def read(
        prefer: Annotated[list[str] | None, Header(description="wait=N: wait at most N seconds (0 to 60).")] = None,
    ) -> float:
        return parse_wait(prefer or [], default_seconds)

    dependency: Callable[..., Any] = read
    return Depends(dependency)
