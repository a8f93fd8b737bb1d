"""Lanes: many callers, one append in flight per partition, bounds everywhere."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from shared.log.lanes import ENTRIES_PER_BATCH, Lanes
from shared.log.port import (
    BATCH_BYTES_MAX,
    ENTRY_BYTES_MAX,
    AppendFailed,
    At,
    Entry,
    EntryRefused,
    Log,
    LogUnavailable,
    Topic,
    TopicUnsafe,
)
from shared.testing.memory_log import MemoryLog, MemoryLogContent, no_point
from tests.log.reading import entry, new_topic, read, values

TOPIC = Topic("test.inbox", partitions=2)
AT, OTHER = At(TOPIC.name, 0), At(TOPIC.name, 1)


async def memory_log(point: Callable[[str], Awaitable[None]] = no_point) -> MemoryLog:
    log = MemoryLog(MemoryLogContent(), lambda: datetime.now(UTC), point)
    await log.set_up([TOPIC])
    return log


class Gate:
    """A point that holds every append until it is opened, and counts those that reached it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        self.appends = 0

    async def __call__(self, name: str) -> None:
        if name == "log.append":
            self.appends += 1
            self.reached.set()
            await self.opened.wait()


async def callers(lanes: Lanes, entries: list[Entry], at: At = AT) -> list["asyncio.Task[int]"]:
    """One caller per entry, each of them waiting in the lane when this returns."""
    tasks = [asyncio.create_task(lanes.append(at, one)) for one in entries]
    await asyncio.wait(tasks, timeout=0.01)
    return tasks


async def test_concurrent_callers_each_get_their_own_offset(log: Log) -> None:
    topic = new_topic()
    await log.set_up([topic])
    at = At(topic.name, 0)
    lanes = Lanes(log)
    offsets = await asyncio.gather(*(lanes.append(at, entry(nth)) for nth in range(1200)))
    assert offsets == list(range(1200))
    assert values(await read(log, at, 1200)) == [str(nth) for nth in range(1200)]
    await lanes.close()


async def test_what_waits_while_one_is_in_flight_makes_up_the_next_batch() -> None:
    gate = Gate()
    log = await memory_log(gate)
    lanes = Lanes(log)
    first = await callers(lanes, [entry("first")])
    await gate.reached.wait()
    rest = await callers(lanes, [entry(nth) for nth in range(ENTRIES_PER_BATCH + 1)])
    assert gate.appends == 1
    gate.opened.set()
    assert await asyncio.gather(*first, *rest) == list(range(ENTRIES_PER_BATCH + 2))
    assert gate.appends == 3


async def test_a_batch_is_bounded_in_bytes() -> None:
    gate = Gate()
    log = await memory_log(gate)
    lanes = Lanes(log)
    third = Entry(b"k", b"x" * (BATCH_BYTES_MAX // 3))
    waiting = await callers(lanes, [entry("first")])
    await gate.reached.wait()
    waiting += await callers(lanes, [third] * 5)
    gate.opened.set()
    assert await asyncio.gather(*waiting) == list(range(6))
    assert gate.appends == 4


async def test_partitions_do_not_wait_for_each_other() -> None:
    held = asyncio.Event()
    log = await memory_log()

    class HalfStuck:
        async def append(self, at: At, entries: list[Entry]) -> int:
            if at == AT:
                await held.wait()
            return await log.append(at, entries)

    lanes = Lanes(HalfStuck())  # type: ignore[arg-type]
    stuck = await callers(lanes, [entry(1)])
    assert await lanes.append(OTHER, entry(2)) == 0
    assert not stuck[0].done()
    held.set()
    assert await stuck[0] == 0


async def test_a_full_lane_is_refused_at_once_and_nothing_of_it_appended() -> None:
    gate = Gate()
    log = await memory_log(gate)
    lanes = Lanes(log, waiting_max=2)
    waiting = await callers(lanes, [entry("in flight")])
    await gate.reached.wait()
    waiting += await callers(lanes, [entry(1), entry(2)])
    with pytest.raises(LogUnavailable, match="too many"):
        await lanes.append(AT, entry("one too many"))
    gate.opened.set()
    assert await asyncio.gather(*waiting) == [0, 1, 2]
    assert await lanes.append(AT, entry("later")) == 3


@pytest.mark.parametrize(
    "refused",
    [Entry(b"k", None), Entry(b"k", b"x" * (ENTRY_BYTES_MAX + 1)), Entry(b"k" * 1025, b"x")],
    ids=["tombstone", "oversize", "long key"],
)
async def test_what_no_log_takes_is_refused_alone(refused: Entry) -> None:
    lanes = Lanes(await memory_log())
    largest = Entry(b"k", b"x" * ENTRY_BYTES_MAX)
    outcomes = await asyncio.gather(
        lanes.append(AT, entry(1)), lanes.append(AT, refused), lanes.append(AT, largest), return_exceptions=True
    )
    assert isinstance(outcomes[1], EntryRefused)
    assert [outcomes[0], outcomes[2]] == [0, 1]


async def test_a_failed_append_is_tried_again_in_order() -> None:
    failures = 3

    async def point(name: str) -> None:
        nonlocal failures
        if name == "log.append" and failures:
            failures -= 1
            raise AppendFailed("no leader")

    lanes = Lanes(await memory_log(point))
    assert await asyncio.gather(*(lanes.append(AT, entry(nth)) for nth in range(5))) == [0, 1, 2, 3, 4]
    assert failures == 0


async def test_after_a_bounded_time_every_caller_is_told_and_the_lane_goes_on() -> None:
    broken = True

    async def point(name: str) -> None:
        if name == "log.append" and broken:
            raise AppendFailed("no leader")

    lanes = Lanes(await memory_log(point), retry_seconds=0.1)
    outcomes = await asyncio.gather(*(lanes.append(AT, entry(nth)) for nth in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, AppendFailed) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    broken = False
    assert await lanes.append(AT, entry("healed")) == 0


async def test_a_caller_that_gives_up_takes_back_what_is_not_in_flight() -> None:
    gate = Gate()
    log = await memory_log(gate)
    lanes = Lanes(log)
    waiting = await callers(lanes, [entry("in flight")])
    await gate.reached.wait()
    waiting += await callers(lanes, [entry("given up"), entry("kept")])
    waiting[1].cancel()
    gate.opened.set()
    await asyncio.wait(waiting)
    assert waiting[2].result() == 1
    assert values(await read(log, AT, 2)) == ["in flight", "kept"]


async def test_an_unknown_topic_is_told_to_the_caller() -> None:
    lanes = Lanes(await memory_log())
    with pytest.raises(TopicUnsafe):
        await lanes.append(At("not.there", 0), entry(1))


async def test_closing_answers_what_waits_and_takes_nothing_more() -> None:
    gate = Gate()
    lanes = Lanes(await memory_log(gate))
    waiting = await callers(lanes, [entry(1), entry(2)])
    closing = asyncio.create_task(lanes.close())
    await asyncio.wait({closing}, timeout=0.01)
    with pytest.raises(LogUnavailable, match="closing"):
        await lanes.append(AT, entry(3))
    gate.opened.set()
    await closing
    assert [task.result() for task in waiting] == [0, 1]
