"""The runtime on a real Postgres and the Postgres log: only real transactions and schemas can prove these."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from shared.runtime.proof import NotProvable, rebuild, verify
from shared.runtime.state import REQUESTS
from shared.testing.simulator.toy.domain import ToyRules
from shared.testing.simulator.toy.events import Deposit, Transfer, Withdraw
from tests.runtime.toy_stack import RULES, Running, running, set_up, toy_folder


@pytest.fixture
async def prepared(database_url: str, tmp_path: Path) -> tuple[str, Path]:
    folder = toy_folder(tmp_path)
    await set_up(database_url, database_url, folder)
    return database_url, folder


async def some_work(stack: Running, prefix: str) -> None:
    async def contact(number: int) -> None:
        subject = f"c{number}"
        await stack.ask("toy", "acme", subject, f"{prefix}-d{number}", Deposit(amount=100))
        await stack.ask("toy", "acme", subject, f"{prefix}-w{number}", Withdraw(amount=30))
        other = f"c{(number + 1) % 20}"
        await stack.ask("toy", "acme", subject, f"{prefix}-t{number}", Transfer(to=other, amount=10))

    await asyncio.gather(*(contact(number) for number in range(20)))
    await stack.settled()


async def assert_proven(stack: Running) -> None:
    for rules in RULES:
        proof = await verify(stack.database(rules.worker), rules, stack.log)
        assert all(table.equal for table in proof.tables), proof
        assert proof.equal or rules.worker == "contacts", proof


async def test_requests_are_answered_and_the_state_is_what_the_stream_folds_to(prepared: tuple[str, Path]) -> None:
    url, folder = prepared
    async with running(url, url, folder) as stack:
        await some_work(stack, "a")
        await assert_proven(stack)
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("select sum(available + pending + transit) from toy.accounts") == 20 * 70
        await connection.close()


async def test_a_repeated_request_has_one_effect_and_one_outcome(prepared: tuple[str, Path]) -> None:
    url, folder = prepared
    async with running(url, url, folder) as stack:
        first = await stack.ask("toy", "acme", "c1", "k1", Deposit(amount=100))
        again = await stack.ask("toy", "acme", "c1", "k1", Deposit(amount=100))
        elsewhere = await stack.ask("toy", "acme", "c2", "k1", Deposit(amount=7))
        assert first.outcome == again.outcome == elsewhere.outcome
        refused = await stack.ask("toy", "acme", "c1", "k2", Withdraw(amount=101))
        assert refused.outcome is not None
        assert refused.outcome.type == "request.refused.v1"


async def test_workers_share_the_partitions_and_take_over(prepared: tuple[str, Path]) -> None:
    url, folder = prepared
    async with running(url, url, folder, copies=2, lease_seconds=1.0) as stack:
        await some_work(stack, "a")
        toys = stack.workers[:2]
        async with asyncio.timeout(20):
            while sorted(len(worker.owned()) for worker in toys) != [6, 6]:
                await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.05)
        toys[0].stop()
        await some_work(stack, "b")
        await assert_proven(stack)


async def test_acknowledgements_of_a_lost_database_do_not_hide_that_it_is_older(prepared: tuple[str, Path]) -> None:
    """Given a database restored from before, into which a living worker then wrote what the log had acknowledged."""
    url, folder = prepared
    async with running(url, url, folder) as stack:
        await some_work(stack, "a")
    connection = await asyncpg.connect(url)
    await connection.execute("update toy_machinery.relays set sequence = sequence + 5")
    await connection.close()
    async with running(url, url, folder) as stack, asyncio.timeout(20):
        while len(stack.workers[0].alarms) < 1:
            await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.05)
        assert "regulars rebuild toy" in next(iter(stack.workers[0].alarms.values()))


async def test_a_lost_database_comes_back_from_the_stream(prepared: tuple[str, Path]) -> None:
    url, folder = prepared
    async with running(url, url, folder) as stack:
        await some_work(stack, "a")
        before = await verify(stack.database("toy"), RULES[0], stack.log)
        told = await stack.fronts["toy"].outcome("acme", "a-w3")
    connection = await asyncpg.connect(url)
    await connection.execute("drop schema toy cascade")
    await connection.execute("drop schema toy_machinery cascade")
    await set_up(url, url, folder)
    async with running(url, url, folder) as stack:
        async with asyncio.timeout(20):
            while len(stack.workers[0].alarms) < 1:
                await asyncio.wait((asyncio.get_running_loop().create_future(),), timeout=0.05)
        assert "regulars rebuild toy" in next(iter(stack.workers[0].alarms.values()))
        with pytest.raises(NotProvable, match="stop its workers"):
            await rebuild(stack.database("toy"), ToyRules(), stack.log)
    from shared.log.open import open_log

    log = open_log(url)
    await rebuild(stack.database("toy"), ToyRules(), log)
    after = await verify(stack.database("toy"), RULES[0], log)
    assert after.equal
    assert {table.table: table.live for table in before.tables} == {table.table: table.live for table in after.tables}
    await log.close()
    async with running(url, url, folder) as stack:
        assert await stack.fronts["toy"].outcome("acme", "a-w3") == told
        await some_work(stack, "b")
        await assert_proven(stack)
        assert REQUESTS.name in {table.table for table in after.tables}
    await connection.close()
