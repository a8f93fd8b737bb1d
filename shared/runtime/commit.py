"""Steps 2 to 7 of the batch, for the batches of several partitions in one transaction where they come together.

A partition's batch stays its own: its own position row is held and moved, its own inputs are decided. Committing those
that wait at the same moment together costs one transaction, one query per table and one statement per write instead of
one each. When anything in a group fails, the group rolls back and each batch is committed alone; one that
lost a race for a shared row waits behind the others.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.log.port import LogError
from shared.runtime.accept import Work
from shared.runtime.relay import Point
from shared.runtime.store import OutboxRow, Position, Store, StoreConflict, StoreUnavailable, Transaction
from shared.runtime.tables import Kept, Key, Need, Rows, Table
from shared.runtime.turn import Context, Failed, Turn

CONFLICTS_MAX: Final = 50
CONFLICT_SECONDS: Final = 0.002


class Stale(Exception):
    """Another owner has the partition: this one forgets it."""


@dataclass(eq=False)
class Batch:
    """What one partition wants to commit."""

    held: Position
    """The position row as it stands."""
    position: Position
    """As it will stand: offsets and sequences seen are moved over what was read."""
    works: Sequence[Work]
    kept: Kept
    done: "asyncio.Future[Turn]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    alone: bool = False
    """A group with it failed: which batch it was shows when each is committed by itself."""
    conflicts: int = 0
    """Races lost in a row; after the first it locks the shared rows that it loads."""


class Committer:
    """Commits the batches of one worker process, group by group: what comes while one commits makes up the next."""

    def __init__(
        self,
        context: Context,
        store: Store,
        works_max: int,
        publish_keys: Callable[[], Awaitable[None]],
        counters: Counter[str],
        point: Point,
    ) -> None:
        self._context, self._store, self._works_max = context, store, works_max
        self._publish_keys, self._counters, self._point = publish_keys, counters, point
        self._waiting: list[Batch] = []
        self._running: asyncio.Task[None] | None = None

    async def commit(self, batch: Batch) -> Turn:
        """The committed turn. Raises Stale, Failed, StoreError, LogError; then nothing of it was committed, or, with
        StoreUnavailable, nobody knows: forget the partition and claim it again."""
        self._waiting.append(batch)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name=f"commit {self._context.rules.worker}")
        return await batch.done

    async def close(self) -> None:
        """Give up what waits; a transaction that runs is rolled back."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for batch in self._waiting:
            batch.done.cancel()

    async def _run(self) -> None:
        while self._waiting:
            group = self._next_group()
            try:
                turns = await self._together(group, lock=any(batch.conflicts for batch in group))
            except asyncio.CancelledError:
                for batch in group:
                    batch.done.cancel()
                raise
            except (StoreUnavailable, LogError) as error:
                for batch in group:
                    _fail(batch, error)
            except Exception as error:
                self._counters["rolled_back"] += 1
                await self._again(group, error)
            else:
                for batch, turn in zip(group, turns, strict=True):
                    _tell(batch, turn)

    def _next_group(self) -> list[Batch]:
        """Batches that wait, first come first, up to `works_max` inputs; in the order in which rows are locked."""
        self._waiting = [batch for batch in self._waiting if not batch.done.done()]
        group: list[Batch] = []
        works = 0
        while self._waiting and (not group or works + len(self._waiting[0].works) <= self._works_max):
            if group and (self._waiting[0].alone or group[0].alone):
                break
            works += len(self._waiting[0].works)
            group.append(self._waiting.pop(0))
        return sorted(group, key=lambda batch: batch.held.partition)

    async def _again(self, group: Sequence[Batch], error: Exception) -> None:
        """A group is taken apart; one that lost a race goes behind the others; anything else is one batch's own."""
        if len(group) > 1:
            self._counters["groups_split"] += 1
            for batch in group:
                batch.alone = True
            self._waiting = [*group, *self._waiting]
            return
        batch = group[0]
        match error:
            case StoreConflict() if batch.conflicts < CONFLICTS_MAX:
                batch.alone, batch.conflicts = True, batch.conflicts + 1
                self._counters["conflicts"] += 1
                self._waiting.append(batch)
                if len(self._waiting) == 1:
                    await asyncio.sleep(CONFLICT_SECONDS * batch.conflicts)
            case StoreConflict() | Failed() | Stale():
                _fail(batch, error)
            case _:
                # Not a decision but a row or a need of it: narrowed down to one input and parked in the same way.
                _fail(batch, Failed(batch.works[0], error) if batch.works else error)

    async def _together(self, group: Sequence[Batch], *, lock: bool) -> list[Turn]:
        """One transaction. Raises Stale, Failed, StoreConflict when any batch of the group cannot be committed."""
        counting = Counter[str]()
        turns = [Turn(self._context, Rows(batch.kept), batch.position, counting) for batch in group]
        if not turns:
            return []
        async with self._store.transaction() as transaction:
            await self._point("batch.2")
            if not await transaction.hold([batch.held for batch in group]):
                self._counters["stale_refused"] += 1
                raise Stale(f"{self._context.rules.worker}: one of {[batch.held.partition for batch in group]}")
            await self._point("batch.4")
            needs = [turn.needs(batch.works) for turn, batch in zip(turns, group, strict=True)]
            await load_rows(transaction, [turn.rows for turn in turns], needs, lock=lock)
            for turn, batch in zip(turns, group, strict=True):
                turn.decide(batch.works)
            await self._publish_keys()  # with no await before it, or another worker may seal with a key of this group
            await self._point("batch.5")
            await self._write(transaction, turns)
            await self._point("batch.6")
            await transaction.move([turn.position for turn in turns])
            await self._point("batch.7")
        await self._point("batch.committed")
        self._counters.update(counting)
        self._counters["transactions"] += 1
        for turn, batch in zip(turns, group, strict=True):
            turn.position.version = batch.held.version + 1
        return turns

    async def _write(self, transaction: Transaction, turns: Sequence[Turn]) -> None:
        """Step 6: one statement per table, rows of all partitions sorted by key."""
        tables: dict[str, tuple[Table[Any], list[Any]]] = {}
        for turn in turns:
            for table, changed in turn.rows.changes():
                tables.setdefault(table.name, (table, []))[1].extend(changed)
        for name in sorted(tables):
            table, rows = tables[name]
            if table.append_only:
                await transaction.add(table, rows)
            elif await transaction.save(table, sorted(rows, key=table.key_of)) != len(rows):
                raise StoreConflict(f"another partition wrote the same row of {name} first")
        outbox: list[OutboxRow] = [row for turn in turns for row in turn.outbox]
        await transaction.send(outbox)


def _tell(batch: Batch, turn: Turn) -> None:
    if not batch.done.done():
        batch.done.set_result(turn)


def _fail(batch: Batch, error: Exception) -> None:
    if not batch.done.done():
        batch.done.set_exception(error)


async def load_rows(
    transaction: Transaction, all_rows: Sequence[Rows], needs: Sequence[Iterable[Need]], *, lock: bool = False
) -> None:
    """Step 4: one query per table for all groups that are needed and not loaded yet, in a fixed order."""
    missing = [rows.missing(needed) for rows, needed in zip(all_rows, needs, strict=True)]
    wanted: dict[Table[Any], set[Key]] = {}
    for tables in missing:
        for table, groups in tables.items():
            wanted.setdefault(table, set()).update(groups)
    for table in sorted(wanted, key=lambda table: table.name):
        found: dict[Key, list[Any]] = {group: [] for group in wanted[table]}
        for row in await transaction.load(table, sorted(wanted[table]), lock=lock and table.shared):
            found[table.group_of(row)].append(row)
        for rows, tables in zip(all_rows, missing, strict=True):
            groups = tables.get(table, set())
            rows.loaded(table, groups, (row for group in groups for row in found[group]))
