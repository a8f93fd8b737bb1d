"""A real Kafka for tests, by the first of these that the machine can give; never a mock.

1. REGULARS_TEST_KAFKA: the bootstrap of a broker that runs already
2. native: Java 17 or later and Maven, see `shared.testing.native_kafka`
3. testcontainers, when a Docker engine answers
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from shared.testing.native_kafka import KafkaNotRun, NativeKafka, kafka_version

CONTAINER_IMAGE: Final = "confluentinc/cp-kafka:8.1.0"
"""Carries Kafka 4.1."""
ENGINE_SECONDS: Final = 5.0

__all__ = ["KafkaNotRun", "KafkaRung", "climb"]


@dataclass(frozen=True)
class KafkaRung:
    """A running broker: what it is, where it listens (`host:port`), and how to stop it."""

    name: str
    bootstrap: str
    stop: Callable[[], None]
    native: NativeKafka | None = None
    """Given where the test may also kill and restart the broker."""


def climb() -> KafkaRung:
    """Start, or find, a broker; raises KafkaNotRun with all reasons."""
    if given := os.environ.get("REGULARS_TEST_KAFKA"):
        return KafkaRung(f"given {given}", given, lambda: None)
    try:
        return _native()
    except KafkaNotRun as native:
        try:
            return _container()
        except KafkaNotRun as container:
            raise KafkaNotRun(f"{native}; {container}") from None


def _native() -> KafkaRung:
    broker = NativeKafka()
    return KafkaRung(f"native {kafka_version()}", broker.start(), broker.close, broker)


def _container() -> KafkaRung:
    _ask_engine()
    try:
        from testcontainers.community.kafka import KafkaContainer
    except ImportError as error:
        raise KafkaNotRun(f"testcontainers is not installed: {error.name}") from None
    container = KafkaContainer(CONTAINER_IMAGE).with_kraft()
    container.start()
    return KafkaRung(f"container {CONTAINER_IMAGE}", container.get_bootstrap_server(), container.stop)


def _ask_engine() -> None:
    """Whether something listens where Docker does; its client would leave open sockets behind when nothing does."""
    engine = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    try:
        if engine.scheme == "unix":
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ENGINE_SECONDS)
                connection.connect(engine.path)
        else:
            socket.create_connection((engine.hostname or "", engine.port or 2375), ENGINE_SECONDS).close()
    except OSError:
        raise KafkaNotRun("no Docker engine answers") from None
