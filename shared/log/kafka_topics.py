"""Kafka's topics: creating them with the settings that keep them safe, and refusing those that are not.

The admin client does not raise what the broker answers: each answer's error code is read here.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import NoError, TopicAlreadyExistsError, for_code

from shared.log.port import At, LogUnavailable, Topic, TopicUnsafe

REPLICAS: Final = 3
IN_SYNC_REPLICAS_MIN: Final = 2
MESSAGE_BYTES: Final = 2_097_152
MESSAGE_BYTES_MIN: Final = 1_200_000
"""`max.message.bytes` that holds the largest append as Kafka encodes it."""
DAY_MILLISECONDS: Final = 24 * 60 * 60 * 1000
VISIBLE_SECONDS_MAX: Final = 30.0
PAUSE_SECONDS: Final = 0.05


def configs(topic: Topic, replicas: int) -> dict[str, str]:
    """The settings that a topic of ours is created with."""
    kept = -1 if topic.retention_days is None else topic.retention_days * DAY_MILLISECONDS
    # What must go, goes about a day late: a segment is closed, and a tombstone's key is cleaned, within a day.
    closing = {"segment.ms": str(DAY_MILLISECONDS)} if topic.retention_days else {}
    cleaning = {"max.compaction.lag.ms": str(DAY_MILLISECONDS)} if topic.compacted else {}
    return {
        **closing,
        **cleaning,
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "retention.ms": str(kept),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MESSAGE_BYTES),
        "min.insync.replicas": str(IN_SYNC_REPLICAS_MIN if replicas >= REPLICAS else 1),
        "unclean.leader.election.enable": "false",
    }


async def create(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> None:
    """Create the topics that are missing and wait until each partition has a leader; raises LogUnavailable."""
    brokers = len((await admin.describe_cluster())["brokers"])
    replicas = min(REPLICAS, brokers)
    new = [NewTopic(topic.name, topic.partitions, replicas, topic_configs=configs(topic, replicas)) for topic in topics]
    answer = await admin.create_topics(new)
    refused = {
        name: f"{for_code(code).__name__} {message or ''}".strip()
        for name, code, message in answer.topic_errors
        if for_code(code) not in (NoError, TopicAlreadyExistsError)
    }
    if refused:
        raise LogUnavailable(f"Kafka did not create {refused}")
    loop = asyncio.get_running_loop()
    deadline = loop.time() + VISIBLE_SECONDS_MAX
    while not _led(await admin.describe_topics([topic.name for topic in topics]), topics):
        if loop.time() > deadline:
            raise LogUnavailable(f"after {VISIBLE_SECONDS_MAX} s the new topics have no leaders")
        await asyncio.sleep(PAUSE_SECONDS)


async def problems(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> list[str]:
    """What is wrong with each topic and what it must be; empty when all are safe."""
    described = {one["topic"]: one for one in await admin.describe_topics([topic.name for topic in topics])}
    there = [topic for topic in topics if for_code(described[topic.name]["error_code"]) is NoError]
    settings = await _settings(admin, [topic.name for topic in there])
    wrong = [f"{topic.name} is missing: run set-up" for topic in topics if topic not in there]
    for topic in there:
        partitions = described[topic.name]["partitions"]
        if len(partitions) != topic.partitions:
            wrong.append(f"{topic.name}: it has {len(partitions)} partitions and must have {topic.partitions}")
        replicas = min((len(partition["replicas"]) for partition in partitions), default=0)
        wrong += [f"{topic.name}: {text}" for text in wrong_settings(topic, settings[topic.name], replicas)]
    return wrong


async def missing_partitions(admin: AIOKafkaAdminClient, at: Collection[At]) -> list[At]:
    """Those of these partitions that do not exist."""
    described = await admin.describe_topics(sorted({one.topic for one in at}))
    there = {At(one["topic"], partition["partition"]) for one in described for partition in one["partitions"]}
    return sorted(set(at) - there)


async def is_compacted(admin: AIOKafkaAdminClient, topic: str) -> bool:
    return "compact" in (await _settings(admin, [topic]))[topic]["cleanup.policy"]


def unsafe(wrong: Sequence[str]) -> TopicUnsafe:
    return TopicUnsafe("; ".join(wrong))


def wrong_settings(topic: Topic, has: Mapping[str, str], replicas: int) -> list[str]:
    """What of a topic's settings could lose, reorder or refuse a record, and what it must be."""
    must = configs(topic, replicas)
    wrong = []
    for name in ("cleanup.policy", "message.timestamp.type", "unclean.leader.election.enable"):
        if has[name] != must[name]:
            wrong.append(f"{name} is {has[name]} and must be {must[name]}")
    for name in ("retention.ms", "retention.bytes"):
        if not _keeps(int(has[name]), int(must[name])):
            wrong.append(f"{name} is {has[name]} and must be {must[name]} (-1 is for ever)")
    if int(has["max.message.bytes"]) < MESSAGE_BYTES_MIN:
        wrong.append(f"max.message.bytes is {has['max.message.bytes']} and must be {MESSAGE_BYTES_MIN} or more")
    if replicas >= REPLICAS and int(has["min.insync.replicas"]) < IN_SYNC_REPLICAS_MIN:
        wrong.append(f"min.insync.replicas is {has['min.insync.replicas']} and must be {IN_SYNC_REPLICAS_MIN} or more")
    return wrong


def _keeps(has: int, must: int) -> bool:
    return has == -1 or (must != -1 and has >= must)


async def _settings(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(asked):
        for resource in answer.resources:
            code, message, _kind, name, entries = resource[:5]
            if for_code(code) is not NoError:
                raise LogUnavailable(f"Kafka does not describe {name}: {for_code(code).__name__} {message or ''}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _led(described: Sequence[Any], topics: Sequence[Topic]) -> bool:
    """Whether every topic is seen with as many led partitions as it has (any number, when it was there before)."""
    partitions = {one["topic"]: one["partitions"] for one in described}
    return all(
        partitions.get(topic.name) and all(partition["leader"] >= 0 for partition in partitions[topic.name])
        for topic in topics
    )
