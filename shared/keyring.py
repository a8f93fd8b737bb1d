"""Data keys: made and held by a keyring, published on and read from the topic `regulars.keys`.

A record's key is `tenant/subject/key id`, its value `{"wrapped": base64, "made_at": time, "master": fingerprint}`. A
record is never overwritten but by a tombstone, and a tombstone is an erasure.
"""

import asyncio
import base64
import binascii
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel

from shared.events.envelope import instant
from shared.log.port import KEYS, PARTITIONS, At, Entry, Log, LogUnavailable, Reader, Record, partition_of
from shared.sealing import (
    KEY_BYTES,
    KeyRecordMalformed,
    MasterKey,
    MasterKeyWrong,
    Random,
    key_id_of,
    key_path,
    seal_fields,
    seal_text,
    unseal_text,
)

T = TypeVar("T")

KEYS_HELD_MAX: Final = 20_000
TAKE_MOST: Final = 1_000


@dataclass(frozen=True)
class Erased:
    """What stands in the place of a text whose key is gone: the contact was erased."""


ERASED: Final = Erased()


class NewKey(NamedTuple):
    """A data key that was made here and that the log does not know yet."""

    tenant: str
    subject: str
    key_id: str
    wrapped: bytes
    made_at: datetime
    master: str

    @property
    def at(self) -> At:
        """Where it is to be appended."""
        return At(KEYS, partition_of(self.tenant, self.subject))

    @property
    def entry(self) -> Entry:
        """Its record."""
        value = {
            "wrapped": base64.b64encode(self.wrapped).decode(),
            "made_at": instant(self.made_at),
            "master": self.master,
        }
        return Entry(key_path(self.tenant, self.subject, self.key_id), orjson.dumps(value))


def tombstone(tenant: str, subject: str, key_id: str) -> tuple[At, Entry]:
    """The erasure of a data key: where to append which entry."""
    return At(KEYS, partition_of(tenant, subject)), Entry(key_path(tenant, subject, key_id), None)


class Keyring:
    """Seals and unseals with the data keys it holds; the least recently used beyond `most` are let go.

    For a subject without a key here, `seal` makes one. A turn of a partition ends in this order:

    1. decide and seal, then `take_new()` without an await between: the keys that this turn made
    2. append them and await the log's acknowledgement; if that fails, `forget` them: the next attempt makes others
    3. `acknowledged`, and commit

    Partitions may share a keyring: between 1 and 3 nobody seals with a taken key, so that no turn commits what is
    sealed under a key that the log may never get. A key let go, forgotten or never acknowledged costs the next seal a
    new key, no more. A worker that goes on under an erased key seals what nobody can read.
    """

    def __init__(
        self, master: MasterKey, random: Random, clock: Callable[[], datetime], most: int = KEYS_HELD_MAX
    ) -> None:
        """`clock` only dates the records of new keys; nothing is decided by it."""
        self._master, self._random, self._clock, self._most = master, random, clock, most
        self._held: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._current: dict[tuple[str, str], str] = {}
        self._new: list[NewKey] = []

    def seal(self, tenant: str, subject: str, text: str) -> str:
        """`sealed.v1.<key id>.<base64url>`. The text is sealed whatever it looks like."""
        key_id = self._current.get((tenant, subject)) or self._make(tenant, subject)
        path = key_path(tenant, subject, key_id)
        self._held.move_to_end(path)
        return seal_text(self._held[path], path, key_id, text, self._random)

    def seal_model(self, tenant: str, subject: str, data: T) -> T:
        """An event's data with its sealed fields sealed (`seal_fields`): once for each event."""
        if not isinstance(data, BaseModel):
            raise TypeError(f"{type(data).__name__} is no event data")
        return seal_fields(data, functools.partial(self.seal, tenant, subject))

    def unseal(self, tenant: str, subject: str, sealed: str) -> str | Erased:
        """The text, or Erased when this keyring holds no such key; only `KeyReader.unseal` knows that for certain.

        Raises SealedMalformed or SealedTampered.
        """
        path = key_path(tenant, subject, key_id_of(sealed))
        cipher = self._held.get(path)
        if cipher is None:
            return ERASED
        self._held.move_to_end(path)
        return unseal_text(cipher, path, sealed)

    def take_new(self) -> list[NewKey]:
        """The keys made since the last call, in the order they were made; none is sealed with until acknowledged."""
        taken, self._new = self._new, []
        for key in taken:
            self._retire(key.tenant, key.subject, key.key_id)
        return taken

    def acknowledged(self, new: Iterable[NewKey]) -> None:
        """The log has these keys: seal with them again, those that are still held."""
        for key in new:
            if key_path(key.tenant, key.subject, key.key_id) in self._held:
                self._current[(key.tenant, key.subject)] = key.key_id

    def forget(self, new: Iterable[NewKey]) -> None:
        """Drop keys that the log may not have; unknown ones are passed over."""
        for key in new:
            self.drop(key.tenant, key.subject, key.key_id)

    def learn(self, tenant: str, subject: str, key_id: str, wrapped: bytes) -> None:
        """Hold a key of the key topic; raises SealedTampered when it was not wrapped for this subject."""
        path = key_path(tenant, subject, key_id)
        if path not in self._held:
            self._hold(tenant, subject, key_id, AESGCM(self._master.unwrap(wrapped, path)))

    def drop(self, tenant: str, subject: str, key_id: str) -> None:
        """Let go of a key, as after its tombstone; an unknown one is passed over."""
        self._held.pop(key_path(tenant, subject, key_id), None)
        self._retire(tenant, subject, key_id)
        self._new = [key for key in self._new if key[:3] != (tenant, subject, key_id)]

    def _make(self, tenant: str, subject: str) -> str:
        key_id, data_key = self._random(8).hex(), self._random(KEY_BYTES)
        wrapped = self._master.wrap(data_key, key_path(tenant, subject, key_id), self._random)
        self._hold(tenant, subject, key_id, AESGCM(data_key))
        self._new.append(NewKey(tenant, subject, key_id, wrapped, self._clock(), self._master.fingerprint))
        return key_id

    def _hold(self, tenant: str, subject: str, key_id: str, cipher: AESGCM) -> None:
        self._held[key_path(tenant, subject, key_id)] = cipher
        self._current[(tenant, subject)] = key_id
        if len(self._held) > self._most:
            path, _ = self._held.popitem(last=False)
            self._retire(*_owner_of(path))

    def _retire(self, tenant: str, subject: str, key_id: str) -> None:
        if self._current.get((tenant, subject)) == key_id:
            del self._current[(tenant, subject)]


def _owner_of(path: bytes) -> tuple[str, str, str]:
    """(tenant, subject, key id) of a record's key; raises KeyRecordMalformed."""
    try:
        tenant, _, rest = path.decode().partition("/")
        subject, slash, key_id = rest.rpartition("/")
    except UnicodeDecodeError:
        raise KeyRecordMalformed("the key of a record on the key topic is not UTF-8") from None
    if not (slash and key_id):
        raise KeyRecordMalformed(f"{path!r} is not tenant/subject/key id")
    return tenant, subject, key_id


class KeyReader:
    """Folds the key topic and unseals for those who read: APIs, exports, people who look at a parked input.

    `run` reads for ever and must be running; it applies tombstones as they come. `wrapped` is where keys are kept,
    None for an erased one: a dict (some 250 bytes a key), or a table behind the same interface. The first record of a
    key counts and a tombstone is final for who has read it. Compaction keeps a key's last record only: one appended
    after its tombstone is a key again for who reads later, until contacts puts the tombstone again (DESIGN §9).
    """

    def __init__(
        self,
        log: Log,
        keyring: Keyring,
        master: MasterKey,
        wrapped: MutableMapping[bytes, bytes | None] | None = None,
        partitions: int = PARTITIONS,
    ) -> None:
        self._log, self._keyring, self._master = log, keyring, master
        self._wrapped: MutableMapping[bytes, bytes | None] = {} if wrapped is None else wrapped
        self._next = {At(KEYS, partition): 0 for partition in range(partitions)}
        self._partitions = partitions
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Read the key topic until cancelled. Raises LogError, MasterKeyWrong or KeyRecordMalformed."""
        reader = await self._log.reader(self._next)
        try:
            while True:
                await reader.wait(1.0)
                await self._take(reader)
        finally:
            await reader.close()

    async def caught_up(self, at: Iterable[At] | None = None, timeout_seconds: float = 5.0) -> None:
        """Return when all that was on these partitions (None: all) at the call is folded; raises LogUnavailable."""
        ends = await self._log.ends(list(self._next if at is None else at))
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(lambda: all(self._next[at] >= end for at, end in ends.items()))
        except TimeoutError:
            raise LogUnavailable(f"the key topic was not read to its end within {timeout_seconds} s") from None

    async def unseal(self, tenant: str, subject: str, sealed: str, timeout_seconds: float = 5.0) -> str | Erased:
        """The text, or Erased when the key is gone or, after reading the topic to its end, was never there.

        Raises SealedMalformed, SealedTampered, or LogUnavailable when that end is not reached in time.
        """
        text = self._keyring.unseal(tenant, subject, sealed)
        if isinstance(text, str):
            return text
        key_id = key_id_of(sealed)
        path = key_path(tenant, subject, key_id)
        if path not in self._wrapped:
            await self.caught_up([At(KEYS, partition_of(tenant, subject, self._partitions))], timeout_seconds)
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            return ERASED
        self._keyring.learn(tenant, subject, key_id, wrapped)
        return self._keyring.unseal(tenant, subject, sealed)

    async def _take(self, reader: Reader) -> None:
        for at in self._next:
            while records := await reader.take(at, TAKE_MOST):
                for record in records:
                    self._fold(record)
                async with self._moved:
                    self._next[at] = records[-1].offset + 1
                    self._moved.notify_all()

    def _fold(self, record: Record) -> None:
        owner = _owner_of(record.key)
        if record.value is None:
            self._wrapped[record.key] = None
            self._keyring.drop(*owner)
        elif record.key not in self._wrapped:
            self._wrapped[record.key] = self._wrapped_in(record)

    def _wrapped_in(self, record: Record) -> bytes:
        try:
            value = orjson.loads(record.value or b"")
            wrapped, master = base64.b64decode(value["wrapped"], validate=True), value["master"]
        except (ValueError, TypeError, KeyError, binascii.Error):
            raise KeyRecordMalformed(f"{record.at.topic}/{record.at.partition}/{record.offset} is no key") from None
        if master != self._master.fingerprint:
            raise MasterKeyWrong(
                f"the keys on {KEYS} were wrapped under master key {master}, and this process has "
                f"{self._master.fingerprint}: start it with the master key that this installation began with"
            )
        return wrapped
