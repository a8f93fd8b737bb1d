"""Toy tables of every kind a worker may have, and the two stores over them, for the store's behaviour suite."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeVar

import asyncpg

from shared.runtime.migrations import migrate_worker
from shared.runtime.postgres_store import PostgresStore
from shared.runtime.store import Position, Store, Transaction
from shared.runtime.tables import Table
from shared.testing.memory_store import MemoryStore, MemoryStoreContent

WORKER = "toy"
DEADLINE_SECONDS = 10.0

CREATE_TOYS = """
create table toy.profiles (
    tenant text, name text, age int, total bigint, active boolean, born_at timestamptz, left_at timestamptz,
    primary key (tenant, name)
);
create table toy.lots (tenant text, owner text, lot int, remaining bigint, primary key (tenant, owner, lot));
create table toy.entries (tenant text, number bigint, amount bigint, primary key (tenant, number));
create table toy.nicknames (tenant text, nickname text, owner text, primary key (tenant, nickname));
create table toy.orders (tenant text, number text, state text, version int, primary key (tenant, number));
"""

LOAD_PROFILES = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, name)
cross join lateral (
    select tenant, name, age, total, active, born_at, left_at from profiles
    where (tenant, name) = (asked.tenant, asked.name)
    offset 0
) as found
"""
SAVE_PROFILES = """
insert into profiles (tenant, name, age, total, active, born_at, left_at)
select * from unnest(
    $1::text[], $2::text[], $3::int[], $4::bigint[], $5::bool[], $6::timestamptz[], $7::timestamptz[]
)
on conflict (tenant, name) do update
set age = excluded.age, total = excluded.total, active = excluded.active, born_at = excluded.born_at,
    left_at = excluded.left_at
"""


class Profile(NamedTuple):
    tenant: str
    name: str
    age: int
    total: int
    active: bool
    born_at: datetime
    left_at: datetime | None


PROFILES = Table("profiles", Profile, ("tenant", "name"), ("tenant", "name"), "own", LOAD_PROFILES, SAVE_PROFILES)

LOAD_LOTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, owner)
cross join lateral (
    select tenant, owner, lot, remaining from lots
    where (tenant, owner) = (asked.tenant, asked.owner) and remaining <> 0
    offset 0
) as found
"""
SAVE_LOTS = """
insert into lots (tenant, owner, lot, remaining)
select * from unnest($1::text[], $2::text[], $3::int[], $4::bigint[])
on conflict (tenant, owner, lot) do update set remaining = excluded.remaining
"""


class Lot(NamedTuple):
    tenant: str
    owner: str
    lot: int
    remaining: int


def has_points(lot: Lot) -> bool:
    return lot.remaining != 0


LOTS = Table(
    "lots", Lot, ("tenant", "owner", "lot"), ("tenant", "owner"), "own", LOAD_LOTS, SAVE_LOTS, alive=has_points
)


class Entry(NamedTuple):
    tenant: str
    number: int
    amount: int


ENTRIES = Table("entries", Entry, ("tenant", "number"), ("tenant",), "own", append_only=True)

LOAD_NICKNAMES = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, nickname)
cross join lateral (
    select tenant, nickname, owner from nicknames
    where (tenant, nickname) = (asked.tenant, asked.nickname)
    offset 0
) as found
"""
SAVE_NICKNAMES = """
insert into nicknames (tenant, nickname, owner) select * from unnest($1::text[], $2::text[], $3::text[])
on conflict (tenant, nickname) do nothing
"""


class Nickname(NamedTuple):
    tenant: str
    nickname: str
    owner: str


NICKNAMES = Table(
    "nicknames",
    Nickname,
    ("tenant", "nickname"),
    ("tenant", "nickname"),
    "own",
    LOAD_NICKNAMES,
    SAVE_NICKNAMES,
    shared=True,
)

LOAD_ORDERS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, number)
cross join lateral (
    select tenant, number, state, version from orders
    where (tenant, number) = (asked.tenant, asked.number)
    offset 0
) as found
"""
SAVE_ORDERS = """
insert into orders (tenant, number, state, version)
select * from unnest($1::text[], $2::text[], $3::text[], $4::int[])
on conflict (tenant, number) do update set state = excluded.state, version = excluded.version
where orders.version = excluded.version - 1
"""


class Order(NamedTuple):
    tenant: str
    number: str
    state: str
    version: int


ORDERS = Table(
    "orders", Order, ("tenant", "number"), ("tenant", "number"), "own", LOAD_ORDERS, SAVE_ORDERS, shared=True
)

TOYS = (PROFILES, LOTS, ENTRIES, NICKNAMES, ORDERS)


class Turn:
    """Lets the other tasks run once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it is so; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await Turn()


AnyStore = TypeVar("AnyStore", bound=Store, covariant=True)


@dataclass(frozen=True)
class Shop(Generic[AnyStore]):
    """One database; `process` makes one more process at it."""

    url: str
    process: Callable[[], Awaitable[AnyStore]]


@asynccontextmanager
async def postgres_shop(url: str) -> AsyncIterator[Shop[PostgresStore]]:
    """Postgres, with as many processes as are asked for."""
    connection = await asyncpg.connect(url)
    await migrate_worker(connection, WORKER)
    await connection.execute(CREATE_TOYS)
    await connection.close()
    async with AsyncExitStack() as closing:

        async def process() -> PostgresStore:
            store = await PostgresStore.open(url, WORKER)
            closing.push_async_callback(store.close)
            return store

        yield Shop(url, process)


async def no_point(_name: str) -> None:
    await Turn()


@asynccontextmanager
async def memory_shop() -> AsyncIterator[Shop[MemoryStore]]:
    """Memory, with as many processes as are asked for."""
    content = MemoryStoreContent()
    names = iter(range(100))

    async def process() -> MemoryStore:
        return MemoryStore(content, WORKER, TOYS, lambda: datetime.now(UTC), no_point, f"process {next(names)}")

    yield Shop("", process)


async def claimed(store: Store, partition: int, owner: str = "anna") -> Position:
    """The partition's position, taken by this owner."""
    position = await store.claim(owner, partition, 60)
    assert position is not None
    return position


async def held(transaction: Transaction, position: Position) -> None:
    """Step 2, which must succeed."""
    assert await transaction.hold([position])
    position.version += 1
