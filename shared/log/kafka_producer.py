"""Appending to Kafka: one produced batch per append, one in flight per partition, a new producer after any failure.

aiokafka's idempotent producer does not recover from a batch that failed: the sequence it used is lost, and the broker
refuses everything after it, or, worse, takes what comes after a lost first batch. So the first failure of any kind
condemns the producer: it is torn down before anything else is sent, and callers append again what was not
acknowledged. That may repeat a suffix, which receivers drop; it never loses, reorders or leaves a gap.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    ProducerClosed,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)

from shared.log.port import AppendFailed, At, Entry, EntryRefused, LogUnavailable, TopicUnsafe

BATCH_ENCODED_BYTES_MAX: Final = 1_200_000
"""An append's entries (900,000 bytes) plus at most 25 bytes for each of 10,000 and the batch's header."""
TEAR_DOWN_SECONDS: Final = 5.0
REFUSALS: Final = (MessageSizeTooLargeError, RecordListTooLargeError)


class KafkaAppender:
    """Owns the one producer of a `KafkaLog`, and replaces it."""

    def __init__(self, bootstrap: str, append_seconds: float, request_seconds: float) -> None:
        self._bootstrap = bootstrap
        self._append_seconds = append_seconds
        self._request_seconds = request_seconds
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._turns: dict[At, asyncio.Lock] = {}
        self._in_flight: set[asyncio.Task[int]] = set()
        self._closed = False

    async def append(self, at: At, entries: Sequence[Entry]) -> int:
        """The base offset of the batch once all in-sync replicas have it.

        A cancelled caller does not stop what is in flight: it is delivered, or its failure condemns the producer.
        """
        task = asyncio.create_task(self._append_in_turn(at, entries))
        self._in_flight.add(task)
        task.add_done_callback(self._landed)
        return await asyncio.shield(task)

    async def close(self) -> None:
        self._closed = True
        for task in list(self._in_flight):
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        if self._producer is not None:
            await self._condemn(self._producer)

    def _landed(self, task: "asyncio.Task[int]") -> None:
        self._in_flight.discard(task)
        if not task.cancelled():
            task.exception()

    async def _append_in_turn(self, at: At, entries: Sequence[Entry]) -> int:
        async with self._turns.setdefault(at, asyncio.Lock()):
            producer = await self._usable(at)
            try:
                async with asyncio.timeout(self._append_seconds):
                    offset = await self._produce(producer, at, entries)
            except (KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
                await self._condemn(producer)
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise _meaning(at, error) from error
        if offset < 0:
            # The broker knows the batch's sequence but no longer where it put it.
            raise AppendFailed(f"{at}: appended at an unknown offset")
        return offset

    async def _produce(self, producer: AIOKafkaProducer, at: At, entries: Sequence[Entry]) -> int:
        batch = producer.create_batch()
        for key, value in entries:
            if batch.append(timestamp=None, key=key, value=value) is None:
                raise EntryRefused(f"{at}: more than {BATCH_ENCODED_BYTES_MAX} bytes as encoded for Kafka")
        batch.close()
        acknowledged = await producer.send_batch(batch, at.topic, partition=at.partition)
        return int((await acknowledged).offset)

    async def _usable(self, at: At) -> AIOKafkaProducer:
        async with self._starting:
            if self._closed:
                raise LogUnavailable("this log is closed")
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    enable_idempotence=True,
                    linger_ms=0,
                    max_batch_size=BATCH_ENCODED_BYTES_MAX,
                    request_timeout_ms=int(self._request_seconds * 1000),
                    metadata_max_age_ms=30_000,
                )
                try:
                    async with asyncio.timeout(self._append_seconds):
                        await producer.start()
                except (KafkaError, OSError, TimeoutError, asyncio.CancelledError) as error:
                    await _tear_down(producer)
                    if isinstance(error, asyncio.CancelledError):
                        raise
                    raise AppendFailed(f"{at}: Kafka at {self._bootstrap}: {error!r}") from error
                self._producer = producer
            return self._producer

    async def _condemn(self, producer: AIOKafkaProducer) -> None:
        """Tear a producer down before a new one may start; what others have in flight on it fails too."""
        async with self._starting:
            if self._producer is producer:
                self._producer = None
                await _tear_down(producer)


async def _tear_down(producer: AIOKafkaProducer) -> None:
    """Stop at once. `producer.stop()` alone first waits for delivery, for ever when there is no leader.

    The sender is cancelled first, so that nothing is sent again; then what waits is failed and the sockets are
    closed. Nothing public does this in aiokafka 0.14.
    """
    sender = producer._sender.sender_task
    if sender is not None:
        sender.cancel()
    producer._message_accumulator.fail_all(ProducerClosed())
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(TEAR_DOWN_SECONDS):
            await producer.client.close()
    if sender is not None:
        await asyncio.wait({sender}, timeout=TEAR_DOWN_SECONDS)
    if sender is None or sender.done():
        with contextlib.suppress(KafkaError, OSError):
            await producer.stop()


def _meaning(at: At, error: Exception) -> Exception:
    if isinstance(error, REFUSALS):
        return EntryRefused(f"{at}: Kafka refuses the batch: {error!r}; is the topic's max.message.bytes too small?")
    if isinstance(error, UnknownTopicOrPartitionError):
        return TopicUnsafe(f"{at.topic} is missing, or has no partition {at.partition}: run set-up")
    return AppendFailed(f"{at}: {error!r}")
