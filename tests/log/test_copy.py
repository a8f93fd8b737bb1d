"""`regulars log copy`: a shop outgrows its embedded log and every offset stays true."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from shared.log.copy import Copied, CopyRefused, copy_log
from shared.log.kafka import KafkaLog
from shared.log.port import AppendFailed, At, Entry, Log, OffsetMissing, Topic
from shared.log.postgres import PostgresLog
from shared.testing.memory_log import MemoryLog, MemoryLogContent
from tests.log.reading import NewLog, entry, read, values

Topics = tuple[Topic, Topic, Topic]


@dataclass
class Shop:
    """A source with some history, and what was put there."""

    log: Log
    stream: Topic
    inbox: Topic
    keys: Topic

    @property
    def drained(self) -> dict[At, int]:
        return {At(self.inbox.name, 0): 2, At(self.inbox.name, 1): 0}

    @property
    def new_inboxes(self) -> list[Topic]:
        return [replace(self.inbox, name=self.inbox.name + ".2")]


@pytest.fixture
async def shop(database_url: str, topics: Topics) -> AsyncIterator[Shop]:
    stream, inbox, keys = topics
    log = PostgresLog(database_url)
    await log.set_up(topics)
    big = b"x" * 400_000
    for nth in range(30):
        await log.append(At(stream.name, nth % 2), [entry(nth), entry(f"{nth}+"), Entry(b"", b"")])
    await log.append(At(stream.name, 1), [Entry(b"big", big), Entry(b"big", big)])
    await log.append(At(stream.name, 1), [Entry(b"big", big)])
    await log.append(At(inbox.name, 0), [entry("decided"), entry("too")])
    await log.append(At(keys.name, 0), [entry("li-1", b"li"), entry("wang-1", b"wang"), entry("li-2", b"li2")])
    await log.append(At(keys.name, 0), [Entry(b"wang", None)])
    yield Shop(log, stream, inbox, keys)
    await log.close()


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka)])
def make_target(request: pytest.FixtureRequest) -> NewLog:
    if request.param == "kafka":
        bootstrap: str = request.getfixturevalue("kafka_bootstrap")
        return lambda: KafkaLog(bootstrap)
    url: str = request.getfixturevalue("other_database_url")
    return lambda: PostgresLog(url)


async def assert_carried(shop: Shop, target: Log) -> None:
    for partition in range(2):
        at = At(shop.stream.name, partition)
        end = (await shop.log.ends([at]))[at]
        assert await target.ends([at]) == {at: end}
        wanted, found = await read(shop.log, at, end), await read(target, at, end)
        assert [record[:4] for record in wanted] == [record[:4] for record in found]
    keys = await read(target, At(shop.keys.name, 0), 3)
    latest = {record.key: record.value for record in keys}
    assert latest == {b"li": b"li-1", b"li2": b"li-2", b"wang": None}


async def test_the_stream_keeps_partition_order_and_offsets_and_the_keys_their_content(
    shop: Shop, make_target: NewLog
) -> None:
    target = make_target()
    try:
        told: list[Copied] = []
        done = await copy_log(
            shop.log,
            target,
            inboxes=shop.drained,
            new_inboxes=shop.new_inboxes,
            stream=shop.stream,
            keys=shop.keys,
            progress=told.append,
        )
        await assert_carried(shop, target)
        assert told == done
        assert [copied.records for copied in done] == [45, 48, 2, 0]
        new = At(shop.new_inboxes[0].name, 0)
        assert await target.append(new, [entry("first of the new generation")]) == 0
        with pytest.raises(CopyRefused, match="in use"):
            await copy_log(
                shop.log,
                target,
                inboxes=shop.drained,
                new_inboxes=shop.new_inboxes,
                stream=shop.stream,
                keys=shop.keys,
            )
    finally:
        await target.close()


async def test_an_inbox_that_is_not_drained_is_refused(shop: Shop) -> None:
    content = MemoryLogContent()
    target = MemoryLog(content, lambda: datetime.now(UTC))
    behind = {**shop.drained, At(shop.inbox.name, 0): 1}
    with pytest.raises(CopyRefused, match="undecided"):
        await copy_log(shop.log, target, inboxes=behind, new_inboxes=[], stream=shop.stream, keys=shop.keys)
    assert not content.topics


async def test_a_target_with_other_records_is_refused(shop: Shop) -> None:
    target = MemoryLog(MemoryLogContent(), lambda: datetime.now(UTC))
    await target.set_up([shop.stream])
    at = At(shop.stream.name, 1)
    await target.append(at, [entry("of another shop")])
    with pytest.raises(CopyRefused, match="empty log"):
        await copy_log(shop.log, target, inboxes={}, new_inboxes=[], stream=shop.stream, keys=shop.keys)
    assert await target.ends([at]) == {at: 1}


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "lost"])
async def test_an_append_without_an_answer_is_repeated_only_when_it_did_not_land(shop: Shop, landed: bool) -> None:
    """Each second append fails, before or after it is durable; the copy is exact all the same."""
    calls = 0

    async def point(name: str) -> None:
        nonlocal calls
        if name == ("log.append.durable" if landed else "log.append"):
            calls += 1
            if calls % 2:
                raise AppendFailed("no answer")

    target = MemoryLog(MemoryLogContent(), lambda: datetime.now(UTC), point)
    await copy_log(shop.log, target, inboxes={}, new_inboxes=[], stream=shop.stream, keys=shop.keys)
    for partition in range(2):
        at = At(shop.stream.name, partition)
        end = (await shop.log.ends([at]))[at]
        assert values(await read(target, at, end)) == values(await read(shop.log, at, end))
        assert await target.ends([at]) == {at: end}
    assert calls > 3


async def test_a_copy_that_broke_off_goes_on_where_it_was(shop: Shop) -> None:
    """Broken off after each of its appends in turn, then started again."""
    breaks = 0
    while True:
        appends = 0

        async def point(name: str, stop_at: int = breaks) -> None:
            nonlocal appends
            if name == "log.append.durable":
                appends += 1
                if appends > stop_at:
                    raise ConnectionResetError

        content = MemoryLogContent()
        broken = MemoryLog(content, lambda: datetime.now(UTC), point)
        arguments = {"inboxes": shop.drained, "new_inboxes": [], "stream": shop.stream, "keys": shop.keys}
        try:
            await copy_log(shop.log, broken, **arguments)  # type: ignore[arg-type]
            break
        except ConnectionResetError:
            breaks += 1
        whole = MemoryLog(content, lambda: datetime.now(UTC))
        done = await copy_log(shop.log, whole, **arguments)  # type: ignore[arg-type]
        assert [copied.records for copied in done] == [45, 48, 2, 0]
        for partition in range(2):
            at = At(shop.stream.name, partition)
            assert await whole.ends([at]) == await shop.log.ends([at])
    assert breaks >= 4


async def test_a_source_that_lost_its_first_records_is_not_copied(topics: Topics) -> None:
    stream, _, keys = topics
    content = MemoryLogContent()
    source = MemoryLog(content, lambda: datetime.now(UTC))
    await source.set_up([stream, keys])
    await source.append(At(stream.name, 0), [entry(1), entry(2)])
    content.trim(At(stream.name, 0), 1)
    target = MemoryLog(MemoryLogContent(), lambda: datetime.now(UTC))
    with pytest.raises(OffsetMissing):
        await copy_log(source, target, inboxes={}, new_inboxes=[], stream=stream, keys=keys)
