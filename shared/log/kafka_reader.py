"""Reading from Kafka by partitions and offsets of our own: no group, no rebalance, no silent reset."""

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from shared.log.port import At, LogUnavailable, OffsetMissing, Record

PARTITION_BYTES_MAX: Final = 4 * 1024 * 1024
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class KafkaReader:
    """One consumer with `assign()`. What it has fetched and nobody took waits here, bounded by its fetch sizes."""

    def __init__(self, consumer: AIOKafkaConsumer, positions: Mapping[At, int]) -> None:
        self._consumer = consumer
        self._fetched: dict[At, deque[Record]] = {at: deque() for at in positions}
        self._missing: dict[At, str] = {}

    @classmethod
    async def open(cls, bootstrap: str, positions: Mapping[At, int]) -> "KafkaReader":
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=500,
            max_partition_fetch_bytes=PARTITION_BYTES_MAX,
            metadata_max_age_ms=30_000,
        )
        try:
            await consumer.start()
            partitions = [TopicPartition(*at) for at in positions]
            consumer.assign(partitions)
            for partition in partitions:
                consumer.seek(partition, positions[At(*partition)])
        except BaseException:
            await consumer.stop()
            raise
        return cls(consumer, positions)

    async def wait(self, timeout_seconds: float) -> bool:
        if self._missing or any(self._fetched.values()):
            return True
        await self._fetch(int(timeout_seconds * 1000))
        return bool(self._missing) or any(self._fetched.values())

    async def take(self, at: At, most: int) -> list[Record]:
        fetched = self._fetched[at]
        if len(fetched) < most and at not in self._missing:
            await self._fetch(0, at, most=most - len(fetched))
        if not fetched and at in self._missing:
            raise OffsetMissing(self._missing[at])
        return [fetched.popleft() for _ in range(min(most, len(fetched)))]

    async def close(self) -> None:
        await self._consumer.stop()

    async def _fetch(self, timeout_ms: int, *only: At, most: int | None = None) -> None:
        partitions = [TopicPartition(*at) for at in only]
        try:
            found = await self._consumer.getmany(*partitions, timeout_ms=timeout_ms, max_records=most)
        except OffsetOutOfRangeError as error:
            for partition, offset in error.args[0].items():
                self._missing[At(*partition)] = f"{At(*partition)}: position {offset} is outside of the topic"
            return
        except NoOffsetForPartitionError as error:
            raise OffsetMissing(f"no position: {error!r}") from error
        except ConsumerStoppedError as error:
            raise LogUnavailable("this reader is closed") from error
        except (KafkaError, OSError) as error:
            raise LogUnavailable(f"reading from Kafka: {error!r}") from error
        for partition, messages in found.items():
            at = At(*partition)
            self._fetched[at].extend(_record(at, message) for message in messages)


def _record(at: At, message: Any) -> Record:
    appended_at = EPOCH + timedelta(milliseconds=message.timestamp)
    return Record(at, message.offset, message.key or b"", message.value, appended_at)
