"""One log of each kind, under one name; topics are new for each test, so that tests on one Kafka do not meet."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from shared.log.kafka import KafkaLog
from shared.log.port import Log, Topic
from shared.log.postgres import PostgresLog
from shared.testing.memory_log import MemoryLog, MemoryLogContent
from tests.log.reading import NewLog


@pytest.fixture(params=["postgres", pytest.param("kafka", marks=pytest.mark.kafka), "memory"])
def make_log(request: pytest.FixtureRequest) -> NewLog:
    match request.param:
        case "postgres":
            url: str = request.getfixturevalue("database_url")
            return lambda: PostgresLog(url)
        case "kafka":
            bootstrap: str = request.getfixturevalue("kafka_bootstrap")
            return lambda: KafkaLog(bootstrap)
        case _:
            content = MemoryLogContent()
            return lambda: MemoryLog(content, lambda: datetime.now(UTC))


@pytest.fixture
async def new_log(make_log: NewLog) -> AsyncIterator[NewLog]:
    opened: list[Log] = []

    def open_one() -> Log:
        opened.append(make_log())
        return opened[-1]

    yield open_one
    for log in opened:
        await log.close()


@pytest.fixture
def log(new_log: NewLog) -> Log:
    return new_log()


@pytest.fixture
def topics() -> tuple[Topic, Topic, Topic]:
    """A stream, a letterbox and a key topic."""
    name = f"test.{uuid.uuid4().hex[:12]}"
    return (
        Topic(f"{name}.events", partitions=2),
        Topic(f"{name}.inbox", partitions=2, retention_days=30),
        Topic(f"{name}.keys", partitions=2, compacted=True),
    )
