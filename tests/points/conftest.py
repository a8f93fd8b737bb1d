"""Fixtures of the points tests."""

from collections.abc import AsyncIterator

import pytest

from services.contacts.service import SERVICE as CONTACTS
from services.points.service import SERVICE as POINTS
from tests.conftest import fresh_database
from tests.stack import Stack, running_stack


@pytest.fixture(scope="module")
async def stack(postgres_url: str) -> AsyncIterator[Stack]:
    """Both services, shared by the tests of one file; at its end every worker is equal to its replay."""
    async with fresh_database(postgres_url) as url, running_stack(url, (CONTACTS, POINTS)) as running:
        yield running
        await running.assert_proven()
