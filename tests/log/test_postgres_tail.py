"""The newest records in memory say what the database would, or nothing."""

from datetime import UTC, datetime

import pytest

from shared.log.port import At, Record
from shared.log.postgres_tail import RUN_BYTES_MAX, Tail
from shared.log.postgres_watch import Extent, Place

AT, PLACE, OTHER = At("stream", 0), Place(1, 0), Place(1, 1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def records(first: int, end: int, size: int = 1) -> list[Record]:
    return [Record(AT, offset, b"", b"x" * size, NOW) for offset in range(first, end)]


def offsets(tail: Tail, position: int, most: int = 1_000_000) -> list[int]:
    return [record.offset for record in tail.take(PLACE, position, most)]


def test_a_reader_within_the_run_takes_from_it_and_others_take_nothing() -> None:
    tail = Tail()
    assert offsets(tail, 0) == []
    tail.add(PLACE, records(5, 8))
    tail.add(PLACE, records(8, 10))
    assert offsets(tail, 5) == [5, 6, 7, 8, 9]
    assert offsets(tail, 7, 2) == [7, 8]
    assert offsets(tail, 4) == offsets(tail, 10) == []
    assert list(tail.take(OTHER, 5, 9)) == []


def test_what_leaves_a_gap_takes_the_place_of_the_run_and_what_is_older_does_not() -> None:
    tail = Tail()
    tail.add(PLACE, records(5, 8))
    tail.add(PLACE, records(1, 7))
    assert offsets(tail, 5) == [5, 6, 7]
    tail.add(PLACE, records(9, 11))
    assert (offsets(tail, 5), offsets(tail, 9)) == ([], [9, 10])
    tail.add(PLACE, records(8, 12))
    assert offsets(tail, 8) == [8, 9, 10, 11]


def test_a_run_is_bounded_and_keeps_its_newest() -> None:
    tail = Tail()
    size = RUN_BYTES_MAX // 10
    for offset in range(40):
        tail.add(PLACE, records(offset, offset + 1, size))
    kept = offsets(tail, 35)
    assert kept == [35, 36, 37, 38, 39]
    assert offsets(tail, 0) == []
    tail.add(PLACE, records(40, 41, 2 * RUN_BYTES_MAX))
    assert offsets(tail, 40) == []
    tail.add(PLACE, records(41, 42))
    assert offsets(tail, 41) == [41]


@pytest.mark.parametrize("extent", [Extent(6, 8), Extent(0, 7)])
def test_a_partition_that_was_trimmed_or_ends_before_is_forgotten(extent: Extent) -> None:
    tail = Tail()
    tail.add(PLACE, records(5, 8))
    tail.forget_outside(PLACE, Extent(5, 9))
    assert offsets(tail, 5) == [5, 6, 7]
    tail.forget_outside(PLACE, extent)
    assert offsets(tail, 5) == []
