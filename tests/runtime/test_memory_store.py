"""What the simulator asks of the store in memory beyond the port: killed and stopped processes, crash points."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from shared.runtime.store import OutboxRow, Position, Reached, Store, StoreConflict, StoreUnavailable
from shared.testing.memory_store import DuplicateRow, MemoryStore, MemoryStoreContent
from tests.runtime.toy_store import ENTRIES, NICKNAMES, TOYS, WORKER, Entry, Nickname, Turn, claimed, held, no_point

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def content() -> MemoryStoreContent:
    return MemoryStoreContent()


def process(
    content: MemoryStoreContent, watch: Watch, name: str, point: Callable[[str], Awaitable[None]] = no_point
) -> MemoryStore:
    return MemoryStore(content, WORKER, TOYS, watch, point, name)


def dies_at(name: str, reached: asyncio.Event) -> Callable[[str], Awaitable[None]]:
    """A point at which the process never comes back."""

    async def point(at: str) -> None:
        if at == name:
            reached.set()
            await asyncio.get_running_loop().create_future()

    return point


async def batch_of(store: Store, version: int) -> None:
    """One batch of partition 0 with an effect, an outbox row and a position."""
    async with store.transaction() as batch:
        assert await batch.hold([Position(0, version)])
        await batch.save(NICKNAMES, [Nickname("acme", "ace", "Li")])
        await batch.add(ENTRIES, [Entry("acme", version, 5)])
        await batch.send([OutboxRow(0, 0, version, version, False, b"k", b"v")])


@pytest.mark.parametrize("point", ["hold", "save", "add", "send", "commit"])
async def test_a_process_killed_before_its_commit_leaves_nothing(
    content: MemoryStoreContent, watch: Watch, point: str
) -> None:
    position = await claimed(process(content, watch, "first"), 0)
    reached = asyncio.Event()
    dying = asyncio.create_task(
        batch_of(process(content, watch, "first", dies_at("store." + point, reached)), position.version)
    )
    await reached.wait()
    content.kill("first")
    successor = process(content, watch, "second")
    assert await successor.position(0) == position
    assert content.rows == {}
    assert content.outbox == {}
    await batch_of(successor, position.version)
    assert set(content.rows) == {"nicknames", "entries"}
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying
    assert content.positions[0].version == position.version + 1


async def test_a_process_killed_after_its_commit_has_committed(content: MemoryStoreContent, watch: Watch) -> None:
    position = await claimed(process(content, watch, "first"), 0)
    reached = asyncio.Event()
    dying = asyncio.create_task(
        batch_of(process(content, watch, "first", dies_at("store.committed", reached)), position.version)
    )
    await reached.wait()
    content.kill("first")
    found = await process(content, watch, "second").position(0)
    assert found is not None
    assert found.version == position.version + 1
    assert list(content.rows["entries"].values()) == [Entry("acme", 1, 5)]
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying


async def test_an_answer_lost_after_the_commit_is_told_by_the_position(
    content: MemoryStoreContent, watch: Watch
) -> None:
    async def loses(at: str) -> None:
        if at == "store.committed":
            raise StoreUnavailable("the answer was lost")

    store = process(content, watch, "first", loses)
    position = await claimed(store, 0)
    with pytest.raises(StoreUnavailable):
        await batch_of(store, position.version)
    found = await store.position(0)
    assert found is not None
    assert found.version == position.version + 1


async def test_a_waiter_goes_on_when_the_holder_was_killed(content: MemoryStoreContent, watch: Watch) -> None:
    reached, looked = asyncio.Event(), asyncio.Event()

    async def looks(at: str) -> None:
        if at == "store.wait":
            looked.set()
        await Turn()

    second = process(content, watch, "second", looks)
    position = await claimed(second, 0)
    dying = asyncio.create_task(
        batch_of(process(content, watch, "first", dies_at("store.commit", reached)), position.version)
    )
    await reached.wait()
    waiting = asyncio.create_task(batch_of(second, position.version))
    await looked.wait()
    assert not waiting.done()
    content.kill("first")
    await waiting
    assert list(content.rows["entries"].values()) == [Entry("acme", 1, 5)]
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying


async def test_a_stopped_process_loses_its_transaction_after_the_idle_time_out(
    content: MemoryStoreContent, watch: Watch
) -> None:
    zombie, successor = process(content, watch, "zombie"), process(content, watch, "successor")
    position = await claimed(zombie, 0)

    async def wakes_too_late() -> None:
        async with zombie.transaction() as batch:
            await held(batch, position)
            watch.now += timedelta(minutes=2)
            taken = await successor.claim("bert", 0, 60)
            assert taken is not None
            await batch.move([position])

    with pytest.raises(StoreUnavailable):
        await wakes_too_late()
    assert content.positions[0].version == 2


async def test_waiting_too_long_for_a_row_is_a_conflict(content: MemoryStoreContent, watch: Watch) -> None:
    async def waits_long(at: str) -> None:
        await Turn()
        if at == "store.wait":
            watch.now += timedelta(seconds=4)

    first, second = process(content, watch, "first"), process(content, watch, "second", waits_long)
    async with first.transaction() as batch:
        await batch.save(NICKNAMES, [Nickname("acme", "ace", "Li")])
        with pytest.raises(StoreConflict, match="lock time-out"):
            async with second.transaction() as late:
                await late.save(NICKNAMES, [Nickname("acme", "ace", "Wu")])


async def test_a_key_of_an_append_only_table_comes_once(content: MemoryStoreContent, watch: Watch) -> None:
    store = process(content, watch, "first")
    async with store.transaction() as batch:
        await batch.add(ENTRIES, [Entry("acme", 1, 5)])
    with pytest.raises(DuplicateRow):
        async with store.transaction() as batch:
            await batch.add(ENTRIES, [Entry("acme", 1, 6)])
    assert list(content.rows["entries"].values()) == [Entry("acme", 1, 5)]


async def test_announcements_may_be_dropped_and_the_dead_hear_nothing(watch: Watch) -> None:
    content = MemoryStoreContent(drops=lambda reached: reached.partition == 1)
    first, second = process(content, watch, "first"), process(content, watch, "second")
    heard: list[Reached] = []
    dead: list[Reached] = []
    await first.listen(heard.append)
    await second.listen(dead.append)
    content.kill("second")
    await first.announce([Reached(0, 1, 1, 1), Reached(1, 1, 1, 1), Reached(2, 1, 1, 1)])
    await Turn()
    assert [reached.partition for reached in heard] == [0, 2]
    assert dead == []
