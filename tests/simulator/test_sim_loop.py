"""The simulator's event loop: same seed, same run; time is virtual; nothing real is touched."""

import asyncio
import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from shared.testing.simulator.loop import EPOCH, Deadlock, SimLoop, StepsExceeded, elapse, simulate


async def crowd(loop: SimLoop) -> tuple[list[str], int, int, float]:
    """Three producers and two consumers over every primitive that the runtime uses."""
    seen: list[str] = []
    queue: asyncio.Queue[str] = asyncio.Queue(2)
    lock, full = asyncio.Lock(), asyncio.Event()

    async def produce(name: str) -> None:
        for number in range(4):
            await elapse(0.01 if number % 2 else 0)
            async with lock:
                await queue.put(f"{name}{number}")

    async def consume() -> None:
        while True:
            seen.append(await queue.get())
            if len(seen) == 12:
                full.set()

    async def impatient() -> None:
        try:
            async with asyncio.timeout(0.005):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("timeout")

    consumers = {asyncio.create_task(consume()) for _ in range(2)}
    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(produce(name))
    await impatient()
    await asyncio.wait_for(full.wait(), 5)
    for consumer in consumers:
        consumer.cancel()
    await asyncio.wait(consumers)
    await asyncio.gather(*consumers, return_exceptions=True)
    return seen, loop.steps, loop.trace, loop.time()


def test_the_same_seed_gives_the_same_run_to_the_last_step() -> None:
    assert simulate(7, crowd) == simulate(7, crowd)


def test_other_seeds_give_other_interleavings() -> None:
    orders = {tuple(simulate(seed, crowd)[0]) for seed in range(20)}
    assert len(orders) > 15
    assert all(sorted(order) == sorted(next(iter(orders))) for order in orders)


def test_the_hash_seed_of_the_interpreter_does_not_matter() -> None:
    script = (
        "import asyncio, sys; sys.path.insert(0, 'tests/simulator')\n"
        "from test_sim_loop import crowd\n"
        "from shared.testing.simulator.loop import simulate\n"
        "print(simulate(7, crowd))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {f"{simulate(7, crowd)}\n"}


def test_a_cancelled_group_is_cancelled_in_the_same_order_every_time() -> None:
    async def broken(_loop: SimLoop) -> list[int]:
        ended: list[int] = []

        async def member(number: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(number)

        async def breaks() -> None:
            await elapse(1)
            raise LookupError

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(30):
                    group.create_task(member(number))
                group.create_task(breaks())
        except* LookupError:
            pass
        return ended

    first = simulate(3, broken)
    ballast = [object() for _ in range(1000)]
    assert simulate(3, broken) == first
    assert sorted(first) == list(range(30))
    assert first != sorted(first)
    assert len(ballast) == 1000


def test_a_year_passes_at_once() -> None:
    async def year(loop: SimLoop) -> Any:
        began = time.monotonic()
        await elapse(365 * 86_400)
        return loop.now(), time.monotonic() - began

    now, took_seconds = simulate(1, year)
    assert now == EPOCH + timedelta(days=365)
    assert took_seconds < 1


def test_time_stands_while_something_is_ready() -> None:
    async def busy(loop: SimLoop) -> float:
        timer = asyncio.create_task(elapse(0.001))
        for _ in range(500):
            await elapse(0)
        assert not timer.done()
        timer.cancel()
        return loop.time()

    assert simulate(1, busy) == 0


def test_cancelled_timers_do_not_move_the_time() -> None:
    async def cancels(loop: SimLoop) -> float:
        for _ in range(500):
            await asyncio.wait_for(elapse(0.001), 3600)
        return loop.time()

    assert simulate(1, cancels) < 1


def test_wait_for_and_a_result_at_the_same_instant_go_either_way() -> None:
    async def late(seconds: float) -> str:
        await elapse(seconds)
        return "result"

    async def race(_loop: SimLoop) -> str:
        try:
            return await asyncio.wait_for(late(1), 1)
        except TimeoutError:
            return "timeout"

    assert {simulate(seed, race) for seed in range(20)} == {"result", "timeout"}


def test_a_deadlock_names_the_tasks_and_the_lines_they_wait_at() -> None:
    async def stuck(_loop: SimLoop) -> None:
        held = asyncio.create_task(asyncio.Event().wait(), name="the one who waits")
        await held

    with pytest.raises(Deadlock, match=r"the one who waits at Event\.wait \(locks\.py:\d+\)"):
        simulate(1, stuck)


def test_a_run_that_spins_is_ended_with_a_report() -> None:
    async def spins(loop: SimLoop) -> None:
        loop.note("the last thing that happened")
        while True:
            await elapse(0)

    with pytest.raises(StepsExceeded, match=r"more than 1000 steps[\s\S]*the last thing that happened"):
        simulate(1, spins, steps_max=1000)


def test_threads_are_refused() -> None:
    async def thread(_loop: SimLoop) -> None:
        await asyncio.to_thread(time.monotonic)

    async def resolve(loop: SimLoop) -> None:
        await loop.getaddrinfo("localhost", 80)

    for main in (thread, resolve):
        with pytest.raises(RuntimeError, match="no threads"):
            simulate(1, main)


def test_what_main_raises_comes_out_and_unfinished_tasks_are_buried_silently() -> None:
    closed: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("began to tidy up")
            await elapse(1)
            closed.append("never")

    async def fails(_loop: SimLoop) -> None:
        keep = asyncio.create_task(tidy())
        await elapse(1)
        assert not keep.done()
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        simulate(1, fails)
    assert closed == ["began to tidy up"]


def test_ten_thousand_steps_are_cheap() -> None:
    async def steps(loop: SimLoop) -> int:
        async def walk() -> None:
            for _ in range(1000):
                await elapse(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(walk())
        return loop.steps

    began = time.process_time()
    assert simulate(1, steps) > 10_000
    assert time.process_time() - began < 1
