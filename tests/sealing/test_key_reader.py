"""Unsealing through the key topic: found, not yet read, never there, erased."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from shared.keyring import ERASED, KeyReader, Keyring, NewKey, tombstone
from shared.log.port import KEYS, At, Entry, Log, LogUnavailable, Topic
from shared.log.postgres import PostgresLog
from shared.sealing import KeyRecordMalformed, MasterKey, MasterKeyWrong, SealedTampered
from shared.testing.memory_log import MemoryLog, MemoryLogContent

AT = datetime(2026, 1, 2, 10, tzinfo=UTC)
MASTER = MasterKey(b"\x01" * 32)


def a_keyring(seed: int, master: MasterKey = MASTER) -> Keyring:
    return Keyring(master, random.Random(seed).randbytes, lambda: AT)


@pytest.fixture(params=["memory", "postgres"])
def empty_log(request: pytest.FixtureRequest) -> Log:
    if request.param == "memory":
        return MemoryLog(MemoryLogContent(), lambda: AT)
    return PostgresLog(request.getfixturevalue("database_url"))


@pytest.fixture
async def log(empty_log: Log) -> AsyncIterator[Log]:
    await empty_log.set_up([Topic(KEYS, compacted=True)])
    yield empty_log
    await empty_log.close()


@contextlib.asynccontextmanager
async def running(log: Log) -> AsyncIterator[KeyReader]:
    reader = KeyReader(log, a_keyring(seed=99), MASTER)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def publish(log: Log, keyring: Keyring) -> list[NewKey]:
    new = keyring.take_new()
    for key in new:
        await log.append(key.at, [key.entry])
    keyring.acknowledged(new)
    return new


async def erase(log: Log, key: NewKey) -> None:
    at, entry = tombstone(key.tenant, key.subject, key.key_id)
    await log.append(at, [entry])


async def test_a_key_published_before_or_while_reading_is_found(log: Log) -> None:
    writer = a_keyring(seed=1)
    before = writer.seal("acme", "c_01", "Li")
    await publish(log, writer)
    async with running(log) as reader:
        assert await reader.unseal("acme", "c_01", before) == "Li"
        later = writer.seal("acme", "c_02", "Wang")
        await publish(log, writer)
        assert await reader.unseal("acme", "c_02", later) == "Wang"


async def test_a_key_that_was_never_published_is_erased(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed = writer.seal("acme", "c_01", "Li")
    async with running(log) as reader:
        assert await reader.unseal("acme", "c_01", sealed) is ERASED


async def test_a_tombstone_erases_also_what_a_reader_held_already(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed, other = writer.seal("acme", "c_01", "Li"), writer.seal("acme", "c_02", "Wang")
    new = await publish(log, writer)
    async with running(log) as reader:
        assert await reader.unseal("acme", "c_01", sealed) == "Li"

        await erase(log, new[0])
        await reader.caught_up()

        assert await reader.unseal("acme", "c_01", sealed) is ERASED
        assert await reader.unseal("acme", "c_02", other) == "Wang"
    async with running(log) as newcomer:
        assert await newcomer.unseal("acme", "c_01", sealed) is ERASED


async def test_a_key_that_reappears_stays_erased_for_who_has_read_its_tombstone(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed = writer.seal("acme", "c_01", "Li")
    (key,) = await publish(log, writer)
    async with running(log) as reader:
        await erase(log, key)
        await reader.caught_up()
        await log.append(key.at, [key.entry])
        await reader.caught_up()
        assert await reader.unseal("acme", "c_01", sealed) is ERASED


async def test_a_key_is_never_overwritten_for_who_has_read_it(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed = writer.seal("acme", "c_01", "Li")
    (key,) = await publish(log, writer)
    async with running(log) as reader:
        await reader.caught_up()
        await log.append(key.at, [Entry(key.entry.key, b'{"wrapped": "AAAA", "made_at": "", "master": "x"}')])
        await reader.caught_up()
        assert await reader.unseal("acme", "c_01", sealed) == "Li"


async def test_each_key_of_a_contact_unseals_its_own_texts(log: Log) -> None:
    first, second = a_keyring(seed=1), a_keyring(seed=2)
    texts = [first.seal("acme", "c_01", "Li"), second.seal("acme", "c_01", "Shanghai")]
    (old,) = await publish(log, first)
    await publish(log, second)
    async with running(log) as reader:
        assert [await reader.unseal("acme", "c_01", text) for text in texts] == ["Li", "Shanghai"]
        await erase(log, old)
        await reader.caught_up()
        assert [await reader.unseal("acme", "c_01", text) for text in texts] == [ERASED, "Shanghai"]


async def test_a_tampered_text_is_named_and_not_called_erased(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed = writer.seal("acme", "c_01", "Li")
    await publish(log, writer)
    async with running(log) as reader:
        with pytest.raises(SealedTampered):
            await reader.unseal("acme", "c_01", f"{sealed[:-6]}AAAAAA")


async def test_a_reader_that_does_not_run_says_so(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed = writer.seal("acme", "c_01", "Li")
    await publish(log, writer)
    reader = KeyReader(log, a_keyring(seed=2), MASTER)
    with pytest.raises(LogUnavailable, match="was not read to its end"):
        await reader.unseal("acme", "c_01", sealed, timeout_seconds=0.01)


async def test_keys_of_another_master_key_stop_the_reader(log: Log) -> None:
    writer = a_keyring(seed=1, master=MasterKey(b"\x02" * 32))
    writer.seal("acme", "c_01", "Li")
    await publish(log, writer)
    reader = KeyReader(log, a_keyring(seed=2), MASTER)
    with pytest.raises(MasterKeyWrong, match="start it with the master key that this installation began with"):
        await asyncio.wait_for(reader.run(), 5)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(b"acme/c_01/k1", b"not JSON"),
        Entry(b"acme/c_01/k1", b"[]"),
        Entry(b"acme/c_01/k1", b'{"wrapped": 5, "master": "x"}'),
        Entry(b"acme/c_01/k1", b'{"wrapped": "!", "master": "x"}'),
        Entry(b"acme/c_01/k1", b'{"wrapped": "AAAA"}'),
        Entry(b"nobody", b"{}"),
        Entry(b"acme/c_01/", b"{}"),
        Entry(b"\xff/c_01/k1", b"{}"),
    ],
)
async def test_a_record_that_is_no_key_stops_the_reader(log: Log, entry: Entry) -> None:
    await log.append(At(KEYS, 0), [entry])
    reader = KeyReader(log, a_keyring(seed=2), MASTER)
    with pytest.raises(KeyRecordMalformed):
        await asyncio.wait_for(reader.run(), 5)


async def test_keys_can_be_kept_in_a_table_of_the_readers_own(log: Log) -> None:
    writer = a_keyring(seed=1)
    sealed = writer.seal("acme", "c_01", "Li")
    (key,) = await publish(log, writer)
    table: dict[bytes, bytes | None] = {}
    reader = KeyReader(log, a_keyring(seed=2), MASTER, table)
    task = asyncio.create_task(reader.run())
    assert await reader.unseal("acme", "c_01", sealed) == "Li"
    assert table == {key.entry.key: key.wrapped}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
