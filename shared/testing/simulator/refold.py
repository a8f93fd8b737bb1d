"""State folded from the stream alone, to hold against the live rows (law 4)."""

from typing import Any

from shared.runtime.fold import RUNTIME_READS, fold_other, fold_own, is_own_fact
from shared.runtime.rules import Rules
from shared.runtime.state import TABLES
from shared.runtime.tables import Key, Rows, Table
from shared.testing.simulator.stream import Accepted, Stream

Folded = dict[str, list[tuple[Any, ...]]]


class AllRows(Rows):
    """Rows of which every group counts as loaded: nothing lies in a database behind them."""

    def _group(self, table: Table[Any], group: Key) -> dict[Key, Any]:
        return self._groups.setdefault((table.name, group), {})

    def folded(self) -> Folded:
        """All rows by table; appended ones in the order in which they came."""
        found: Folded = {}
        for (name, _), group in self._groups.items():
            found.setdefault(name, []).extend(group.values())
        for name, appended in self._appended.items():
            found.setdefault(name, []).extend(appended)
        return found


def refold(rules: Rules, stream: Stream) -> Folded:
    """The worker's whole state from the stream, as a rebuild would make it: own facts and others' events."""
    rows = AllRows()
    for standing in stream.accepted:
        for accepted in standing:
            fold(rules, rows, accepted)
    folded = rows.folded()
    return {table.name: folded.get(table.name, []) for table in (*rules.tables, *TABLES)}


def fold(rules: Rules, rows: Rows, accepted: Accepted) -> None:
    """Fold one event where it stands; types that the worker does not read change nothing."""
    event = accepted.event
    if is_own_fact(rules, event):
        fold_own(rules, rows, event, int(event.producer.partition(".")[2]))
    elif event.type in rules.reads or event.type in RUNTIME_READS:
        fold_other(rules, rows, event, accepted.partition)
