"""The servers that tests run against: an embedded Postgres and a real Kafka, each started once, when first asked for.

REGULARS_TEST_POSTGRES_URL and REGULARS_TEST_KAFKA name running ones instead. Kafka climbs the ladder of
`shared.testing.kafka_rungs`; the terminal summary says which rung ran, and with REGULARS_REQUIRE=kafka the absence of
one is a failure.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from shared.embedded_postgres import THROWAWAY, EmbeddedPostgres
from shared.testing.kafka_rungs import KafkaNotRun, KafkaRung, climb

KAFKA_LINE = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres server's URL, as a superuser."""
    if given := os.environ.get("REGULARS_TEST_POSTGRES_URL"):
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="regulars-test-"))
    server = EmbeddedPostgres(directory / "postgres", THROWAWAY)
    try:
        yield server.start()
    finally:
        server.stop(immediate=True)
        shutil.rmtree(directory)


@asynccontextmanager
async def fresh_database(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a new, empty database, dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server = await asyncpg.connect(postgres_url)
    try:
        # The name is ours, letters and digits: DDL takes no parameters.
        await server.execute("create database " + name + " template template0 strategy file_copy")
        yield urlunsplit(urlsplit(postgres_url)._replace(path="/" + name))
        await server.execute("drop database " + name + " with (force)")
    finally:
        await server.close()


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a fresh, empty database of this test alone."""
    async with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture
async def other_database_url(postgres_url: str) -> AsyncIterator[str]:
    """A second one, for tests that carry something from one to the other."""
    async with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def kafka_rung(request: pytest.FixtureRequest) -> Iterator[KafkaRung]:
    """The highest rung of the ladder that this machine can stand on; skips the test, with a reason, on none."""
    try:
        rung = climb()
    except KafkaNotRun as reason:
        request.config.stash[KAFKA_LINE] = f"Kafka: NOT RUN ({reason})"
        if "kafka" in os.environ.get("REGULARS_REQUIRE", "").split(","):
            pytest.fail(f"Kafka: NOT RUN ({reason}), and REGULARS_REQUIRE asks for it", pytrace=False)
        pytest.skip(f"Kafka: NOT RUN ({reason})")
    request.config.stash[KAFKA_LINE] = f"Kafka: {rung.name}"
    try:
        yield rung
    finally:
        rung.stop()


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka_rung: KafkaRung) -> str:
    """`host:port` of a real Kafka broker."""
    return kafka_rung.bootstrap


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(config.stash.get(KAFKA_LINE, "Kafka: not asked for by the tests of this run"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a server, by a fixture or by a parameter that names one, so that `make check` leaves it out."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        asked = {*getattr(item, "fixturenames", ()), *(one for one in parameters if isinstance(one, str))}
        if asked & {"postgres_url", "kafka_rung", "postgres", "kafka"}:
            item.add_marker("server")
