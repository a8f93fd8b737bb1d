"""Crashable processes: kill -9, SIGSTOP, lost connections, and the plans that place them."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from shared.log.port import AppendFailed, LogUnavailable
from shared.runtime.store import StoreUnavailable
from shared.testing.simulator.loop import SimLoop, elapse, simulate
from shared.testing.simulator.plan import LEASE_SECONDS, Faults, Kind, Plan, Tally, connection_lost, plan_of
from shared.testing.simulator.processes import Process, ProcessDied

Main = Callable[[SimLoop], Coroutine[Any, Any, Any]]


def calm(loop: SimLoop, name: str = "toy-1") -> Process:
    return Process(loop, name, Faults(Plan(0)))


def test_nothing_of_a_killed_process_runs_again_not_even_a_finally() -> None:
    ran: list[str] = []

    async def main(loop: SimLoop) -> None:
        process = calm(loop)

        async def child() -> None:
            await elapse(5)
            ran.append("child")

        async def work() -> None:
            task = asyncio.create_task(child())
            try:
                async with asyncio.timeout(3):
                    await task
            finally:
                ran.append("finally")

        process.start(work())
        await elapse(1)
        process.kill()
        await elapse(100)
        assert ran == []

    simulate(1, main)


def test_a_process_killed_at_a_point_by_its_own_task_stops_there() -> None:
    ran: list[str] = []

    async def main(loop: SimLoop) -> None:
        process = Process(loop, "toy-1", Faults(Plan(0, crash_at="second", crash_visit=2)))

        async def work() -> None:
            for turn in range(5):
                await process.point("first")
                await process.point("second")
                ran.append(f"turn {turn}")

        process.start(work())
        await elapse(1)
        assert not process.alive
        assert process.failure is None

    simulate(1, main)
    assert ran == ["turn 0"]


def test_those_who_outlive_a_process_are_told_once() -> None:
    told: list[str] = []

    async def main(loop: SimLoop) -> None:
        process = calm(loop)
        process.at_death(lambda: told.append("store"))
        process.kill()
        process.kill()

    simulate(1, main)
    assert told == ["store"]


def test_a_caller_hears_the_answer_the_error_or_the_death() -> None:
    async def main(loop: SimLoop) -> list[str]:
        process, heard = calm(loop), []

        async def answers() -> str:
            await elapse(1)
            return "answer"

        async def fails() -> str:
            raise LookupError("no such thing")

        heard.append(await process.ask(answers()))
        for call in (fails, answers):
            if call is answers:
                loop.call_later(0.5, process.kill)
            try:
                await process.ask(call())
            except (LookupError, ProcessDied) as error:
                heard.append(f"{type(error).__name__}: {error}")
        with pytest.raises(ProcessDied):
            await process.ask(answers())
        return heard

    assert simulate(1, main) == ["answer", "LookupError: no such thing", "ProcessDied: toy-1"]


def test_a_stalled_process_stands_still_and_goes_on_late_while_others_run() -> None:
    async def main(loop: SimLoop) -> dict[str, list[float]]:
        ticks: dict[str, list[float]] = {"a": [], "b": []}
        processes = {name: calm(loop, name) for name in ticks}

        async def tick(name: str) -> None:
            for _ in range(4):
                await elapse(1)
                ticks[name].append(loop.time())

        for name, process in processes.items():
            process.start(tick(name))
        await elapse(1.5)
        processes["a"].stall(30)
        await elapse(60)
        return ticks

    assert simulate(1, main) == {"a": [1, 31.5, 32.5, 33.5], "b": [1, 2, 3, 4]}


def test_a_task_that_fails_ends_its_process() -> None:
    async def main(loop: SimLoop) -> Process:
        process = calm(loop)

        async def fails() -> None:
            raise LookupError("why")

        process.start(fails())
        await elapse(1)
        return process

    process = simulate(1, main)
    assert not process.alive
    assert str(process.failure) == "why"


def test_a_lost_connection_raises_what_the_real_one_would() -> None:
    draw = Random(0)
    assert isinstance(connection_lost("log.append.durable", draw), AppendFailed)
    assert isinstance(connection_lost("log.take", draw), LogUnavailable)
    assert isinstance(connection_lost("store.commit", draw), StoreUnavailable)
    assert connection_lost("batch.7", draw) is None


def test_faults_stay_within_their_limits_and_end_when_healed() -> None:
    plan = Plan(5, crash_chance=0.2, crashes_max=3, fail_chance=0.2, fails_max=4, stall_chance=0.2, stalls_max=2)
    faults = Faults(plan)
    steps = [faults.at(f"store.{number % 3}") for number in range(1000)]
    kinds = [step.kind for step in steps]
    assert (kinds.count(Kind.KILL), kinds.count(Kind.FAIL), kinds.count(Kind.STALL)) == (3, 4, 2)
    assert all(step.seconds > LEASE_SECONDS for step in steps if step.kind is Kind.STALL)
    healing = Faults(Plan(5, crash_chance=0.5, crashes_max=99, drop_chance=1.0, yield_chance=0.5))
    assert healing.drops()
    healing.heal()
    assert {healing.at("store.a").kind for _ in range(100)} == {Kind.GO, Kind.YIELD}
    assert not healing.drops()


def test_the_same_seed_breaks_the_same_things() -> None:
    def run(seed: int) -> list[Kind]:
        faults = Faults(Plan(seed, crash_chance=0.01, crashes_max=9, fail_chance=0.02, fails_max=9, yield_chance=0.3))
        return [faults.at(f"store.{number % 7}").kind for number in range(500)]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_plans_cover_every_size_and_every_kind_of_trouble() -> None:
    plans = [plan_of(seed) for seed in range(300)]
    assert {plan.workers for plan in plans} == {1, 2, 3}
    assert {plan.partitions for plan in plans} == {1, 2, 12}
    assert {plan.batch_max for plan in plans} == {1, 7, 1000}
    assert plan_of(3) == plan_of(3)
    for trouble in ("crash_chance", "fail_chance", "stall_chance", "drop_chance", "delay_chance"):
        share = sum(getattr(plan, trouble) > 0 for plan in plans) / len(plans)
        assert 0.3 < share < 1
    assert any(plan.crash_chance == plan.fail_chance == plan.stall_chance == plan.drop_chance == 0 for plan in plans)


def test_a_tally_names_the_points_at_which_nobody_died_yet() -> None:
    first, second = Faults(Plan(0, crash_at="b")), Faults(Plan(0))
    for faults in (first, second):
        for point in ("a", "b", "b"):
            faults.at(point)
    total = Tally()
    total.add(first.tally)
    total.add(second.tally)
    assert total.passed == {"a": 2, "b": 4}
    assert total.unhit() == ["a"]
