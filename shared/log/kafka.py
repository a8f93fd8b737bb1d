"""The log on Kafka: for more than one machine.

What is written here against the grain of a usual client has a reason in the measured facts of ADR 0003: one batch in
flight per partition, a producer thrown away at its first failure, readers that own their offsets and never reset.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.log import kafka_topics
from shared.log.kafka_producer import KafkaAppender
from shared.log.kafka_reader import KafkaReader
from shared.log.port import At, Entry, LogError, LogUnavailable, Topic, refuse_entries

REQUEST_SECONDS: Final = 10.0
APPEND_SECONDS: Final = 30.0

Query = Callable[[AIOKafkaConsumer, list[TopicPartition]], Coroutine[Any, Any, dict[TopicPartition, int]]]
"""One of the consumer's questions about offsets."""


class KafkaLog:
    """The port over a cluster. Connects when it is first used; one event loop uses it."""

    def __init__(self, bootstrap: str, *, append_seconds: float = APPEND_SECONDS) -> None:
        self._bootstrap = bootstrap
        self._appender = KafkaAppender(bootstrap, append_seconds, REQUEST_SECONDS)
        self._compacted: dict[str, bool] = {}
        self._queries: AIOKafkaConsumer | None = None
        self._querying = asyncio.Lock()
        self._groups: dict[str, AIOKafkaConsumer] = {}
        self._reporting = asyncio.Lock()

    async def set_up(self, topics: Sequence[Topic]) -> None:
        """Create missing topics: 3 replicas of which 2 must have a record, or as many as there are brokers."""
        async with self._admin() as admin:
            await kafka_topics.create(admin, topics)

    async def check(self, topics: Sequence[Topic]) -> None:
        async with self._admin() as admin:
            wrong = await kafka_topics.problems(admin, topics)
        if wrong:
            raise kafka_topics.unsafe(wrong)

    async def append(self, at: At, entries: Sequence[Entry]) -> int:
        tombstones = any(entry.value is None for entry in entries) and await self._is_compacted(at.topic)
        refuse_entries(at, entries, tombstones=tombstones)
        return await self._appender.append(at, entries)

    async def reader(self, positions: Mapping[At, int]) -> KafkaReader:
        # An assigned partition that is not there would be silence for ever.
        async with self._admin() as admin:
            missing = await kafka_topics.missing_partitions(admin, positions)
        if missing:
            raise kafka_topics.unsafe([f"{at.topic} has no partition {at.partition}: run set-up" for at in missing])
        reader: KafkaReader = await self._reach(KafkaReader.open(self._bootstrap, positions))
        return reader

    async def ends(self, at: Sequence[At]) -> dict[At, int]:
        return await self._offsets(at, AIOKafkaConsumer.end_offsets)

    async def starts(self, at: Sequence[At]) -> dict[At, int]:
        return await self._offsets(at, AIOKafkaConsumer.beginning_offsets)

    async def _offsets(self, at: Sequence[At], asked: Query) -> dict[At, int]:
        partitions = {TopicPartition(*one): one for one in at}
        async with self._querying:
            if self._queries is None:
                queries = AIOKafkaConsumer(
                    bootstrap_servers=self._bootstrap,
                    enable_auto_commit=False,
                    request_timeout_ms=int(REQUEST_SECONDS * 1000),
                )
                await self._reach(_started(queries))
                self._queries = queries
            found = await self._reach(asked(self._queries, list(partitions)))
        return {partitions[partition]: offset for partition, offset in found.items()}

    async def report(self, group: str, positions: Mapping[At, int]) -> None:
        """Commit into a group without members: lag tools and KEDA see it."""
        offsets = {TopicPartition(*at): position for at, position in positions.items()}
        async with self._reporting:
            if group not in self._groups:
                consumer = AIOKafkaConsumer(
                    bootstrap_servers=self._bootstrap,
                    group_id=group,
                    enable_auto_commit=False,
                    request_timeout_ms=int(REQUEST_SECONDS * 1000),
                )
                await self._reach(_started(consumer))
                self._groups[group] = consumer
            consumer = self._groups[group]
            if not offsets.keys() <= consumer.assignment():
                assigned = [*(consumer.assignment() | offsets.keys())]
                consumer.assign(assigned)
                consumer.pause(*assigned)
            await self._reach(consumer.commit(offsets))

    async def close(self) -> None:
        await self._appender.close()
        for consumer in (self._queries, *self._groups.values()):
            if consumer is not None:
                await consumer.stop()
        self._queries = None
        self._groups.clear()

    async def _is_compacted(self, topic: str) -> bool:
        if topic not in self._compacted:
            async with self._admin() as admin:
                self._compacted[topic] = await kafka_topics.is_compacted(admin, topic)
        return self._compacted[topic]

    @contextlib.asynccontextmanager
    async def _admin(self) -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=int(REQUEST_SECONDS * 1000))
        try:
            await self._reach(admin.start())
            yield admin
        except KafkaError as error:
            raise LogUnavailable(f"Kafka at {self._bootstrap}: {error!r}") from error
        finally:
            await admin.close()

    async def _reach(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await a request of the client as LogUnavailable when it fails or takes too long."""
        try:
            async with asyncio.timeout(3 * REQUEST_SECONDS):
                return await work
        except LogError:
            raise
        except (KafkaError, OSError, TimeoutError) as error:
            raise LogUnavailable(f"Kafka at {self._bootstrap}: {error!r}") from error


async def _started(consumer: AIOKafkaConsumer) -> None:
    try:
        await consumer.start()
    except BaseException:
        await consumer.stop()
        raise
