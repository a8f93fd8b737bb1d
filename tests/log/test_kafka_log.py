"""What only Kafka must prove: unsafe topics are refused, a wedged producer is replaced, a dead broker loses nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import MessageSizeTooLargeError, OutOfOrderSequenceNumber

from shared.log.kafka import KafkaLog
from shared.log.kafka_topics import configs, wrong_settings
from shared.log.lanes import Lanes
from shared.log.port import AppendFailed, At, Entry, EntryRefused, Topic, TopicUnsafe
from shared.testing.kafka_rungs import KafkaRung
from shared.testing.native_kafka import NativeKafka
from tests.log.reading import DEADLINE_SECONDS, entry, new_topic, read, values

pytestmark = pytest.mark.kafka
Topics = tuple[Topic, Topic, Topic]

DAY = 24 * 60 * 60 * 1000
UNSAFE = [
    ("cleanup.policy", "compact", "cleanup.policy is compact and must be delete"),
    ("retention.ms", str(365 * DAY), "retention.ms .* must be -1"),
    ("retention.bytes", "1000000000", "retention.bytes .* must be -1"),
    ("message.timestamp.type", "CreateTime", "must be LogAppendTime"),
    ("max.message.bytes", "1048588", "max.message.bytes is 1048588 and must be 1200000 or more"),
    ("unclean.leader.election.enable", "true", "unclean.leader.election.enable is true and must be false"),
]


@pytest.fixture
async def admin(kafka_bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    yield admin
    await admin.close()


@pytest.fixture
async def log(kafka_bootstrap: str) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(kafka_bootstrap)
    yield log
    await log.close()


async def make(admin: AIOKafkaAdminClient, log: KafkaLog, topic: Topic, **changed: str) -> None:
    """Create a topic as an operator might have, and wait until it is there."""
    settings = {**configs(topic, 1), **{name.replace("_", "."): value for name, value in changed.items()}}
    await admin.create_topics([NewTopic(topic.name, topic.partitions, 1, topic_configs=settings)])
    await log.set_up([topic])


@pytest.mark.parametrize(("name", "value", "message"), UNSAFE, ids=[name for name, _, _ in UNSAFE])
async def test_a_stream_that_could_lose_or_reorder_is_refused(
    admin: AIOKafkaAdminClient, log: KafkaLog, name: str, value: str, message: str
) -> None:
    stream = new_topic()
    await make(admin, log, stream, **{name.replace(".", "_"): value})
    with pytest.raises(TopicUnsafe, match=message):
        await log.check([stream])


async def test_every_fault_of_every_topic_is_named_at_once(
    admin: AIOKafkaAdminClient, log: KafkaLog, topics: Topics
) -> None:
    stream, inbox, keys = topics
    await make(admin, log, Topic(stream.name, partitions=3), message_timestamp_type="CreateTime")
    await make(admin, log, inbox, retention_ms=str(29 * DAY))
    with pytest.raises(TopicUnsafe) as refused:
        await log.check(topics)
    told = str(refused.value)
    assert f"{stream.name}: it has 3 partitions and must have 2" in told
    assert f"{stream.name}: message.timestamp.type is CreateTime" in told
    assert f"{inbox.name}: retention.ms is {29 * DAY} and must be {30 * DAY}" in told
    assert f"{keys.name} is missing" in told


async def test_a_letterbox_may_keep_longer_than_stated(
    admin: AIOKafkaAdminClient, log: KafkaLog, topics: Topics
) -> None:
    await make(admin, log, topics[1], retention_ms=str(60 * DAY))
    await log.check([topics[1]])


async def test_three_replicas_need_two_in_sync() -> None:
    """One broker cannot hold three replicas; the rule itself is asked."""
    stream = new_topic()
    has = {**configs(stream, 3), "min.insync.replicas": "1"}
    assert wrong_settings(stream, has, 3) == ["min.insync.replicas is 1 and must be 2 or more"]
    assert wrong_settings(stream, configs(stream, 3), 3) == []
    assert wrong_settings(stream, has, 1) == []


async def test_the_wedge_is_real(admin: AIOKafkaAdminClient, log: KafkaLog, kafka_bootstrap: str) -> None:
    """A bare idempotent producer never recovers from one refused batch: why ours is thrown away."""
    stream = new_topic()
    await make(admin, log, stream, max_message_bytes="10000")
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_bootstrap, acks="all", enable_idempotence=True, max_batch_size=900_000
    )
    await producer.start()
    try:
        await producer.send_and_wait(stream.name, b"small", partition=0)
        batch = producer.create_batch()
        batch.append(timestamp=None, key=b"k", value=b"x" * 50_000)
        with pytest.raises(MessageSizeTooLargeError):
            await (await producer.send_batch(batch, stream.name, partition=0))
        with pytest.raises(OutOfOrderSequenceNumber):
            await producer.send_and_wait(stream.name, b"small", partition=0)
    finally:
        await producer.stop()


async def test_after_a_refused_batch_later_appends_land_in_order(
    admin: AIOKafkaAdminClient, log: KafkaLog, kafka_bootstrap: str
) -> None:
    stream = new_topic()
    await make(admin, log, stream, max_message_bytes="10000")
    at, other = At(stream.name, 0), At(stream.name, 1)
    for nth in range(3):
        assert await log.append(at, [entry(nth)]) == nth
        with pytest.raises(EntryRefused, match=r"max\.message\.bytes"):
            await log.append(at, [Entry(b"k", b"x" * 50_000)])
        assert await log.append(other, [entry(nth)]) == nth
    assert values(await read(log, at, 3)) == values(await read(log, other, 3)) == ["0", "1", "2"]


async def test_a_lost_sequence_wedges_one_append_and_no_more(log: KafkaLog) -> None:
    """The gap that an expired batch leaves, made by hand: one AppendFailed, then a new producer."""
    stream = new_topic()
    await log.set_up([stream])
    at = At(stream.name, 0)
    await log.append(at, [entry("a")])
    wedged = log._appender._producer
    assert wedged is not None
    wedged._txn_manager.increment_sequence_number(TopicPartition(*at), 5)
    with pytest.raises(AppendFailed):
        await log.append(at, [entry("b")])
    assert await log.append(at, [entry("b"), entry("c")]) == 1
    assert log._appender._producer is not wedged
    assert values(await read(log, at, 3)) == ["a", "b", "c"]


async def test_concurrent_appends_to_a_partition_land_in_the_order_they_were_made(log: KafkaLog) -> None:
    stream = new_topic()
    await log.set_up([stream])
    at = At(stream.name, 0)
    offsets = await asyncio.gather(*(log.append(at, [entry(nth)] * 2) for nth in range(50)))
    assert offsets == [2 * nth for nth in range(50)]


async def test_an_unknown_topic_is_named(kafka_bootstrap: str, log: KafkaLog) -> None:
    impatient = KafkaLog(kafka_bootstrap, append_seconds=1)
    try:
        with pytest.raises((AppendFailed, TopicUnsafe)):
            await impatient.append(At(new_topic().name, 0), [entry(1)])
    finally:
        await impatient.close()


async def test_a_group_without_members_shows_its_offsets(admin: AIOKafkaAdminClient, log: KafkaLog) -> None:
    stream = new_topic()
    await log.set_up([stream])
    at, other, group = At(stream.name, 0), At(stream.name, 1), stream.name
    await log.append(at, [entry(nth) for nth in range(5)])
    await log.report(group, {at: 3})
    await log.report(group, {at: 4, other: 0})
    offsets = await admin.list_consumer_group_offsets(group)
    assert {At(*partition): found.offset for partition, found in offsets.items()} == {at: 4, other: 0}


@pytest.fixture
def own_broker(kafka_rung: KafkaRung) -> Iterator[NativeKafka]:
    """A broker that a test may kill; the session's own is everybody's."""
    if kafka_rung.native is None:
        pytest.skip(f"a broker to kill: {kafka_rung.name} is not ours")
    broker = NativeKafka()
    broker.start()
    yield broker
    broker.close()


async def test_a_killed_broker_loses_nothing_and_lanes_carry_on(own_broker: NativeKafka) -> None:
    """Callers append through the crash; what was acknowledged is there once more than never, and in order."""
    stream = Topic("test.events", partitions=1)
    at = At(stream.name, 0)
    log = KafkaLog(own_broker.bootstrap, append_seconds=2)
    lanes = Lanes(log, retry_seconds=60)
    loop = asyncio.get_running_loop()
    try:
        await log.set_up([stream])
        acknowledged: list[int] = []

        async def call() -> None:
            for nth in range(400):
                await lanes.append(at, entry(nth))
                acknowledged.append(nth)

        calling = asyncio.create_task(call())
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(acknowledged) < 50:
                await asyncio.wait({calling}, timeout=0.01)
        await loop.run_in_executor(None, own_broker.kill)
        with pytest.raises(AppendFailed):
            await log.append(at, [entry("impatient")])
        await loop.run_in_executor(None, own_broker.start)
        await asyncio.wait_for(calling, 90)
        end = (await log.ends([at]))[at]
        found = [int(value) for value in values(await read(log, at, end)) if value != "impatient"]
        assert sorted(set(found)) == acknowledged == list(range(400))
        first_seen = sorted(set(found), key=found.index)
        assert first_seen == list(range(400))
    finally:
        await lanes.close()
        await log.close()
