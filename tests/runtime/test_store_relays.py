"""What the relay, the timers and those who wait ask of a store; of Postgres and of the simulator's memory alike."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from shared.log.port import EVENTS
from shared.runtime.state import CLOCKS, SUBJECTS, ClockRow, SubjectRow
from shared.runtime.store import Acknowledged, Due, OutboxRow, Position, Reached, Sent, Store
from tests.runtime.toy_store import claimed, held, until

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def row(sequence: int, group: int, *, target: int = 0, letter: bool = False, value: bytes = b"{}") -> OutboxRow:
    return OutboxRow(0, target, sequence, group, letter, b"acme/li", value)


async def sent_out(store: Store, rows: Sequence[OutboxRow]) -> Position:
    """Commit these outbox rows of partition 0 as a batch does, with the sequences they reach."""
    position = await claimed(store, 0)
    for each in rows:
        position.sequences[each.target] = max(each.sequence, position.sequences.get(each.target, 0))
    async with store.transaction() as batch:
        await held(batch, position)
        await batch.send(rows)
        await batch.move([position])
    return position


class TestOutbox:
    async def test_rows_come_in_order_of_group_facts_before_letters(self, store: Store, other: Store) -> None:
        rows = [
            row(1, 1),
            row(1, 1, target=4, letter=True),
            row(2, 2),
            row(1, 2, target=2, letter=True),
            row(2, 2, target=4, letter=True, value=bytes(range(256))),
        ]
        await sent_out(store, list(reversed(rows)))
        assert await other.unsent(0, {}, 100) == rows
        assert await other.unsent(1, {}, 100) == []

    async def test_what_was_sent_is_left_out_target_by_target(self, store: Store) -> None:
        rows = [row(1, 1), row(1, 1, target=4, letter=True), row(2, 2), row(3, 3), row(2, 3, target=4, letter=True)]
        await sent_out(store, rows)
        assert await store.unsent(0, {0: Sent(2, 50), 7: Sent(9, 9)}, 100) == [rows[1], rows[3], rows[4]]
        assert await store.unsent(0, {0: Sent(3, 51), 4: Sent(2, 8)}, 100) == []

    @pytest.mark.parametrize("most", [1, 3, 4, 5, 7, 100])
    async def test_a_group_is_never_split(self, store: Store, most: int) -> None:
        sizes = [2, 1, 5, 1, 1, 3]
        rows: list[OutboxRow] = []
        for group, size in enumerate(sizes, start=1):
            rows += [row(len(rows) + 1 + at, group) for at in range(size)]
        await sent_out(store, rows)
        sent: dict[int, Sent] = {}
        parts: list[list[OutboxRow]] = []
        while part := await store.unsent(0, sent, most):
            parts.append(part)
            sent[0] = Sent(part[-1].sequence, 0)
        assert [each for part in parts for each in part] == rows
        for part in parts:
            groups = [each.group for each in part]
            assert all(groups.count(group) == sizes[group - 1] for group in groups)
            assert len(part) <= most or len(set(groups)) == 1

    async def test_a_letter_is_not_cut_off_its_fact(self, store: Store) -> None:
        rows = [row(1, 1), row(2, 1, letter=True), row(1, 1, target=5, letter=True), row(3, 2)]
        await sent_out(store, rows)
        assert await store.unsent(0, {}, 2) == rows[:3]

    async def test_what_was_recorded_as_sent_never_moves_back(self, store: Store, other: Store) -> None:
        assert await store.sent(0) == ({}, 0)
        await store.record_sent({0: Acknowledged({0: Sent(5, 100), 3: Sent(2, 40)}, 17)})
        await other.record_sent({0: Acknowledged({0: Sent(4, 90), 3: Sent(3, 41), 7: Sent(1, 8)}, 12)})
        await other.record_sent({4: Acknowledged({4: Sent(1, 7)}, 2), 0: Acknowledged({}, 18)})
        assert await other.sent(0) == ({0: Sent(5, 100), 3: Sent(3, 41), 7: Sent(1, 8)}, 18)
        assert await other.sent(4) == ({4: Sent(1, 7)}, 2)
        assert await other.sent(1) == ({}, 0)

    async def test_reached_is_what_is_acknowledged_applied_and_published(self, store: Store, other: Store) -> None:
        assert await other.reached(2) == Reached(2, 0, 0, 0)
        position = await claimed(store, 2)
        async with store.transaction() as batch:
            await held(batch, position)
            position.offsets = {EVENTS: 33, "regulars.inbox.toy.1": 9}
            await batch.move([position])
        assert await other.reached(2) == Reached(2, 0, 33, 0)
        await store.record_sent({2: Acknowledged({1: Sent(8, 800), 2: Sent(4, 61)}, 9)})
        assert await other.reached(2) == Reached(2, 9, 33, 61)


class TestTimers:
    async def test_due_is_by_the_wall_clock_or_by_the_tenants_test_clock(self, store: Store) -> None:
        hour = timedelta(hours=1)
        subjects = [
            SubjectRow("acme", "early", 0, NOON, NOON - hour),
            SubjectRow("acme", "elsewhere", 1, NOON, NOON - hour),
            SubjectRow("acme", "exact", 0, NOON, NOON),
            SubjectRow("acme", "late", 0, NOON, NOON + hour),
            SubjectRow("acme", "never", 0, NOON, None),
            SubjectRow("sandbox", "future", 0, NOON, NOON - 9 * hour),
            SubjectRow("sandbox", "past", 0, NOON, NOON - 11 * hour),
        ]
        assert await store.next_due(0) is None
        async with store.transaction() as batch:
            await batch.save(SUBJECTS, subjects)
            await batch.save(CLOCKS, [ClockRow(0, "sandbox", NOON - 10 * hour)])
        expected = [
            Due("sandbox", "past", NOON - 11 * hour),
            Due("acme", "early", NOON - hour),
            Due("acme", "exact", NOON),
        ]
        assert (await store.due([0], NOON, 10))[0] == expected
        assert (await store.due([0], NOON, 2))[0] == expected[:2]
        assert (await store.due([0], NOON - 2 * hour, 10))[0] == expected[:1]
        assert await store.due([5, 0], NOON, 1) == {5: [], 0: expected[:1]}
        assert await store.next_due(0) == NOON - hour
        assert await store.next_due(1) == NOON - hour

    async def test_a_test_clock_ahead_of_the_wall_brings_timers_forward(self, store: Store) -> None:
        later = NOON + timedelta(days=400)
        async with store.transaction() as batch:
            await batch.save(SUBJECTS, [SubjectRow("sandbox", "a", 0, NOON, later)])
            await batch.save(CLOCKS, [ClockRow(0, "sandbox", later), ClockRow(1, "acme", later)])
        assert (await store.due([0], NOON, 10))[0] == [Due("sandbox", "a", later)]
        assert await store.next_due(0) is None

    async def test_tenants_with_and_without_test_clocks_do_not_hide_each_other(self, store: Store) -> None:
        tenants = ["a", "b", "c", "d", "e"]
        async with store.transaction() as batch:
            await batch.save(SUBJECTS, [SubjectRow(tenant, "s", 0, NOON, NOON) for tenant in tenants])
            await batch.save(CLOCKS, [ClockRow(0, tenant, NOON) for tenant in ("a", "b", "d")])
        everybody = [Due(tenant, "s", NOON) for tenant in tenants]
        assert (await store.due([0], NOON, 10))[0] == everybody
        assert (await store.due([0], NOON - timedelta(hours=1), 10))[0] == [everybody[0], everybody[1], everybody[3]]
        assert await store.next_due(0) == NOON
        async with store.transaction() as batch:
            await batch.save(CLOCKS, [ClockRow(0, tenant, NOON) for tenant in ("c", "e")])
        assert (await store.due([0], NOON - timedelta(hours=1), 10))[0] == everybody
        assert await store.next_due(0) is None

    async def test_a_timer_that_was_moved_is_due_once(self, store: Store) -> None:
        async with store.transaction() as batch:
            await batch.save(SUBJECTS, [SubjectRow("acme", "a", 0, NOON, NOON)])
        async with store.transaction() as batch:
            await batch.save(SUBJECTS, [SubjectRow("acme", "a", 0, NOON, NOON + timedelta(days=1))])
        assert (await store.due([0], NOON, 10))[0] == []
        assert await store.next_due(0) == NOON + timedelta(days=1)


class TestAnnouncements:
    async def test_who_listens_hears_until_he_stops(self, store: Store, other: Store) -> None:
        heard: list[Reached] = []
        also: list[Reached] = []
        stop = await store.listen(heard.append)
        await store.listen(also.append)
        told = [Reached(q, q * 2**50, 2, 3) for q in range(12)]
        await other.announce(told[:1])
        await other.announce(told[1:])
        await other.announce([])

        async def arrived() -> bool:
            await store.now()
            return len(also) == 12

        await until(arrived)
        assert heard == also == told
        stop()
        stop()
        await other.announce([Reached(0, 9, 9, 9)])

        async def arrived_again() -> bool:
            await store.now()
            return len(also) == 13

        await until(arrived_again)
        assert len(heard) == 12

    async def test_the_clock_is_in_utc_and_goes_on(self, store: Store) -> None:
        first = await store.now()
        assert first.utcoffset() == timedelta(0)
        assert await store.now() >= first
