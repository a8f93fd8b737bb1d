"""The contacts service on a real database and log, for the tests that speak through its HTTP doors."""

from collections.abc import AsyncIterator

import pytest

from services.contacts.service import SERVICE
from tests.conftest import fresh_database
from tests.stack import Stack, running_stack


@pytest.fixture(scope="module")
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    """One stack for a module's tests, each with tenants of its own; at the end every worker's state is proven."""
    async with fresh_database(postgres_url) as url, running_stack(url, [SERVICE]) as running:
        yield running
        await running.assert_proven()
