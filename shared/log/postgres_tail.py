"""The newest records of the embedded log in memory: what this process appended or read last, so that all of its
readers at the end of a partition take it from here and not each from the database.

Only what the database has acknowledged is here, and only in runs without a gap, so a run says what a query would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.log.port import Record
from shared.log.postgres_watch import Extent, Place

RUN_BYTES_MAX: Final = 2 * 1024 * 1024
"""Of keys and values of one partition; a reader that is further behind asks the database."""


@dataclass
class _Run:
    """Records whose offsets follow each other from `first`."""

    first: int
    records: list[Record]
    size_bytes: int = 0

    @property
    def end(self) -> int:
        return self.first + len(self.records)

    def extend(self, records: Sequence[Record]) -> None:
        self.records += records
        self.size_bytes += _size(records)
        while self.size_bytes > RUN_BYTES_MAX:
            gone = -(-len(self.records) // 2)
            self.size_bytes -= _size(self.records[:gone])
            self.first += gone
            del self.records[:gone]


class Tail:
    """One run of records for each place."""

    def __init__(self) -> None:
        self._runs: dict[Place, _Run] = {}

    def add(self, place: Place, records: Sequence[Record]) -> None:
        """Take in dense records: behind the run, or in its place where they go further; older ones are not kept."""
        if not records:
            return
        run, first = self._runs.get(place), records[0].offset
        if run is None or (first != run.end and first + len(records) > run.end):
            run = self._runs[place] = _Run(first, [])
        if first == run.end:
            run.extend(records)

    def take(self, place: Place, position: int, most: int) -> Sequence[Record]:
        """Up to `most` records from `position`; none when the database must be asked."""
        run = self._runs.get(place)
        if run is None or not run.first <= position < run.end:
            return ()
        return run.records[position - run.first : position - run.first + most]

    def forget_outside(self, place: Place, extent: Extent) -> None:
        """The partition is what `extent` says: a run that goes further is trimmed, or of a database that is no more."""
        run = self._runs.get(place)
        if run is not None and not extent.start <= run.first <= run.end <= extent.end:
            del self._runs[place]

    def forget_all(self) -> None:
        """A connection was lost: the database that comes back may be another one."""
        self._runs.clear()


def _size(records: Sequence[Record]) -> int:
    return sum(len(record.key) + len(record.value or b"") for record in records)
