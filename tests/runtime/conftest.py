"""Two processes at one store, on Postgres and in memory."""

from collections.abc import AsyncIterator

import pytest

from shared.runtime.store import Store
from tests.runtime.toy_store import Shop, memory_shop, postgres_shop


@pytest.fixture(params=["postgres", "memory"])
def shop_url(request: pytest.FixtureRequest) -> str:
    """Of a fresh database, or nothing for memory."""
    return "" if request.param == "memory" else str(request.getfixturevalue("database_url"))


@pytest.fixture
async def shop(shop_url: str) -> AsyncIterator[Shop[Store]]:
    """One database with the toy tables."""
    async with postgres_shop(shop_url) if shop_url else memory_shop() as found:
        yield found


@pytest.fixture
async def store(shop: Shop[Store]) -> Store:
    """A process at it."""
    return await shop.process()


@pytest.fixture
async def other(shop: Shop[Store]) -> Store:
    """Another process at it."""
    return await shop.process()
