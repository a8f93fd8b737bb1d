"""Tables as a worker's rules see them: typed rows, loaded by group, changed in memory, written once a batch.

A row is a NamedTuple whose fields are the table's columns in order; the SQL stands beside it in the noun's
`store.py`. The runtime loads all groups that a batch touches with one query per table, lets the rules read and put
rows in a `Rows`, and writes the rows that changed with one statement per table.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, cast

Row = TypeVar("Row", bound=tuple[Any, ...])
Key = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Table(Generic[Row]):
    """One state table.

    `feed` is the law of DESIGN §5: a table is folded from its worker's own facts ("own") or from what others
    write ("others", which includes letters of the worker's own), never from both.

    `load` selects all columns in order for the groups `unnest($1, $2 ...)`, one array per group column. Its plan may be
    made while the table is small and stay, so it goes by key whatever the planner believes: by a lateral join that
    `offset 0` keeps as it is written.

    `save` inserts from `unnest($1, $2 ...)`, one array per column, and updates on conflict; for an append-only table it
    is empty and rows are copied in. A `shared` table is written by several partitions: its save must do nothing for a
    row that is already there, and the runtime takes the batch again when it did. So a shared row is inserted once and
    never changed (what changes is a row per change, with a number of its own).
    """

    name: str
    row: type[Row]
    key: tuple[str, ...]
    group: tuple[str, ...]
    feed: Literal["own", "others"]
    load: str = ""
    save: str = ""
    shared: bool = False
    append_only: bool = False
    kept: bool = False
    """Its groups stay in memory with the partition, as of its last commit: rows that many batches read and nobody else
    writes. A group of others' facts names the partition; one of own facts begins with tenant and subject."""
    alive: Callable[[Row], bool] | None = None
    """The pure twin of a further condition in `load` (rows that no rule will read again are left out)."""
    key_of: Callable[[Row], Key] = field(init=False)
    """A row's key."""
    group_of: Callable[[Row], Key] = field(init=False)
    """The group that a row is loaded with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_of", _getter(self.columns, self.key))
        object.__setattr__(self, "group_of", _getter(self.columns, self.group))

    @property
    def columns(self) -> tuple[str, ...]:
        return cast("tuple[str, ...]", self.row._fields)  # type: ignore[attr-defined]


def _alive(table: Table[Any], rows: dict[Key, Any]) -> dict[Key, Any]:
    alive = table.alive
    return rows if alive is None else {key: row for key, row in rows.items() if alive(row)}


def _getter(columns: tuple[str, ...], names: tuple[str, ...]) -> Callable[[Any], Key]:
    """Picks columns of a row as a tuple; in C, because every row read or put passes here."""
    at = [columns.index(name) for name in names]
    if len(at) == 1:
        return itemgetter(slice(at[0], at[0] + 1))
    return itemgetter(*at)


class Need(NamedTuple):
    """Rows that an input or a fact may touch: one group of one table."""

    table: Table[Any]
    group: Key


class NotLoaded(LookupError):
    """A rule touched a group that its `needs` did not name."""


KEPT_ROWS_MAX: Final = 20_000
"""Of one partition: some 16 MB of a member's rows. An empty group counts as one."""

Place = tuple[str, Key]
"""A group: its table's name, and which."""


class Kept:
    """The groups of kept tables that one partition has in memory, as of its last commit; those used last."""

    def __init__(self) -> None:
        self._groups: dict[Place, dict[Key, Any]] = {}
        self._size = 0

    def find(self, place: Place) -> dict[Key, Any] | None:
        """The group's rows by key, not to be changed; None when they must be loaded."""
        return self._groups.get(place)

    def keep(self, groups: Iterable[tuple[Place, dict[Key, Any]]]) -> None:
        """Take in what was committed, and drop what was used longest ago where it is too much."""
        for place, rows in groups:
            self._drop(place)
            self._groups[place] = rows
            self._size += max(1, len(rows))
        while self._size > KEPT_ROWS_MAX:
            self._drop(next(iter(self._groups)))

    def _drop(self, place: Place) -> None:
        if (rows := self._groups.pop(place, None)) is not None:
            self._size -= max(1, len(rows))


class Rows:
    """The rows of one batch: what was loaded, as changed so far. Reading and putting are its only verbs."""

    def __init__(self, kept: Kept | None = None) -> None:
        self._kept = Kept() if kept is None else kept
        self._kept_used: dict[Place, Table[Any]] = {}
        self._groups: dict[Place, dict[Key, Any]] = {}
        self._changed: dict[str, dict[Key, Any]] = {}
        self._appended: dict[str, list[Any]] = {}
        self._tables: dict[str, Table[Any]] = {}

    def missing(self, needs: Iterable[Need]) -> dict[Table[Any], set[Key]]:
        """The needed groups that are not loaded yet, by table."""
        wanted: dict[Table[Any], set[Key]] = {}
        for table, group in needs:
            place = (table.name, group)
            if place in self._groups:
                continue
            if table.kept:
                self._kept_used[place] = table
                if (rows := self._kept.find(place)) is not None:
                    self._groups[place] = dict(rows)
                    continue
            wanted.setdefault(table, set()).add(group)
        return wanted

    def committed(self) -> Iterator[tuple[Table[Any], Place, dict[Key, Any]]]:
        """The groups of kept tables that this batch used, as `load` would find them now that it is committed."""
        for place, table in self._kept_used.items():
            yield table, place, _alive(table, self._groups[place])

    def written(self) -> None:
        """All changes are in the database: what was put counts as loaded from now on, and what is not alive is gone."""
        for name, rows in self._changed.items():
            table = self._tables[name]
            alive = table.alive
            for row in [] if alive is None else [row for row in rows.values() if not alive(row)]:
                del self._group(table, table.group_of(row))[table.key_of(row)]
        self._changed, self._appended = {}, {}

    @property
    def groups(self) -> int:
        """How many groups are in memory."""
        return len(self._groups)

    def loaded(self, table: Table[Any], groups: Iterable[Key], rows: Iterable[Any]) -> None:
        """Take in what a load query returned for these groups; a group without rows is loaded and empty."""
        for group in groups:
            self._groups[(table.name, group)] = {}
        for row in rows:
            self._groups[(table.name, table.group_of(row))][table.key_of(row)] = row

    def all(self, table: Table[Row], group: Key) -> list[Row]:
        """The group's rows in key order."""
        found = self._group(table, group)
        return [found[key] for key in sorted(found)]

    def get(self, table: Table[Row], key: Key, group: Key | None = None) -> Row | None:
        """The row of this key or None. `group` may be left out where it equals the key."""
        return cast("Row | None", self._group(table, key if group is None else group).get(key))

    def put(self, table: Table[Row], row: Row) -> None:
        """Insert or replace a row; putting an equal row changes nothing."""
        key = table.key_of(row)
        found = self._group(table, table.group_of(row))
        if found.get(key) == row:
            return
        found[key] = row
        self._tables[table.name] = table
        self._changed.setdefault(table.name, {})[key] = row

    def append(self, table: Table[Row], row: Row) -> None:
        """Add a row to an append-only table; no rule reads it back."""
        self._tables[table.name] = table
        self._appended.setdefault(table.name, []).append(row)

    def changed(self, table: Table[Row]) -> list[Row]:
        """The rows of one table that were put so far, in key order."""
        rows = self._changed.get(table.name, {})
        return [rows[key] for key in sorted(rows)]

    def changes(self) -> Iterator[tuple[Table[Any], Sequence[Any]]]:
        """Changed rows by table, sorted by key (so that partitions never deadlock), then appended ones."""
        for name in sorted(self._changed):
            rows = self._changed[name]
            yield self._tables[name], [rows[key] for key in sorted(rows)]
        for name in sorted(self._appended):
            yield self._tables[name], self._appended[name]

    def _group(self, table: Table[Any], group: Key) -> dict[Key, Any]:
        try:
            return self._groups[(table.name, group)]
        except KeyError:
            raise NotLoaded(f"{table.name} {group!r} was not named in needs()") from None
