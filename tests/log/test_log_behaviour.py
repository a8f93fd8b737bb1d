"""What every log does, whatever it is made of. A log that passes may carry the stream."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shared.log.port import (
    BATCH_BYTES_MAX,
    BATCH_ENTRIES_MAX,
    At,
    Entry,
    EntryRefused,
    Log,
    OffsetMissing,
    Topic,
    TopicUnsafe,
)
from tests.log.reading import NewLog, assert_readers_skip_nothing, entry, new_topic, read, take_until_something, values

Topics = tuple[Topic, Topic, Topic]


@pytest.fixture
async def stream(log: Log, topics: Topics) -> At:
    await log.set_up(topics)
    return At(topics[0].name, 1)


async def test_appends_land_in_order_at_dense_offsets(log: Log, stream: At) -> None:
    assert await log.append(stream, [entry("a")]) == 0
    assert await log.append(stream, [entry("b"), entry("c"), entry("d")]) == 1
    assert await log.append(stream, [entry("e")]) == 4
    records = await read(log, stream, 5)
    assert values(records) == ["a", "b", "c", "d", "e"]
    assert [record.offset for record in records] == [0, 1, 2, 3, 4]
    assert {record.at for record in records} == {stream}


async def test_bytes_come_back_as_they_were(log: Log, stream: At) -> None:
    odd = [Entry(b"", b""), Entry(bytes(range(256)), b"\x00\xff" * 1000), Entry("客".encode(), "积分".encode())]
    await log.append(stream, odd)
    assert [Entry(record.key, record.value) for record in await read(log, stream, 3)] == odd


async def test_partitions_have_orders_and_offsets_of_their_own(log: Log, stream: At) -> None:
    other = At(stream.topic, 0)
    assert [await log.append(at, [entry(1)]) for at in (stream, other, stream)] == [0, 0, 1]
    assert await log.ends([stream, other]) == {stream: 2, other: 1}
    assert await log.starts([stream, other]) == {stream: 0, other: 0}


async def test_a_reader_resumes_from_any_offset(log: Log, stream: At) -> None:
    await log.append(stream, [entry(nth) for nth in range(10)])
    for start in (0, 1, 5, 9):
        assert values(await read(log, stream, 10 - start, start)) == [str(nth) for nth in range(start, 10)]


async def test_a_reader_takes_no_more_than_it_asked_for_and_goes_on_from_there(log: Log, stream: At) -> None:
    await log.append(stream, [entry(nth) for nth in range(10)])
    reader = await log.reader({stream: 0})
    try:
        seen: list[list[str]] = []
        while sum(map(len, seen)) < 10:
            assert await reader.wait(10)
            seen.append(values(await reader.take(stream, 4)))
    finally:
        await reader.close()
    assert max(map(len, seen)) <= 4
    assert [value for some in seen for value in some] == [str(nth) for nth in range(10)]


async def test_a_reader_of_several_partitions_takes_each_at_its_own_pace(log: Log, stream: At) -> None:
    other = At(stream.topic, 0)
    await log.append(stream, [entry("s0"), entry("s1")])
    await log.append(other, [entry("o0"), entry("o1")])
    reader = await log.reader({stream: 1, other: 0})
    try:
        seen: dict[At, list[str]] = {stream: [], other: []}
        while len(seen[stream]) < 1 or len(seen[other]) < 2:
            assert await reader.wait(10)
            for at, found in seen.items():
                found += values(await reader.take(at, 1))
        assert not await reader.wait(0.05)
    finally:
        await reader.close()
    assert seen == {stream: ["s1"], other: ["o0", "o1"]}


async def test_concurrent_writers_are_never_skipped_by_a_reader(new_log: NewLog) -> None:
    await assert_readers_skip_nothing([new_log(), new_log(), new_log()], new_topic())


async def test_a_batch_is_appended_whole_or_not_at_all(log: Log, stream: At) -> None:
    with pytest.raises(EntryRefused):
        await log.append(stream, [entry("good"), Entry(b"k", None)])
    with pytest.raises(EntryRefused):
        await log.append(stream, [entry("good"), Entry(b"k", b"x" * BATCH_BYTES_MAX)])
    assert await log.ends([stream]) == {stream: 0}
    assert await log.append(stream, [entry("after"), entry("that")]) == 0
    assert values(await read(log, stream, 2)) == ["after", "that"]


async def test_the_largest_batches_are_taken_and_larger_ones_refused(log: Log, stream: At) -> None:
    await log.append(stream, [Entry(b"k" * 20, b"x" * (BATCH_BYTES_MAX - 20))])
    small = BATCH_BYTES_MAX // BATCH_ENTRIES_MAX
    await log.append(stream, [Entry(b"k" * (small - 1), b"x")] * BATCH_ENTRIES_MAX)
    assert await log.ends([stream]) == {stream: 1 + BATCH_ENTRIES_MAX}
    for refused in (
        [],
        [Entry(b"k" * 20, b"x" * (BATCH_BYTES_MAX - 19))],
        [Entry(b"k", b"")] * (BATCH_ENTRIES_MAX + 1),
        [Entry(b"k", None)],
    ):
        with pytest.raises(EntryRefused):
            await log.append(stream, refused)


async def test_a_tombstone_is_allowed_in_a_compacted_topic(log: Log, topics: Topics, stream: At) -> None:
    keys = At(topics[2].name, 0)
    await log.append(keys, [entry("wrapped", b"li"), entry("wrapped", b"wang")])
    assert await log.append(keys, [Entry(b"li", None)]) == 2
    latest = {record.key: record.value for record in await read(log, keys, 2, 1)}
    assert latest == {b"wang": b"wrapped", b"li": None}


async def test_the_append_time_is_the_logs_and_never_goes_back(log: Log, stream: At) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    for nth in range(5):
        await log.append(stream, [entry(nth), entry(nth)])
    times = [record.appended_at for record in await read(log, stream, 10)]
    assert times == sorted(times)
    assert before < times[0]
    assert times[-1] < datetime.now(UTC) + timedelta(seconds=5)


async def test_a_position_beyond_the_end_is_missing(log: Log, stream: At) -> None:
    await log.append(stream, [entry(1)])
    reader = await log.reader({stream: 2})
    try:
        with pytest.raises(OffsetMissing):
            await take_until_something(reader, stream)
    finally:
        await reader.close()


async def test_a_position_at_the_end_waits_for_the_next_record(log: Log, stream: At) -> None:
    await log.append(stream, [entry(1)])
    reader = await log.reader({stream: 1})
    try:
        assert not await reader.wait(0.1)
        assert await reader.take(stream, 10) == []
        await log.append(stream, [entry(2)])
        assert await reader.wait(10)
        assert values(await reader.take(stream, 10)) == ["2"]
    finally:
        await reader.close()


async def test_a_waiting_reader_in_another_process_wakes_at_once(new_log: NewLog, topics: Topics) -> None:
    here, there = new_log(), new_log()
    await here.set_up(topics)
    at = At(topics[0].name, 0)
    reader = await there.reader({at: 0})
    loop = asyncio.get_running_loop()
    delays = []
    try:
        for nth in range(5):
            waiting = asyncio.create_task(reader.wait(10))
            await asyncio.wait({waiting}, timeout=0.02)
            started = loop.time()
            await here.append(at, [entry(nth)])
            assert await waiting
            delays.append(loop.time() - started)
            assert values(await reader.take(at, 10)) == [str(nth)]
    finally:
        await reader.close()
    assert sorted(delays)[2] < 0.25, delays


async def test_waiting_ends_in_time_when_nothing_comes(log: Log, stream: At) -> None:
    reader = await log.reader({stream: 0})
    loop = asyncio.get_running_loop()
    try:
        started = loop.time()
        assert not await reader.wait(0.2)
        assert 0.15 < loop.time() - started < 2
    finally:
        await reader.close()


async def test_set_up_twice_and_at_once_changes_nothing(new_log: NewLog, topics: Topics) -> None:
    logs = [new_log(), new_log()]
    await asyncio.gather(*(log.set_up(topics) for log in logs))
    at = At(topics[0].name, 0)
    await logs[0].append(at, [entry(1)])
    changed = [replace(topics[0], partitions=5)]
    await logs[1].set_up(changed)
    await logs[1].check(topics)
    assert await logs[1].ends([at]) == {at: 1}


async def test_check_accepts_what_set_up_made_and_names_what_is_wrong(log: Log, topics: Topics) -> None:
    events, inbox, keys = topics
    with pytest.raises(TopicUnsafe, match=events.name):
        await log.check(topics)
    await log.set_up([replace(events, retention_days=7), replace(inbox, retention_days=3), replace(keys, partitions=3)])
    for wrong in topics:
        with pytest.raises(TopicUnsafe, match=wrong.name):
            await log.check([wrong])
    with pytest.raises(TopicUnsafe):
        await log.check([replace(events, retention_days=7, compacted=True)])
    await log.check([replace(inbox, retention_days=2)])


async def test_reading_an_unknown_topic_is_refused(log: Log, topics: Topics) -> None:
    await log.set_up(topics)
    with pytest.raises(TopicUnsafe):
        await log.reader({At(topics[0].name + ".not", 0): 0})
    with pytest.raises(TopicUnsafe):
        await log.reader({At(topics[0].name, 7): 0})


async def test_reporting_a_position_twice_is_fine(log: Log, stream: At) -> None:
    await log.append(stream, [entry(nth) for nth in range(3)])
    await log.report("points", {stream: 1})
    await log.report("points", {stream: 3, At(stream.topic, 0): 0})
    assert values(await read(log, stream, 3)) == ["0", "1", "2"]


async def test_a_cancelled_append_leaves_the_log_whole(log: Log, stream: At) -> None:
    """Its caller does not know whether it happened, but what follows lands, in order, and nothing is half there."""
    for nth in range(5):
        appending = asyncio.create_task(log.append(stream, [entry(f"c{nth}")] * 3))
        await asyncio.wait({appending}, timeout=0)
        appending.cancel()
        await asyncio.gather(appending, return_exceptions=True)
        await log.append(stream, [entry(f"d{nth}")])
    seen = values(await read(log, stream, (await log.ends([stream]))[stream]))
    assert [value for value in seen if value.startswith("d")] == [f"d{nth}" for nth in range(5)]
    assert all(seen.count(f"c{nth}") in (0, 3) for nth in range(5))
