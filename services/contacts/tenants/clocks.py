"""What time it is for a tenant, from memory: nobody waits for the database to have an event's time checked."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import asyncpg

from services.contacts.tenants.store import find_tenant
from shared.http.database import tenant_connection
from shared.http.problems import Unavailable

TENANTS_MAX: Final = 10_000


class TenantClocks:
    """Each tenant's time as this process last saw it.

    Whether a tenant runs on a test clock never changes, and a test clock moves forward only: so what is kept is right
    for ever, or behind. Whoever finds it behind asks again with `read`.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", now: Callable[[], datetime]) -> None:
        """`pool` reads the contacts worker's state."""
        self._pool, self._now = pool, now
        self._known: dict[str, datetime | None] = {}

    async def now(self, tenant: str) -> datetime:
        """The tenant's time, for a test clock perhaps behind. Raises Unavailable when it is not known here."""
        if tenant not in self._known:
            return await self.read(tenant)
        return self._known[tenant] or self._now()

    async def read(self, tenant: str) -> datetime:
        """The tenant's time as it stands now. Raises Unavailable."""
        async with tenant_connection(self._pool, tenant) as connection:
            row = await find_tenant(connection, tenant)
        if row is None:
            raise Unavailable("This tenant's settings are not known here yet; try again.")
        if len(self._known) >= TENANTS_MAX:
            self._known.clear()
        self._known[tenant] = row.clock
        return row.clock or self._now()
