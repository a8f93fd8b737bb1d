"""Receipts for those who wait for them. What is told here is in the log."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from services.contacts.door.intake import Named, Taken, next_offsets
from services.contacts.door.store import Receipt, find_receipts, find_unpublished
from shared.http.database import tenant_connection
from shared.http.position import PositionToken
from shared.http.problems import NotCaughtUp, Unavailable
from shared.log.port import LogUnavailable, partition_of
from shared.runtime.front import Front
from shared.runtime.store import StoreUnavailable


@dataclass(frozen=True, slots=True)
class Told:
    """Receipts, and a position of the stream that includes their facts."""

    receipts: Mapping[Named, Receipt]
    position: PositionToken


class Receipts:
    """Reads receipts of one tenant at a time. Raises Unavailable."""

    def __init__(self, front: Front, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._front, self._pool = front, pool

    async def known(self, tenant: str, named: Collection[Named]) -> set[Named]:
        """Which of these the door has decided on already."""
        return set((await self._read(tenant, named))[0])

    async def decided(self, tenant: str, taken: Sequence[Taken], wait_seconds: float) -> Told | None:
        """The receipts of what was just taken, or None when it is not decided within the wait."""
        try:
            if await self._front.wait(inbox=next_offsets(taken), events={}, wait_seconds=wait_seconds):
                return await self.told(tenant, [one.named for one in taken], wait_seconds)
        except (StoreUnavailable, Unavailable):
            return None
        return None

    async def told(self, tenant: str, named: Collection[Named], wait_seconds: float) -> Told:
        """Receipts once the log has acknowledged their facts. Raises NotCaughtUp."""
        receipts, unpublished = await self._read(tenant, named)
        if not receipts:
            return Told({}, PositionToken({}))
        try:
            if not await self._front.wait(inbox=unpublished, events={}, wait_seconds=wait_seconds):
                raise NotCaughtUp("It is decided, but the log has not acknowledged it yet; try again.")
            partitions = {partition_of(tenant, one.subject, self._front.partitions) for one in receipts.values()}
            ends = await self._front.stream_ends()
        except (StoreUnavailable, LogUnavailable) as error:
            raise Unavailable("The database or the log cannot be reached; try again.") from error
        return Told(receipts, PositionToken({}, {q: ends[q] for q in sorted(partitions)}))

    async def _read(self, tenant: str, named: Collection[Named]) -> tuple[dict[Named, Receipt], dict[int, int]]:
        """Receipts and, of the same instant, what of the door's decisions may not be in the log yet."""
        async with tenant_connection(self._pool, tenant) as connection:
            receipts = await find_receipts(connection, tenant, named)
            return receipts, await find_unpublished(connection, self._front.inbox_topic)
