"""What every store does, asked of Postgres and of the simulator's memory alike.

Two processes at one database, as two workers are: what one commits the other sees, what both want one gets.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.log.port import EVENTS
from shared.runtime.store import OutboxRow, Position, Store, StoreConflict
from tests.runtime.toy_store import (
    DEADLINE_SECONDS,
    ENTRIES,
    LOTS,
    NICKNAMES,
    ORDERS,
    PROFILES,
    Entry,
    Lot,
    Nickname,
    Order,
    Profile,
    claimed,
    held,
    until,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LI = Profile("acme", "Li", 41, 2**40, True, NOON, None)


class Abandoned(Exception):
    """Raised in a block to roll it back."""


async def rows_of(store: Store, table: Any) -> list[Any]:
    return sorted([row async for row in store.snapshot_rows(table)])


class TestBatch:
    async def test_what_a_batch_wrote_is_seen_by_others_once_it_is_committed(self, store: Store, other: Store) -> None:
        position = await claimed(store, 3)
        async with store.transaction() as batch:
            await held(batch, position)
            assert await batch.save(PROFILES, [LI]) == 1
            await batch.add(ENTRIES, [Entry("acme", 1, 5)])
            assert await other.load(PROFILES, [("acme", "Li")]) == []
            position.offsets, position.seen, position.sequences = {EVENTS: 7}, {"door.1": 4}, {0: 2, 11: 9}
            await batch.move([position])
        assert await other.load(PROFILES, [("acme", "Li")]) == [LI]
        assert await rows_of(other, ENTRIES) == [Entry("acme", 1, 5)]
        assert await other.position(3) == Position(3, 2, {EVENTS: 7}, {"door.1": 4}, {0: 2, 11: 9})

    async def test_a_batch_that_raises_leaves_nothing(self, store: Store, other: Store) -> None:
        position = await claimed(store, 0)

        async def fails() -> None:
            async with store.transaction() as batch:
                await held(batch, position)
                await batch.save(PROFILES, [LI])
                await batch.add(ENTRIES, [Entry("acme", 1, 5)])
                await batch.send([OutboxRow(0, 0, 1, 1, False, b"acme/li", b"{}")])
                position.sequences = {0: 1}
                await batch.move([position])
                raise Abandoned

        with pytest.raises(Abandoned):
            await fails()
        assert await other.load(PROFILES, [("acme", "Li")]) == []
        assert await rows_of(other, ENTRIES) == []
        assert await other.unsent(0, {}, 10) == []
        assert await other.position(0) == Position(0, 1)

    async def test_a_batch_reads_what_it_wrote(self, store: Store) -> None:
        async with store.transaction() as batch:
            await batch.save(PROFILES, [LI])
            older = LI._replace(age=42)
            await batch.save(PROFILES, [older])
            assert await batch.load(PROFILES, [("acme", "Li"), ("acme", "Wu")]) == [older]

    async def test_every_type_of_column_comes_back_as_it_went(self, store: Store) -> None:
        gone = Profile("acme", "吴 'x' \\ \"", -1, -(2**62), False, NOON + timedelta(microseconds=1), NOON)
        async with store.transaction() as batch:
            assert await batch.save(PROFILES, sorted([LI, gone])) == 2
        found = await store.load(PROFILES, [("acme", "Li"), ("acme", gone.name)])
        assert sorted(found) == sorted([LI, gone])
        assert all(isinstance(each, Profile) and each.born_at.utcoffset() == timedelta(0) for each in found)

    async def test_nothing_asked_is_nothing_found(self, store: Store) -> None:
        async with store.transaction() as batch:
            assert await batch.load(PROFILES, []) == []
            assert await batch.save(PROFILES, []) == 0
            await batch.add(ENTRIES, [])
            await batch.send([])

    async def test_a_group_is_loaded_whole_but_for_rows_that_no_rule_reads_again(self, store: Store) -> None:
        lots = [Lot("acme", "Li", 1, 5), Lot("acme", "Li", 2, 0), Lot("acme", "Li", 3, 7), Lot("acme", "Wu", 1, 9)]
        async with store.transaction() as batch:
            assert await batch.save(LOTS, lots) == 4
            assert sorted(await batch.load(LOTS, [("acme", "Li")])) == [lots[0], lots[2]]
            await batch.save(LOTS, [lots[0]._replace(remaining=0)])
            assert await batch.load(LOTS, [("acme", "Li")]) == [lots[2]]
        assert sorted(await store.load(LOTS, [("acme", "Li"), ("acme", "Wu")])) == [lots[2], lots[3]]
        assert len(await rows_of(store, LOTS)) == 4


class TestOwnership:
    async def test_a_stale_version_is_refused(self, store: Store) -> None:
        position = await claimed(store, 0)
        async with store.transaction() as batch:
            assert not await batch.hold([Position(0, position.version - 1)])
        async with store.transaction() as batch:
            assert not await batch.hold([Position(0, position.version + 1)])
            assert not await batch.hold([Position(5, 1)])

    @pytest.mark.parametrize("commits", [True, False])
    async def test_of_two_batches_with_one_version_one_goes_on(self, store: Store, other: Store, commits: bool) -> None:
        position = await claimed(store, 0)
        version, waits = position.version, asyncio.Event()

        async def second() -> bool:
            async with other.transaction() as batch:
                waits.set()
                return await batch.hold([Position(0, version)])

        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                async with store.transaction() as batch:
                    assert await batch.hold([Position(0, version)])
                    waiting = asyncio.create_task(second())
                    await waits.wait()
                    assert await store.load(PROFILES, [("acme", "Li")]) == []
                    assert not waiting.done()
                    if not commits:
                        raise Abandoned
            except Abandoned:
                pass
            assert await waiting is not commits

    async def test_a_partition_has_one_owner_until_it_is_released(self, store: Store, other: Store) -> None:
        assert await store.position(4) is None
        first = await store.claim("anna", 4, 60)
        assert first == Position(4, 1)
        assert await other.claim("bert", 4, 60) is None
        await other.release("bert", [4])
        assert await other.claim("bert", 4, 60) is None
        await store.release("anna", [4, 9])
        assert await other.claim("bert", 4, 60) == Position(4, 2)
        assert await other.claim("bert", 4, 60) == Position(4, 3)

    async def test_a_lease_that_is_over_is_free_and_its_owner_is_stale(self, store: Store, other: Store) -> None:
        position = await store.claim("anna", 0, 0.05)
        assert position is not None
        taken: list[Position] = []

        async def take_over() -> bool:
            taken.extend(filter(None, [await other.claim("bert", 0, 60)]))
            return bool(taken)

        await until(take_over)
        assert taken[0].version == position.version + 1
        async with store.transaction() as batch:
            assert not await batch.hold([Position(0, position.version)])
        assert await store.renew("anna", 60) == frozenset()

    async def test_renewing_keeps_every_lease_of_the_owner(self, store: Store, other: Store) -> None:
        for partition in (1, 2):
            await store.claim("anna", partition, 0.2)
        await other.claim("bert", 3, 60)
        assert await store.renew("anna", 60) == {1, 2}
        assert await other.renew("bert", 60) == {3}
        assert await other.owners(60) == (frozenset({"anna", "bert"}), {1: "anna", 2: "anna", 3: "bert"})
        await store.retire("anna")
        assert await other.owners(60) == (frozenset({"bert"}), {3: "bert"})
        assert await store.renew("anna", 60) == frozenset()

    async def test_who_is_silent_for_a_lease_is_no_live_owner(self, store: Store) -> None:
        await store.renew("anna", 60)
        await store.claim("anna", 1, 0.05)

        async def forgotten() -> bool:
            return await store.owners(0.05) == (frozenset(), {})

        await until(forgotten)

    async def test_renewing_does_not_wait_for_a_batch_but_taking_over_does(self, store: Store, other: Store) -> None:
        position = await store.claim("anna", 0, 0.05)
        assert position is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            async with store.transaction() as batch:
                await held(batch, position)
                assert await store.renew("anna", 0.01) == {0}

                async def over() -> bool:
                    return (await other.owners(60))[1] == {}

                await until(over)
                waiting = asyncio.create_task(other.claim("bert", 0, 60))
                assert await other.load(PROFILES, [("acme", "Li")]) == []
                position.offsets = {EVENTS: 12}
                await batch.move([position])
                assert not waiting.done()
            assert await waiting == Position(0, position.version + 1, {EVENTS: 12})


class TestSharedRows:
    @pytest.mark.parametrize("commits", [True, False])
    async def test_one_of_two_inserts_of_a_key_is_written(self, store: Store, other: Store, commits: bool) -> None:
        mine, theirs = Nickname("acme", "ace", "Li"), Nickname("acme", "ace", "Wu")
        free = Nickname("acme", "bee", "Wu")
        written, kept = await self._race(store, other, NICKNAMES, [mine], [theirs, free], commits)
        assert written == (1 if commits else 2)
        assert kept == ([mine, free] if commits else [theirs, free])

    @pytest.mark.parametrize("commits", [True, False])
    async def test_one_of_two_next_versions_is_written(self, store: Store, other: Store, commits: bool) -> None:
        async with store.transaction() as batch:
            assert await batch.save(ORDERS, [Order("acme", "1", "open", 1)]) == 1
        mine, theirs = Order("acme", "1", "paid", 2), Order("acme", "1", "refunded", 2)
        written, kept = await self._race(store, other, ORDERS, [mine], [theirs], commits)
        assert written == (0 if commits else 1)
        assert kept == [mine if commits else theirs]

    async def _race(
        self, store: Store, other: Store, table: Any, mine: list[Any], theirs: list[Any], commits: bool
    ) -> tuple[int, list[Any]]:
        """Save both in concurrent batches, mine first; what theirs wrote, and what stands at the end."""
        started = asyncio.Event()

        async def second() -> int:
            async with other.transaction() as batch:
                started.set()
                return await batch.save(table, theirs)

        async with asyncio.timeout(DEADLINE_SECONDS):
            try:
                async with store.transaction() as batch:
                    assert await batch.save(table, mine) == len(mine)
                    waiting = asyncio.create_task(second())
                    await started.wait()
                    assert await store.load(PROFILES, [("acme", "Li")]) == []
                    assert not waiting.done()
                    if not commits:
                        raise Abandoned
            except Abandoned:
                pass
            return await waiting, await rows_of(store, table)

    async def test_only_the_next_version_of_a_row_is_written(self, store: Store) -> None:
        async with store.transaction() as batch:
            assert await batch.save(ORDERS, [Order("acme", "1", "open", 1), Order("acme", "2", "paid", 2)]) == 2
        async with store.transaction() as batch:
            again = [Order("acme", "1", "open", 1), Order("acme", "2", "refunded", 3), Order("acme", "3", "open", 1)]
            assert await batch.save(ORDERS, again) == 2
            assert await batch.save(ORDERS, [Order("acme", "1", "refunded", 3)]) == 0
        assert await rows_of(store, ORDERS) == [
            Order("acme", "1", "open", 1),
            Order("acme", "2", "refunded", 3),
            Order("acme", "3", "open", 1),
        ]

    async def test_rows_locked_on_loading_wait_for_their_writer(self, store: Store, other: Store) -> None:
        async with store.transaction() as batch:
            await batch.save(ORDERS, [Order("acme", "1", "open", 1), Order("acme", "2", "open", 1)])
        started = asyncio.Event()

        async def second() -> tuple[list[Order], int]:
            async with other.transaction() as batch:
                started.set()
                found = await batch.load(ORDERS, [("acme", "2"), ("acme", "1")], lock=True)
                return found, await batch.save(ORDERS, [Order("acme", "1", "refunded", 3)])

        async with asyncio.timeout(DEADLINE_SECONDS):
            async with store.transaction() as batch:
                await batch.save(ORDERS, [Order("acme", "1", "paid", 2)])
                waiting = asyncio.create_task(second())
                await started.wait()
                assert len(await store.load(ORDERS, [("acme", "1")])) == 1
                assert not waiting.done()
            found, written = await waiting
        assert sorted(found) == [Order("acme", "1", "paid", 2), Order("acme", "2", "open", 1)]
        assert written == 1

    async def test_of_two_batches_that_wait_for_each_other_one_loses(self, store: Store, other: Store) -> None:
        met = asyncio.Barrier(2)

        async def crossing(at: Store, first: str, second: str) -> int:
            async with at.transaction() as batch:
                await batch.save(NICKNAMES, [Nickname("acme", first, first)])
                await met.wait()
                return await batch.save(NICKNAMES, [Nickname("acme", second, first)])

        async with asyncio.timeout(DEADLINE_SECONDS):
            ends = await asyncio.gather(
                crossing(store, "ace", "bee"), crossing(other, "bee", "ace"), return_exceptions=True
            )
        assert sorted(type(end).__name__ for end in ends) == ["StoreConflict", "int"]
        assert len({nickname.owner for nickname in await rows_of(store, NICKNAMES)}) == 1

    async def test_a_batch_that_passes_over_its_conflict_is_not_committed(self, store: Store, other: Store) -> None:
        met = asyncio.Barrier(2)

        async def crossing(at: Store, first: str, second: str) -> str:
            lost = ""
            async with at.transaction() as batch:
                await batch.save(NICKNAMES, [Nickname("acme", first, first)])
                await met.wait()
                try:
                    await batch.save(NICKNAMES, [Nickname("acme", second, first)])
                except StoreConflict:
                    lost = first
            return lost

        async with asyncio.timeout(DEADLINE_SECONDS):
            ends = await asyncio.gather(
                crossing(store, "ace", "bee"), crossing(other, "bee", "ace"), return_exceptions=True
            )
        assert sorted(type(end).__name__ for end in ends) == ["StoreConflict", "str"]
