"""Many calls as few, each answered by one that began after it."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from shared.gathered import Gathered


class Asked:
    """Answers with ten times the key, one call after the other, when it is let."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.let = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.calls.append(sorted(keys))
        await self.let.wait()
        if self.error is not None:
            raise self.error
        return {key: 10 * key for key in keys}


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_while_a_call_runs_makes_up_the_next() -> None:
    asked = Asked()
    gathered = Gathered(asked, "test")
    first = asyncio.create_task(gathered.of(1))
    await turns()
    later = [asyncio.create_task(gathered.of(key)) for key in (2, 3, 1, 2)]
    await turns()
    asked.let.set()
    assert await first == 10
    assert [await task for task in later] == [20, 30, 10, 20]
    assert asked.calls == [[1], [1, 2, 3]]


async def test_an_error_is_raised_to_all_of_its_call_and_the_next_call_is_made() -> None:
    asked = Asked()
    gathered = Gathered(asked, "test")
    asked.error = ValueError("away")
    asked.let.set()
    found = await asyncio.gather(gathered.of(1), gathered.of(2), return_exceptions=True)
    assert [str(error) for error in found] == ["away", "away"]
    asked.error = None
    assert await gathered.of(1) == 10


async def test_one_who_gives_up_harms_nobody_and_closing_cancels_the_rest() -> None:
    asked = Asked()
    gathered = Gathered(asked, "test")
    tasks = [asyncio.create_task(gathered.of(key)) for key in (1, 1, 2)]
    await turns()
    tasks[0].cancel()
    await turns()
    asked.let.set()
    assert await tasks[1] == 10
    asked.let.clear()
    last = asyncio.create_task(gathered.of(3))
    await turns()
    waits = asyncio.create_task(gathered.of(4))
    await turns()
    await gathered.close()
    for task in (last, waits):
        with pytest.raises(asyncio.CancelledError):
            await task
