"""New data keys are sealed with again when the log has all of them; else all are forgotten."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from shared.keyring import ERASED, Keyring
from shared.log.port import KEYS, AppendFailed, Topic
from shared.runtime.worker import key_publisher
from shared.sealing import MasterKey, key_id_of
from shared.testing.memory_log import MemoryLog, MemoryLogContent

NAMES = [f"c{number}" for number in range(30)]
"""Of several partitions."""


class Appends:
    """What happens at the nth append."""

    def __init__(self, nth: int, happens: Callable[[], Awaitable[object]]) -> None:
        self.nth, self.happens, self.seen = nth, happens, 0

    async def __call__(self, point: str) -> None:
        if point == "log.append":
            self.seen += 1
            if self.seen == self.nth:
                await self.happens()


async def fail() -> None:
    raise AppendFailed("the third")


def a_keyring() -> Keyring:
    return Keyring(MasterKey(os.urandom(32)), os.urandom, lambda: datetime.now(UTC))


async def a_log(point: Appends) -> tuple[MemoryLog, MemoryLogContent]:
    content = MemoryLogContent()
    log = MemoryLog(content, lambda: datetime.now(UTC), point)
    await log.set_up([Topic(KEYS, 12, None, True)])
    return log, content


def seal(keyring: Keyring) -> dict[str, str]:
    return {name: keyring.seal("acme", name, "text") for name in NAMES}


async def test_when_one_partition_fails_none_of_the_keys_is_used_again() -> None:
    log, content = await a_log(Appends(3, fail))
    keyring = a_keyring()
    publish = key_publisher(log, keyring)
    sealed = seal(keyring)
    with pytest.raises(AppendFailed, match="the third"):
        await publish()
    assert {keyring.unseal("acme", name, text) for name, text in sealed.items()} == {ERASED}
    again = seal(keyring)
    await publish()
    on_the_log = {record.key.rpartition(b"/")[2].decode() for records in content.records.values() for record in records}
    assert {key_id_of(text) for text in again.values()} <= on_the_log
    assert {key_id_of(text) for text in seal(keyring).values()} == {key_id_of(text) for text in again.values()}


async def test_who_is_cancelled_forgets_the_keys() -> None:
    began = asyncio.Event()

    async def hang() -> None:
        began.set()
        await asyncio.Event().wait()

    log, _ = await a_log(Appends(3, hang))
    keyring = a_keyring()
    sealed = seal(keyring)
    publishing = asyncio.ensure_future(key_publisher(log, keyring)())
    await began.wait()
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert {keyring.unseal("acme", name, text) for name, text in sealed.items()} == {ERASED}


async def test_without_new_keys_nothing_is_appended() -> None:
    log, content = await a_log(Appends(1, fail))
    await key_publisher(log, a_keyring())()
    assert not any(content.records.values())
