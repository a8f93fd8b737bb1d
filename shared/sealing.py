"""Personal data on the stream is sealed per contact; erasing a contact is erasing its keys (DESIGN §9).

Three layers, each AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits:

1. The master key stays outside log and database. Two keys are derived from it with HKDF-SHA256 (RFC 5869).
2. A data key per (tenant, subject, key id) is wrapped with the first. Wrapped, it stands on the topic
   `regulars.keys`, see `shared.keyring`.
3. A text is sealed with a data key: `sealed.v1.<key id>.<base64url of nonce and ciphertext>`.

Each layer authenticates whom it belongs to, so a key or text that is moved to another tenant or contact is refused.
The second derived key hashes identities: they can be looked up and compared, and not read back or guessed.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import os
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import BaseModel

from shared.events.catalogue import SealedMarker

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16

Random = Callable[[int], bytes]
"""n -> n random bytes: `os.urandom` in earnest, a seeded one in the simulator."""


class SealingError(Exception):
    """
    SealingError
    ├── MasterKeyUnsafe      it has not 32 bytes, or the demo's file of it can be read by others
    ├── MasterKeyWrong       a data key was wrapped under another master key
    ├── SealedMalformed      the text is not of the form `sealed.v1.<key id>.<base64url>`
    ├── SealedTampered       a text or wrapped key was changed, or belongs to another tenant or contact
    └── KeyRecordMalformed   a record of the key topic that cannot be read
    """


class MasterKeyUnsafe(SealingError): ...


class MasterKeyWrong(SealingError): ...


class SealedMalformed(SealingError): ...


class SealedTampered(SealingError): ...


class KeyRecordMalformed(SealingError): ...


class MasterKey:
    """The secret of an installation: 32 bytes, never printed, never stored by us."""

    def __init__(self, secret: bytes) -> None:
        """Raises MasterKeyUnsafe unless the secret has 32 bytes."""
        if len(secret) != KEY_BYTES:
            raise MasterKeyUnsafe(f"the master key must have {KEY_BYTES} bytes, not {len(secret)}")
        self._wrapping = AESGCM(_derived(secret, b"regulars data key wrapping v1"))
        self.identity_secret: Final = _derived(secret, b"regulars identity hash v1")
        """The secret of `identity_hash`."""
        self.fingerprint: Final = _derived(secret, b"regulars master key fingerprint v1")[:4].hex()
        """Names the key without telling anything of it; stands beside each key it wrapped."""

    def __repr__(self) -> str:
        return f"MasterKey({self.fingerprint})"

    def wrap(self, data_key: bytes, path: bytes, random: Random) -> bytes:
        """Nonce and ciphertext of a data key, bound to its path (`key_path`)."""
        nonce = random(NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, data_key, b"key:" + path)

    def unwrap(self, wrapped: bytes, path: bytes) -> bytes:
        """The data key; raises SealedTampered when this master key did not wrap it for this path."""
        return _opened(self._wrapping, wrapped, b"key:" + path)


def _derived(secret: bytes, label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=label).derive(secret)


def _opened(cipher: AESGCM, box: bytes, bound_to: bytes) -> bytes:
    if len(box) < NONCE_BYTES + TAG_BYTES:
        raise SealedMalformed("too short to be sealed")
    try:
        return cipher.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], bound_to)
    except InvalidTag:
        raise SealedTampered("it was changed, or belongs to another tenant, contact or key") from None


def make_master_key_file(path: Path, random: Random) -> None:
    """Write a fresh master key to `path` for REGULARS_MASTER_KEY_FILE, mode 0600, unless a file is there.

    For the demo, which brings its own; a real installation makes its key itself and keeps a copy of it elsewhere.
    Two processes that start at once end up with the same key. Raises MasterKeyUnsafe for a file that others can read.
    """
    fresh = path.with_name(f"{path.name}.{random(8).hex()}")
    with open(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(base64.b64encode(random(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise MasterKeyUnsafe(f"{path} can be read by others; run chmod 600 {path}") from None
    finally:
        fresh.unlink()


def key_path(tenant: str, subject: str, key_id: str) -> bytes:
    """The key of a data key's record on `regulars.keys`. Only the subject may hold a slash; else ValueError."""
    if "/" in tenant or "/" in key_id:
        raise ValueError("neither a tenant nor a key id may hold a slash")
    return f"{tenant}/{subject}/{key_id}".encode()


def identity_hash(secret: bytes, tenant: str, kind: str, value: str) -> str:
    """HMAC-SHA256 in hex (64 characters) of one normalised identity value; `secret` is the master key's.

    Each part is written with its length, so that no two identities hash the same text.
    """
    parts = [part.encode() for part in (tenant, kind, value)]
    return hmac.new(secret, b"".join(b"%d:%b" % (len(part), part) for part in parts), hashlib.sha256).hexdigest()


_SEALED = re.compile(r"sealed\.v1\.([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]+)")


def seal_text(cipher: AESGCM, path: bytes, key_id: str, text: str, random: Random) -> str:
    """Seal under one data key, bound to its path."""
    nonce = random(NONCE_BYTES)
    box = nonce + cipher.encrypt(nonce, text.encode(), b"text:" + path)
    return f"sealed.v1.{key_id}.{base64.urlsafe_b64encode(box).decode().rstrip('=')}"


def unseal_text(cipher: AESGCM, path: bytes, sealed: str) -> str:
    """The text; raises SealedMalformed or SealedTampered."""
    return _opened(cipher, _split(sealed)[1], b"text:" + path).decode()


def key_id_of(sealed: str) -> str:
    """The id of the data key that a text is sealed under; raises SealedMalformed."""
    return _split(sealed)[0]


def _split(sealed: str) -> tuple[str, bytes]:
    matched = _SEALED.fullmatch(sealed)
    if matched is None:
        raise SealedMalformed("not of the form sealed.v1.<key id>.<base64url>")
    key_id, coded = matched.groups()
    try:
        box = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4))
    except binascii.Error:
        raise SealedMalformed("its last part is not base64url") from None
    return key_id, box


M = TypeVar("M", bound=BaseModel)
SealOne = Callable[[str], str]
Walk = Callable[[Any, SealOne], Any]


def seal_fields(model: M, seal: SealOne) -> M:
    """A copy of the model with each field that is declared `Sealed` sealed, in nested models and collections too.

    Every such text is sealed, whatever it looks like: a sender who writes `sealed.v1...` into an e-mail gets that
    very text back and cannot smuggle in another's. So this is called once for each event, by the runtime. A field
    that carries on what was sealed before is declared `str`. None stays None; bounds are not checked again.
    """
    plan = _plan(type(model))
    if not plan:
        return model
    return model.model_copy(update={name: walk(getattr(model, name), seal) for name, walk in plan})


def sealed_fields(declared: type[BaseModel]) -> tuple[str, ...]:
    """The sealed fields of a model as dotted paths, in order of declaration: `("identities.value",)`."""
    return tuple(_paths(declared, ()))


def _paths(declared: type[BaseModel], above: tuple[type[BaseModel], ...]) -> Iterator[str]:
    for name, field in declared.model_fields.items():
        if _is_sealed(field.metadata):
            yield name
            continue
        for annotation in _parts(field.annotation):
            if get_origin(annotation) is Annotated and _is_sealed(annotation.__metadata__):
                yield name
            elif _is_model(annotation) and annotation not in (*above, declared):
                yield from (f"{name}.{path}" for path in _paths(annotation, (*above, declared)))


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotation and, at any depth, what it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _is_sealed(metadata: Any) -> bool:
    return any(isinstance(marker, SealedMarker) for marker in metadata)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


@functools.cache
def _plan(declared: type[BaseModel]) -> tuple[tuple[str, Walk], ...]:
    """What to walk into, by field; empty for a class without sealed fields, which then costs a look-up."""
    if not sealed_fields(declared):
        return ()
    steps = {
        name: _walk(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation, name)
        for name, field in declared.model_fields.items()
    }
    return tuple((name, walk) for name, walk in steps.items() if walk is not None)


def _seal_one(value: Any, seal: SealOne) -> Any:
    return seal(value)


def _walk(annotation: Any, name: str) -> Walk | None:
    """How to seal a value of this annotation; None: nothing in it is sealed.

    Raises TypeError for a form that cannot be walked: better at the first event of a type than unsealed for ever.
    """
    if _is_model(annotation):
        return seal_fields if sealed_fields(annotation) else None
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if not _is_sealed(annotation.__metadata__):
            return _walk(parts[0], name)
        if parts[0] is not str:
            raise TypeError(f"field {name}: only text is sealed; write `Sealed | None` or `tuple[Sealed, ...]`")
        return _seal_one
    if origin in (types.UnionType, Union):
        walks = [walk for part in parts if part is not type(None) and (walk := _walk(part, name))]
        others = len(parts) - (type(None) in parts) - len(walks)
        if walks and (len(walks) > 1 or others):
            raise TypeError(f"field {name}: a sealed field may be left out (| None), but be of one type only")
        return functools.partial(_optional, walks[0]) if walks else None
    walks = [walk for part in parts if part is not Ellipsis and (walk := _walk(part, name))]
    if not walks:
        return None
    if origin is tuple and parts[1:] == (Ellipsis,):
        return functools.partial(_each, walks[0])
    if origin is dict and _walk(parts[0], name) is None:
        return functools.partial(_each_value, walks[0])
    raise TypeError(f"field {name}: sealed texts stand in tuple[..., ...], dict values, nested models or alone")


def _optional(walk: Walk, value: Any, seal: SealOne) -> Any:
    return value if value is None else walk(value, seal)


def _each(walk: Walk, values: Any, seal: SealOne) -> Any:
    return tuple(walk(value, seal) for value in values)


def _each_value(walk: Walk, values: Any, seal: SealOne) -> Any:
    return {key: walk(value, seal) for key, value in values.items()}
