"""The test servers themselves: what everybody else's tests stand on."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from shared.embedded_postgres import THROWAWAY, EmbeddedPostgres, EmbeddedPostgresError

pytestmark = pytest.mark.server


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not tmp_path: every pytest session closes the directory above those to all but its owner, and Postgres, when
    started by root, is another user."""
    with tempfile.TemporaryDirectory(prefix="regulars-test-") as name:
        yield Path(name)


async def test_a_test_database_is_fresh_and_is_the_tests_alone(database_url: str, postgres_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("create table mine (id int)")
        assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 1
        assert await connection.fetchval("show server_encoding") == "UTF8"
    finally:
        await connection.close()
    assert database_url != postgres_url


async def test_an_embedded_server_is_found_again_stopped_and_recovered(directory: Path) -> None:
    first = EmbeddedPostgres(directory / "var" / "postgres", THROWAWAY)
    url = first.start()
    second = EmbeddedPostgres(directory / "var" / "postgres", THROWAWAY)
    try:
        assert second.start() == url
        connection = await asyncpg.connect(url)
        await connection.execute("create table kept as select 7 as seven")
        await connection.close()
        second.stop(immediate=True)
        assert not first.running()
        first.start()
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("select seven from kept") == 7
        await connection.close()
    finally:
        first.stop()
    assert not first.running()


def test_an_embedded_server_that_cannot_start_says_why(directory: Path) -> None:
    server = EmbeddedPostgres(directory / "postgres", {**THROWAWAY, "shared_buffers": "none"})
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        server.start()


@pytest.mark.kafka
def test_the_broker_listens(kafka_bootstrap: str) -> None:
    host, port = kafka_bootstrap.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as connection:
        assert connection.getpeername()[1] == int(port)
