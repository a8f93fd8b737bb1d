"""A replay through the HTTP API of a real server equals a recount of the raw file, and can all be rebuilt.

Only a real server and Postgres can show that: that batches, waits and partitions change no figure, that the state is
what the stream folds to, and that a lost database comes back.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date, timedelta

import asyncpg
import pytest

from regulars.cdnow import Day, Order, days, read_orders, tenth
from regulars.client import Regulars
from regulars.replay import Done, Figures, contact_of, figures, found_tenant, key_works, publish_program, replay
from tests.demo.running import ADMIN_KEY, command, settings, up
from tests.recount import recount

MEMBERS_COMPARED = 100
DAYS_PLAYED = 34
"""Until 3 February 1997: the first of a month is among them, so members redeem."""
CUSTOMERS_KEPT = 300
FIRST_DAY = date(1997, 1, 1)


def first_days(kept: int, played_days: int = DAYS_PLAYED) -> list[Order]:
    """What the first customers of a tenth bought in the first days."""
    orders = tenth(read_orders(), 5)
    early = [order for order in orders if order.day < FIRST_DAY + timedelta(days=played_days)]
    customers = dict.fromkeys(order.customer for order in early)
    wanted = set(list(customers)[:kept])
    return [order for order in early if order.customer in wanted]


def counted(orders: Sequence[Order]) -> tuple[dict[str, recount.Member], dict[str, object]]:
    raw = [
        recount.Order(order.number, order.customer, order.day, order.quantity, order.amount_minor) for order in orders
    ]
    members, sent = recount.count(raw)
    return members, recount.summary(members, sent)


async def played(url: str, planned: Sequence[Day], batch: int) -> tuple[str, Done]:
    """Replay on a new tenant; its API key."""
    async with Regulars(url, ADMIN_KEY) as operator:
        _, key = await found_tenant(operator, planned[0])
    async with Regulars(url, key) as client:
        await key_works(client)
        await publish_program(client)
        return key, await replay(client, planned, batch)


async def shown(url: str, key: str) -> Figures:
    async with Regulars(url, key) as client:
        await key_works(client)
        return await figures(client)


def assert_equal(found: Figures, summary: dict[str, object]) -> None:
    assert found.members_per_tier == summary["members_per_tier"]
    assert found.wallets == summary["wallets"]
    assert (found.postings_sum, found.balanced) == (0, True)


async def assert_members_equal(url: str, key: str, members: dict[str, recount.Member]) -> None:
    compared = random.Random(1).sample(sorted(members), min(MEMBERS_COMPARED, len(members)))
    async with Regulars(url, key) as client:
        for customer in compared:
            answered = await client.get(f"/v1/members/{await contact_of(client, customer)}")
            balances = {wallet["wallet"]: wallet["available"] for wallet in answered["wallets"]}
            expected = members[customer]
            assert balances.get("points", 0) == expected.balance, customer
            assert answered["tier"]["level"] == recount.LEVELS[expected.level][0], customer


async def assert_verified(environment: dict[str, str], workers: Sequence[str] = ("door", "contacts", "points")) -> None:
    for proved in await asyncio.gather(*(command(environment, "verify", worker) for worker in workers)):
        assert (proved.code, proved.complained) == (0, ""), proved.said
        assert "NOT EQUAL" not in proved.said


async def drop_state(database_url: str) -> None:
    """Lose the database: all schemas of all workers."""
    connection = await asyncpg.connect(database_url)
    try:
        for worker in ("door", "contacts", "points"):
            # Names are ours: DDL takes no parameters.
            await connection.execute("drop schema " + worker + ", " + worker + "_machinery cascade")
    finally:
        await connection.close()


async def test_a_replay_equals_a_recount_whatever_the_batch_and_comes_back_from_the_log(
    database_url: str, other_database_url: str
) -> None:
    environment = settings(database_url, log_url=other_database_url)
    orders = first_days(CUSTOMERS_KEPT)
    planned = days(orders)
    members, summary = counted(orders)
    async with up(environment) as url:
        key, done = await played(url, planned, 7)
        other_key, again = await played(url, planned, 500)
        assert asdict(done) == asdict(again) == summary["sent"]
        assert done.redeemed > 0
        assert done.refunds > 0
        assert_equal(await shown(url, key), summary)
        assert await shown(url, key) == await shown(url, other_key)
        await assert_members_equal(url, key, members)
        await assert_verified(environment)
    await drop_state(database_url)
    for worker in ("contacts", "door", "points"):
        rebuilt = await command(environment, "rebuild", worker)
        assert (rebuilt.code, rebuilt.complained) == (0, ""), rebuilt.said
    await assert_verified(environment)
    async with up(environment) as url:
        assert_equal(await shown(url, key), summary)
        await assert_members_equal(url, key, members)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, None], ids=["tenth", "whole"])
async def test_the_demo_equals_a_recount(database_url: str, seed: int | None) -> None:
    environment = settings(database_url)
    orders = read_orders() if seed is None else tenth(read_orders(), seed)
    members, summary = counted(orders)
    async with up(environment, "--apart", "points") as url:
        key, done = await played(url, days(orders), 200)
        assert asdict(done) == summary["sent"]
        assert_equal(await shown(url, key), summary)
        await assert_members_equal(url, key, members)
        await assert_verified(environment)
