"""Crashable processes on a `SimLoop`: what runs in one can be killed between any two of its awaits.

A killed process is gone as after kill -9: none of its steps ever runs again, not even a `finally`. What outlives it is
told by `at_death`: a store rolls back its open transactions and frees their locks, a caller's connection breaks.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, NoReturn, TypeVar

from shared.testing.simulator.loop import OWNER, SimLoop, SimTask
from shared.testing.simulator.plan import Faults, Kind

T = TypeVar("T")


class ProcessDied(Exception):
    """The process that was asked died before it answered; what it did is unknown."""


class Process:
    """One process of a run. A restart is a new Process under a new name."""

    def __init__(self, loop: SimLoop, name: str, faults: Faults) -> None:
        self.name = name
        self.alive = True
        self.stalled_until = 0.0
        self.failure: Exception | None = None
        """What ended one of its tasks, and so the process, if it was no kill."""
        self._loop = loop
        self._faults = faults
        self._at_death: list[Callable[[], None]] = []
        self._context = copy_context()
        self._context.run(OWNER.set, self)

    def start(self, coro: Coroutine[Any, Any, object], name: str = "main") -> SimTask[None]:
        """Run a task in this process. A task that fails ends the process, and `failure` says why."""
        return self._loop.create_task(self._guard(coro), name=name, context=self._context.copy())

    async def ask(self, coro: Coroutine[Any, Any, T], name: str = "asked") -> T:
        """Run one call in this process and return its answer to a caller outside it.

        Raises what the call raises, and ProcessDied when the process dies first.
        """
        if not self.alive:
            coro.close()
            raise ProcessDied(self.name)
        answer: asyncio.Future[T] = self._loop.create_future()

        async def answering(called: Coroutine[Any, Any, T]) -> None:
            try:
                given = await called
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(given)

        def hang_up() -> None:
            if not answer.done():
                answer.set_exception(ProcessDied(self.name))

        self._at_death.append(hang_up)
        task = self._loop.create_task(answering(coro), name=name, context=self._context.copy())
        try:
            return await answer
        finally:
            self._at_death.remove(hang_up)
            if not task.done():
                task.cancel()

    def at_death(self, told: Callable[[], None]) -> None:
        """Call `told` once, at the instant of death, in the name of whoever outlives the process."""
        self._at_death.append(told)

    def kill(self) -> None:
        """Die now. Called from one of its own tasks, it does not stop that task before its next await."""
        if not self.alive:
            return
        self.alive = False
        self._loop.note(f"{self.name} dies")
        for told in list(self._at_death):
            told()

    def stall(self, seconds: float) -> None:
        """Stand still for so many virtual seconds: nothing in it runs, its timers go off late."""
        self.stalled_until = max(self.stalled_until, self._loop.time() + seconds)
        self._loop.note(f"{self.name} stands still for {seconds:.1f} s")

    async def point(self, name: str) -> None:
        """A place where the plan may let others run, break the connection, or end this process."""
        if not self.alive:
            await self._never()
        step = self._faults.at(name)
        self._loop.note(f"{self.name} {name} {step.kind.name}")
        match step.kind:
            case Kind.GO:
                return
            case Kind.YIELD:
                await asyncio.sleep(0)
            case Kind.DELAY:
                await asyncio.sleep(step.seconds)
            case Kind.STALL:
                self.stall(step.seconds)
                await asyncio.sleep(0)
            case Kind.FAIL:
                assert step.failure is not None
                raise step.failure
            case Kind.KILL:
                self.kill()
                await self._never()

    async def _never(self) -> NoReturn:
        """Wait for what does not come. While the run's remains are buried it raises instead."""
        if asyncio._get_running_loop() is not self._loop:
            raise ProcessDied(self.name)
        await self._loop.create_future()
        raise AssertionError("a dead process was woken")

    async def _guard(self, coro: Coroutine[Any, Any, object]) -> None:
        try:
            await coro
        except Exception as error:
            if self.alive and not self._loop.is_closed():
                self.failure = error
                self._loop.note(f"{self.name} fails: {type(error).__name__}: {error}")
                self.kill()
