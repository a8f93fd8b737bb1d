"""Opaque tokens: compact JSON in unpadded URL-safe base64, for cursors and positions. Not secret, not signed."""

import base64
import binascii
from typing import Any, Final

import orjson

TOKEN_CHARACTERS_MAX: Final = 8192


def encode(value: Any) -> str:
    """One text for one value: members are sorted."""
    packed = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


def decode(text: str) -> Any:
    """The value of a token; raises ValueError for anything that is not one."""
    if not text or len(text) > TOKEN_CHARACTERS_MAX or not text.isascii():
        raise ValueError("not a token")
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not a token") from None
    return orjson.loads(packed)
