"""What a partition keeps in memory between batches is what loading would find, and is bounded."""

from datetime import UTC, datetime

from services.points.ledger.store import LOTS, MEMBERS, LotRow, MemberRow
from shared.runtime.tables import KEPT_ROWS_MAX, Kept, Need, Rows

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
LI = ("acme", "li")
LOT = LotRow(*LI, 1, "points", False, "club", 1, "dollar", earned=10, remaining=10, earned_at=NOON, expires_at=None)
MEMBER = MemberRow(*LI, 1, 1, 1)


def commit(kept: Kept, rows: Rows) -> None:
    kept.keep((place, found) for _, place, found in rows.committed())


def used(kept: Kept) -> Rows:
    """A batch that needs the member, and loads what is not kept: one lot of ten points."""
    rows = Rows(kept)
    missing = rows.missing([Need(MEMBERS, LI), Need(LOTS, LI)])
    assert set(missing) in ({MEMBERS, LOTS}, set())
    for table in missing:
        rows.loaded(table, [LI], [LOT] if table is LOTS else [MEMBER])
    return rows


def test_what_a_batch_committed_is_not_loaded_again() -> None:
    kept = Kept()
    rows = used(kept)
    rows.put(LOTS, LOT._replace(remaining=4))
    commit(kept, rows)
    again = Rows(kept)
    assert again.missing([Need(MEMBERS, LI), Need(LOTS, LI)]) == {}
    assert (again.all(LOTS, LI), again.all(MEMBERS, LI)) == ([LOT._replace(remaining=4)], [MEMBER])


def test_what_a_batch_did_not_commit_is_not_kept() -> None:
    kept = Kept()
    commit(kept, used(kept))
    rolled_back = used(kept)
    rolled_back.put(LOTS, LOT._replace(remaining=4))
    rolled_back.put(LOTS, LOT._replace(number=2))
    assert used(kept).all(LOTS, LI) == [LOT]


def test_rows_that_loading_leaves_out_are_not_kept() -> None:
    kept = Kept()
    rows = used(kept)
    rows.put(LOTS, LOT._replace(remaining=0))
    commit(kept, rows)
    assert used(kept).all(LOTS, LI) == []


def test_a_group_without_rows_is_kept_as_empty() -> None:
    kept = Kept()
    rows = Rows(kept)
    rows.loaded(MEMBERS, list(rows.missing([Need(MEMBERS, LI)])[MEMBERS]), [])
    commit(kept, rows)
    assert Rows(kept).missing([Need(MEMBERS, LI)]) == {}


def test_what_was_used_longest_ago_is_dropped_by_the_number_of_rows() -> None:
    kept = Kept()
    lots = {("acme", "li", number): LOT._replace(number=number) for number in range(KEPT_ROWS_MAX // 2)}
    places = [(LOTS.name, ("acme", name)) for name in ("li", "wang", "zhao")]
    kept.keep([(places[0], lots), (places[1], lots)])
    kept.keep([(places[0], lots)])
    kept.keep([(places[2], {})])
    assert [kept.find(place) is not None for place in places] == [True, False, True]
