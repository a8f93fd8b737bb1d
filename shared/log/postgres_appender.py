"""Group commit for the embedded log: appends that come while one statement runs make up the next statement.

One statement moves the head rows of several partitions, locked in a fixed order, and inserts the records behind them;
each append is still all or nothing and dense in its own partition. On a compacted topic the youngest record of a key is
the only one: older ones go, and those that a younger one of the same statement replaces never come.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from shared.log.port import BATCH_BYTES_MAX, Entry
from shared.log.postgres_watch import Place

GROUP_BYTES_MAX: Final = 4 * BATCH_BYTES_MAX

# $5 is null unless the topic is compacted: then it says which entries have no younger one of their key among them.
APPEND_GROUP: Final = """
with entry as (
    select topic_id, partition, key, value, newest, nth,
        row_number() over (partition by topic_id, partition order by nth) as place
    from unnest($1::int[], $2::int[], $3::bytea[], $4::bytea[], $5::boolean[]) with ordinality as given (
        topic_id, partition, key, value, newest, nth
    )
), wanted as (
    select topic_id, partition, count(*) as entries from entry group by topic_id, partition
), locked as (
    select head.topic_id, head.partition, wanted.entries
    from regulars_log.heads as head join wanted using (topic_id, partition)
    order by head.topic_id, head.partition for update of head
), head as (
    update regulars_log.heads as head
    set next_offset = head.next_offset + locked.entries,
        appended_at = greatest(head.appended_at, clock_timestamp())
    from locked where head.topic_id = locked.topic_id and head.partition = locked.partition
    returning head.topic_id, head.partition, head.next_offset - locked.entries as base, head.appended_at
), replaced as (
    delete from regulars_log.records as record using head join entry using (topic_id, partition)
    where $5 is not null and record.compacted and record.topic_id = head.topic_id and record.partition = head.partition
        and record.key = entry.key and record."offset" < head.base
), added as (
    insert into regulars_log.records (topic_id, partition, "offset", key, value, appended_at, compacted)
    select head.topic_id, head.partition, head.base + entry.place - 1, entry.key, entry.value, head.appended_at,
        entry.newest is not null
    from head join entry using (topic_id, partition) where entry.newest is not false order by entry.nth
)
select topic_id, partition, base, appended_at from head
"""

# Before the statement on a compacted topic: it must see the records of who held the heads before it.
LOCK_HEADS: Final = """
select 1 from regulars_log.heads
where (topic_id, partition) in (select * from unnest($1::int[], $2::int[]))
order by topic_id, partition for update
"""

Row: TypeAlias = tuple[int, int, int, datetime]
Execute = Callable[[list[int], list[int], list[bytes], list[bytes | None]], Awaitable[Sequence[Row]]]
"""Runs APPEND_GROUP; returns (topic number, partition, base offset, append time). Raises LogError."""
Appended = Callable[[Place, int, Sequence[Entry], datetime], None]
"""Hears of each append that is durable, in the order of its offsets, before its caller does."""


@dataclass(eq=False)
class _Append:
    place: Place
    entries: Sequence[Entry]
    base: "asyncio.Future[int | None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def size_bytes(self) -> int:
        return sum(len(key) + len(value or b"") for key, value in self.entries)


class GroupAppender:
    """Appends of one process, one statement at a time. A cancelled caller's append still goes out."""

    def __init__(self, execute: Execute, appended: Appended) -> None:
        self._execute, self._appended = execute, appended
        self._waiting: list[_Append] = []
        self._running: asyncio.Task[None] | None = None

    async def append(self, place: Place, entries: Sequence[Entry]) -> int | None:
        """The first entry's offset once it is durable; None when there is no such partition. Raises LogError."""
        one = _Append(place, entries)
        self._waiting.append(one)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="append to the log")
        return await asyncio.shield(one.base)

    async def close(self) -> None:
        """What waits fails; whether what runs was appended is not known."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for one in self._waiting:
            one.base.cancel()

    async def _run(self) -> None:
        while self._waiting:
            group = self._next_group()
            try:
                bases = await self._together(group)
            except asyncio.CancelledError:
                for one in [*group, *self._waiting]:
                    one.base.cancel()
                raise
            except Exception as error:
                for one in group:
                    one.base.set_exception(error)
                    one.base.exception()  # a caller that is gone must not make a warning
            else:
                for one, base in zip(group, bases, strict=True):
                    one.base.set_result(base)

    def _next_group(self) -> list[_Append]:
        group = [self._waiting.pop(0)]
        size = group[0].size_bytes
        while self._waiting and size + self._waiting[0].size_bytes <= GROUP_BYTES_MAX:
            size += self._waiting[0].size_bytes
            group.append(self._waiting.pop(0))
        return group

    async def _together(self, group: Sequence[_Append]) -> list[int | None]:
        flat = [(one.place, entry) for one in group for entry in one.entries]
        found = await self._execute(
            [place.topic_id for place, _ in flat],
            [place.partition for place, _ in flat],
            [entry.key for _, entry in flat],
            [entry.value for _, entry in flat],
        )
        next_of = {Place(topic_id, partition): (base, at) for topic_id, partition, base, at in found}
        bases: list[int | None] = []
        for one in group:
            base, at = next_of.get(one.place, (None, None))
            bases.append(base)
            if base is not None and at is not None:
                self._appended(one.place, base, one.entries, at)
                next_of[one.place] = base + len(one.entries), at
        return bases


def newest_of_their_keys(topic_ids: list[int], partitions: list[int], keys: list[bytes]) -> list[bool]:
    """Which entries have no younger one of the same key behind them."""
    places = list(zip(topic_ids, partitions, keys, strict=True))
    last = {place: nth for nth, place in enumerate(places)}
    return [last[place] == nth for nth, place in enumerate(places)]
