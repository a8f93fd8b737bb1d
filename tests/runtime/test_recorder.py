"""What was acknowledged is recorded in the end, and one who waits for that hears of a fault."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from shared.runtime.recorder import Recorder
from shared.runtime.store import Acknowledged, Sent, Store, StoreUnavailable


class Notes:
    """The one method of a store that a recorder uses."""

    def __init__(self) -> None:
        self.calls: list[Mapping[int, Acknowledged]] = []
        self.errors: list[Exception] = []

    async def record_sent(self, acknowledged: Mapping[int, Acknowledged]) -> None:
        self.calls.append(acknowledged)
        if self.errors:
            raise self.errors.pop(0)


def made() -> tuple[Notes, Recorder]:
    notes = Notes()
    return notes, Recorder(cast("Store", cast("Any", notes)))


async def test_all_partitions_are_recorded_together_and_only_what_is_new() -> None:
    notes, recorder = made()
    recorder.note(0, {0: Sent(1, 5), 1: Sent(2, 6)}, 3)
    recorder.note(1, {1: Sent(9, 9)}, 1)
    recorder.note(0, {1: Sent(3, 7)}, 4)
    await recorder.flushed(0)
    assert notes.calls == [{0: Acknowledged({0: Sent(1, 5), 1: Sent(3, 7)}, 4), 1: Acknowledged({1: Sent(9, 9)}, 1)}]
    await recorder.flushed(1)
    recorder.note(1, {}, 2)
    await recorder.flushed(1)
    assert notes.calls[1:] == [{1: Acknowledged({}, 2)}]
    await recorder.close()


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_a_fault_is_told_to_who_waits_and_what_was_noted_is_recorded_later(error: Exception) -> None:
    notes, recorder = made()
    notes.errors.append(error)
    recorder.note(0, {0: Sent(1, 5)}, 3)
    with pytest.raises(type(error)):
        await recorder.flushed(0)
    recorder.note(0, {1: Sent(1, 1)}, 2)
    await recorder.flushed(0)
    assert notes.calls[-1] == {0: Acknowledged({0: Sent(1, 5), 1: Sent(1, 1)}, 3)}
    await recorder.close()
