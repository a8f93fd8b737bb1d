"""The simulator's log: crashes at its points, processes over one content, and a clock that may go back."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared.log.port import At, LogUnavailable, OffsetMissing, Topic
from shared.testing.memory_log import MemoryLog, MemoryLogContent
from tests.log.reading import entry, read, values

TOPIC = Topic("test.events", partitions=1)
AT = At(TOPIC.name, 0)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
async def content() -> MemoryLogContent:
    content = MemoryLogContent()
    await MemoryLog(content, lambda: NOON).set_up([TOPIC])
    return content


@pytest.mark.parametrize(("point", "durable"), [("log.append", False), ("log.append.durable", True)])
async def test_a_process_that_dies_at_a_point_blocks_nobody(
    content: MemoryLogContent, point: str, durable: bool
) -> None:
    dead = asyncio.Event()

    async def die(name: str) -> None:
        if name == point:
            await dead.wait()

    dying = asyncio.create_task(MemoryLog(content, lambda: NOON, die).append(AT, [entry("dying")]))
    await asyncio.wait({dying}, timeout=0.01)
    assert not dying.done()
    living = MemoryLog(content, lambda: NOON)
    await living.append(AT, [entry("living")])
    assert values(await read(living, AT, 1 + durable)) == (["dying", "living"] if durable else ["living"])
    dying.cancel()
    await asyncio.wait({dying})
    assert len(content.records[AT]) == 1 + durable


async def test_every_operation_has_its_point(content: MemoryLogContent) -> None:
    seen: list[str] = []

    async def note(name: str) -> None:
        seen.append(name)

    log = MemoryLog(content, lambda: NOON, note)
    await log.set_up([TOPIC])
    await log.check([TOPIC])
    reader = await log.reader({AT: 0})
    await log.append(AT, [entry(1)])
    await reader.wait(1)
    await reader.take(AT, 1)
    await log.ends([AT])
    await log.report("points", {AT: 1})
    assert [name.removeprefix("log.") for name in seen] == (
        ["set_up", "check", "reader", "append", "append.durable", "wait", "take", "ends", "report"]
    )
    assert content.reports == {("points", AT): 1}


async def test_the_append_time_does_not_go_back_with_the_clock(content: MemoryLogContent) -> None:
    for moment in (NOON, NOON - timedelta(hours=1), NOON + timedelta(hours=1)):
        await MemoryLog(content, lambda moment=moment: moment).append(AT, [entry(moment)])  # type: ignore[misc]
    times = [record.appended_at for record in content.records[AT]]
    assert times == [NOON, NOON, NOON + timedelta(hours=1)]


async def test_a_lost_start_and_a_lost_tail_are_missing(content: MemoryLogContent) -> None:
    log = MemoryLog(content, lambda: NOON)
    await log.append(AT, [entry(nth) for nth in range(5)])
    readers = [await log.reader({AT: start}) for start in (0, 2, 5)]
    content.trim(AT, 1)
    content.cut(AT, 4)
    assert await log.ends([AT]) == {AT: 4}
    assert await log.starts([AT]) == {AT: 1}
    for reader in (readers[0], readers[2]):
        assert await reader.wait(1)
        with pytest.raises(OffsetMissing):
            await reader.take(AT, 10)
    assert values(await readers[1].take(AT, 10)) == ["2", "3"]


async def test_a_closed_reader_wakes_and_says_so(content: MemoryLogContent) -> None:
    reader = await MemoryLog(content, lambda: NOON).reader({AT: 0})
    waiting = asyncio.create_task(reader.wait(10))
    await asyncio.wait({waiting}, timeout=0.01)
    await reader.close()
    with pytest.raises(LogUnavailable):
        await waiting
    assert not content.arrivals
