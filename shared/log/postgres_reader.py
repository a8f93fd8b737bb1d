"""Reading from the embedded log: a query only where the watch says that something is there."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from shared.log.port import At, OffsetMissing, Record
from shared.log.postgres_watch import Place, Waiter, Watch

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

TAKE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of values in one query; a place gets its share of it, and one record at least."""

Read = Callable[[Place, int, int], Awaitable[list[Record]]]
"""Records of a place from a position, at most so many."""


READ: Final = """
select asked.nth, sized."offset", sized.key, sized.value, sized.appended_at
from unnest($1::int[], $2::int[], $3::bigint[], $4::int[]) with ordinality as asked (
    topic_id, partition, position, most, nth
), lateral (
    select "offset", key, value, appended_at,
        sum(coalesce(octet_length(value), 0)) over (order by "offset" rows unbounded preceding)
            - coalesce(octet_length(value), 0) as bytes_before
    from (
        select "offset", key, value, appended_at from regulars_log.records
        where topic_id = asked.topic_id and partition = asked.partition and "offset" >= asked.position
        order by "offset" limit asked.most
    ) as counted
) as sized
where sized.bytes_before < $5
"""


class Asked(NamedTuple):
    """Up to `most` records of a place, from `position` on."""

    place: Place
    position: int
    most: int


async def read_records(
    connection: "PoolConnectionProxy[asyncpg.Record]", asked: Sequence[Asked], names: Mapping[int, str]
) -> dict[Asked, list[Record]]:
    """What is there of all that is asked for, in one query. `names` are the topics' by number."""
    columns = [[one.place.topic_id for one in asked], [one.place.partition for one in asked]]
    columns += [[one.position for one in asked], [one.most for one in asked]]
    found: dict[Asked, list[Record]] = {one: [] for one in asked}
    for nth, offset, key, value, appended_at in await connection.fetch(READ, *columns, TAKE_BYTES_MAX // len(asked)):
        place = asked[nth - 1].place
        record = Record(At(names[place.topic_id], place.partition), offset, key, value, appended_at)
        found[asked[nth - 1]].append(record)
    for records in found.values():
        records.sort(key=lambda record: record.offset)  # as they come, most likely; a sort over there may need a disk
    return found


class PostgresReader:
    """Reads by offset where the watch says that something is there."""

    def __init__(self, read: Read, watch: Watch, waiter: Waiter, places: Mapping[At, Place], gaps: set[str]) -> None:
        self._read = read
        self._watch = watch
        self._waiter = waiter
        self._places = places
        self._gaps = gaps

    async def wait(self, timeout_seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while not self._ready():
                    self._watch.raise_if_dead()
                    await self._waiter.event.wait()
                    self._waiter.event.clear()
        return self._ready()

    async def take(self, at: At, most: int) -> list[Record]:
        place = self._places[at]
        position = self._waiter.positions[place]
        if not self._watch.may_take(self._waiter, place):
            return []
        self._waiter.doubtful.discard(place)
        records = await self._read(place, position, most)
        if not records:
            await self._confirm(at, place, position)
            return []
        if records[0].offset != position and at.topic not in self._gaps:
            raise OffsetMissing(f"{at}: offset {position} is gone, the topic goes on at {records[0].offset}")
        self._waiter.positions[place] = records[-1].offset + 1
        self._watch.taken(place, records[-1].offset + 1)
        return records

    async def close(self) -> None:
        self._watch.remove(self._waiter)

    def _ready(self) -> bool:
        return any(self._watch.may_take(self._waiter, place) for place in self._waiter.positions)

    async def _confirm(self, at: At, place: Place, position: int) -> None:
        extent = (await self._watch.refresh([place]))[place]
        if not extent.start <= position <= extent.end:
            raise OffsetMissing(f"{at}: position {position} is outside of the topic, {extent.start} to {extent.end}")
