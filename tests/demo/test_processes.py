"""Processes that share nothing but a database and a log: services apart, a log carried elsewhere, a parked input."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import pytest

from regulars.cdnow import days
from regulars.client import Regulars
from regulars.replay import figures, found_tenant, key_works, publish_program, replay
from shared.log.port import At, Entry, inbox
from shared.log.postgres import PostgresLog
from tests.demo.running import ADMIN_KEY, command, serving, settings, up
from tests.demo.test_replay import assert_equal, assert_verified, counted, first_days, played, shown

CUSTOMERS_KEPT = 40
CONTACTS = ("events", "tenants", "credentials", "clock")
OPERATIONS_SECONDS_MAX = 60


class OneOrigin(httpx.AsyncBaseTransport):
    """What the ingress does: the first path segment says which service answers."""

    def __init__(self, contacts: str, points: str) -> None:
        self._contacts, self._points = httpx.URL(contacts), httpx.URL(points)
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        segment = request.url.path.split("/")[2]
        origin = self._contacts if segment in CONTACTS else self._points
        request.url = request.url.copy_with(host=origin.host, port=origin.port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def test_services_apart_do_what_one_process_does(database_url: str) -> None:
    environment = settings(database_url)
    orders = first_days(CUSTOMERS_KEPT, 5)
    _, summary = counted(orders)
    planned = days(orders)
    assert (await command(environment, "migrate")).code == 0
    async with AsyncExitStack() as stack:
        contacts = await stack.enter_async_context(serving(environment, "services.contacts", "all"))
        await stack.enter_async_context(serving(environment, "services.points", "worker"))
        points = await stack.enter_async_context(serving(environment, "services.points", "api"))
        origin = OneOrigin(contacts, points)
        async with Regulars("http://one", ADMIN_KEY, transport=origin) as operator:
            _, key = await found_tenant(operator, planned[0])
        async with Regulars("http://one", key, transport=OneOrigin(contacts, points)) as client:
            client.position = operator.position
            await key_works(client)
            await publish_program(client)
            done = await replay(client, planned, 50)
            assert_equal(await figures(client, done), summary)
            at = datetime(1997, 1, 8, 4, tzinfo=UTC)
            assert await client.advance_clock(at) == at
            assert datetime.fromisoformat((await client.get("/v1/clock"))["at"]) == at
        apart = await serving_paths(contacts), await serving_paths(points)
    assert "/v1/events" in apart[0] - apart[1]
    assert "/v1/redemptions" in apart[1] - apart[0]
    await assert_verified(environment)


async def serving_paths(url: str) -> set[str]:
    async with httpx.AsyncClient(base_url=url) as client:
        return set((await client.get("/openapi.json")).json()["paths"])


async def test_one_process_says_how_it_is(database_url: str) -> None:
    async with up(settings(database_url)) as url, httpx.AsyncClient(base_url=url) as client:
        async with asyncio.timeout(OPERATIONS_SECONDS_MAX):
            while (ready := await client.get("/readyz")).status_code != 200:
                pass
            assert set(ready.json()["checks"].values()) == {"ok"}
            assert ready.json()["checks"].keys() == {"database", "log", "door", "contacts", "points"}
            wanted = {
                'regulars_worker_partitions{worker="points"} 12.0',
                'regulars_worker_partitions{worker="contacts"} 12.0',
                'regulars_worker_waiting_records{input="stream",worker="door"} 0.0',
                'regulars_worker_steps_total{step="claimed",worker="contacts"} 12.0',
            }
            while not wanted <= set((await client.get("/metrics")).text.splitlines()):
                pass
        assert (await client.get("/docs")).status_code == 200


@asynccontextmanager
async def with_a_child(environment: Mapping[str, str]) -> AsyncIterator[tuple[Process, int]]:
    """`regulars up --apart points` once it is ready, and the process number of its child."""
    arguments = ("-m", "regulars", "up", "--apart", "points", "--port", "0")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment, stdout=-1, stderr=-1)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(OPERATIONS_SECONDS_MAX):
            said = (await process.stdout.readline()).decode()
            async with httpx.AsyncClient(base_url=said.split(" ")[3]) as client:
                while (ready := await client.get("/readyz")).status_code != 200:
                    pass
        assert ready.json()["checks"]["workers of points"] == "ok"
        yield process, next(number for number in children(process.pid) if b"spawn_main" in command_of(number))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def children(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def command_of(process: int) -> bytes:
    """Nothing when it is no more."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


async def gone(process: int) -> None:
    """Wait until it has ended."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    async with asyncio.timeout(OPERATIONS_SECONDS_MAX):
        await ended.wait()
    loop.remove_reader(descriptor)
    os.close(descriptor)


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds child processes by /proc")


@needs_proc
async def test_workers_apart_end_with_their_server(database_url: str) -> None:
    async with with_a_child(settings(database_url)) as (server, child):
        server.terminate()
        assert (await server.communicate())[1].decode() == ""
        assert server.returncode == 0
        assert not command_of(child)
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("select count(*) from points_machinery.leases") == 0, "it ended in order"
    await connection.close()


@needs_proc
async def test_workers_apart_do_not_outlive_a_server_that_was_killed(database_url: str) -> None:
    async with with_a_child(settings(database_url)) as (server, child):
        server.kill()
        await gone(child)


@needs_proc
async def test_a_server_ends_when_workers_apart_of_it_die(database_url: str) -> None:
    async with with_a_child(settings(database_url)) as (server, child):
        os.kill(child, signal.SIGKILL)
        async with asyncio.timeout(OPERATIONS_SECONDS_MAX):
            _, complained = await server.communicate()
        assert server.returncode == 1
        assert "workers of points ended by itself" in complained.decode()


async def test_workers_apart_of_a_service_that_does_not_run_are_refused(database_url: str) -> None:
    ended = await command(settings(database_url), "up", "--only", "contacts", "--apart", "points")
    assert (ended.code, ended.complained) == (1, "--apart points: this process runs no such service\n")


async def test_a_log_is_carried_elsewhere_and_the_services_go_on(database_url: str, other_database_url: str) -> None:
    environment = settings(database_url)
    orders = first_days(CUSTOMERS_KEPT, 4)
    planned = days(orders)
    async with up(environment) as url:
        key, _ = await played(url, planned[:2], 100)
        running = await command(environment, "log", "copy", database_url, other_database_url)
        assert running.code == 1
        assert "stop its workers first" in running.complained
    copied = await command(environment, "log", "copy", database_url, other_database_url)
    assert (copied.code, copied.complained) == (0, "")
    assert copied.said.endswith("REGULARS_INBOX_GENERATION=2\n")
    moved = settings(database_url, other_database_url, REGULARS_INBOX_GENERATION="2")
    async with up(moved) as url, Regulars(url, key) as client:
        await key_works(client)
        await replay(client, planned[2:], 100)
        _, summary = counted(orders)
        assert_equal(await shown(url, key), summary)
        await assert_verified(moved)


async def parked_at(environment: Mapping[str, str], worker: str, count: int) -> list[str]:
    """What `parked list` says once it lists that many."""
    async with asyncio.timeout(OPERATIONS_SECONDS_MAX):
        while True:
            said = (await command(environment, "parked", "list", worker)).said.splitlines()
            if said[0] == f"{worker}: {count} parked":
                return said[1:]


@pytest.mark.parametrize("value", [b"{", b'{"specversion":"1.0"}'])
async def test_what_cannot_be_read_is_parked_and_can_be_asked_again(database_url: str, value: bytes) -> None:
    environment = settings(database_url)
    async with up(environment) as url:
        log = PostgresLog(database_url)
        try:
            offset = await log.append(At(inbox("points"), 3), [Entry(b"acme/c1", value)])
        finally:
            await log.close()
        cause = f"{inbox('points')}/3/{offset}"
        (line,) = await parked_at(environment, "points", 1)
        assert line.startswith(f"  {cause}  ")
        assert " acme " in line
        again = await command(environment, "parked", "retry", "points", cause)
        assert (again.code, again.complained) == (0, "")
        assert again.said.startswith(f"asked again at {inbox('points')}/3/{offset + 1}")
        still = await parked_at(environment, "points", 2)
        assert still[0].startswith(f"  {cause}  "), "this release cannot read it either"
        unknown = await command(environment, "parked", "retry", "points", f"{inbox('points')}/3/99")
        assert (unknown.code, unknown.said) == (1, "")
        assert "no parked input" in unknown.complained
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/readyz")).status_code == 200
    await assert_verified(environment, ["points"])
