"""An asyncio event loop whose time is virtual and whose order is drawn from a seed.

`SimLoop` takes the next step at random among all that are ready, jumps to the next timer when none is, and never
sleeps, opens a socket or starts a thread. The same seed and the same code give the same run to the last step, whatever
PYTHONHASHSEED is: tasks and futures hash by their number, so that sets of them iterate alike.

A step belongs to the process (`shared.testing.simulator.processes`) in whose context it was asked for. Steps of a dead
process are dropped, steps of a stalled one wait: that is how kill -9 and SIGSTOP look from inside one loop.
"""

import asyncio
import gc
import heapq
import inspect
import random
import threading
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, Protocol, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The wall clock at virtual second 0."""
STEPS_MAX: Final = 1_000_000
NOTES_KEPT: Final = 60
REPORT_TASKS_MAX: Final = 40
CLOSINGS_MAX: Final = 100


class SimulationStuck(Exception):
    """
    SimulationStuck
    ├── Deadlock        nothing is ready and no timer is set, but the run is not over
    └── StepsExceeded   more steps than allowed: something spins, or waits by polling for what never comes

    The message lists the tasks that wait, each with the line it waits at, and the last notes.
    """


class Deadlock(SimulationStuck): ...


class StepsExceeded(SimulationStuck): ...


class Crashable(Protocol):
    """What the loop asks of the process that a step belongs to."""

    name: str
    alive: bool
    stalled_until: float
    """Virtual seconds; no step of the process runs before."""


OWNER: Final[ContextVar[Crashable | None]] = ContextVar("simulated process", default=None)


class SimTask(asyncio.Task[T]):
    """A task that hashes by its number and knows its process."""

    _log_destroy_pending: bool

    def __init__(self, coro: Any, loop: "SimLoop", name: str, number: int, context: Context | None) -> None:
        self.number = number  # before the base class registers the task in a set
        self.owner = OWNER.get() if context is None else context.get(OWNER)
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[T]):
    """A future that hashes by its number."""

    def __init__(self, loop: "SimLoop", number: int) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """One seeded run. `trace` is a checksum of every choice and note so far: equal traces are equal runs."""

    def __init__(self, seed: int | str, *, steps_max: int = STEPS_MAX) -> None:
        super().__init__()
        self.steps = 0
        self.trace = 0
        self.notes: deque[str] = deque(maxlen=NOTES_KEPT)
        self._random = random.Random(f"{seed}/order")
        self._steps_max = steps_max
        self._seconds = 0.0
        self._count = 0
        self._next: list[tuple[asyncio.Handle, Crashable | None]] = []
        self._timers: list[tuple[float, int, asyncio.Handle, Crashable | None]] = []
        self._cancelled_timers = 0
        self._tasks: list[SimTask[Any]] = []
        self._tasks_swept = 0

    def time(self) -> float:
        """Virtual seconds since the run began."""
        return self._seconds

    def now(self) -> datetime:
        """The virtual wall clock in UTC."""
        return EPOCH + timedelta(seconds=self._seconds)

    def note(self, text: str) -> None:
        """Remember what happens now, for reports and for the trace."""
        self.notes.append(text)
        self.trace = zlib.crc32(text.encode(), self.trace)

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._check_open()
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._next.append((handle, context.get(OWNER)))
        return handle

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._seconds + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        self._check_open()
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._push(when, handle, context.get(OWNER))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a simulated run has one thread; a second one would not be repeatable")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> NoReturn:  # noqa: ARG002
        raise RuntimeError("a simulated run has no threads; do not call run_in_executor or to_thread in it")

    def create_future(self) -> SimFuture[Any]:
        return SimFuture(self, self._number())

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> SimTask[T]:
        """Make a task. The loop holds it strongly, so that no collection ends a waiting one at a random time."""
        self._check_open()
        number = self._number()
        called = f"task-{number}" if name is None else str(name)
        task: SimTask[T] = SimTask(coro, self, called, number, context)
        if len(self._tasks) > 2 * self._tasks_swept + 100:
            self._tasks = [held for held in self._tasks if not held.done()]
            self._tasks_swept = len(self._tasks)
        self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Note what asyncio would log: an exception that nobody asked for."""
        if not self.is_closed():
            self.note(f"{context.get('message')} {context.get('exception')!r}")

    def report(self) -> str:
        """Who waits where, and the last notes."""
        alive = [task for task in self._tasks if not task.done() and (task.owner is None or task.owner.alive)]
        lines = [f"virtual second {self._seconds:.3f}, step {self.steps}, {len(alive)} tasks wait:"]
        lines += [f"  {_place_of(task)}" for task in alive[:REPORT_TASKS_MAX]]
        if len(alive) > REPORT_TASKS_MAX:
            lines.append(f"  and {len(alive) - REPORT_TASKS_MAX} more")
        return "\n".join([*lines, "last notes:", *(f"  {text}" for text in self.notes)])

    def bury(self) -> None:
        """Close the coroutines of all unfinished tasks, so that what they hold is freed without a word.

        Call it when the run is over and its contents were judged: cleaning up in `finally` runs here.
        """
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False
                _close(task.get_coro())
        self._tasks.clear()

    def close(self) -> None:
        super().close()
        self._next.clear()
        self._timers.clear()
        self.bury()

    def _run_once(self) -> None:
        if not self._next:
            self._advance()
        self.steps += 1
        if self.steps > self._steps_max:
            raise StepsExceeded(f"more than {self._steps_max} steps\n{self.report()}")
        ready = self._next
        chosen = int(self._random.random() * len(ready))
        ready[chosen], ready[-1] = ready[-1], ready[chosen]
        handle, owner = ready.pop()
        if handle.cancelled():
            return
        if owner is not None:
            if not owner.alive:
                return
            if owner.stalled_until > self._seconds:
                self._push(owner.stalled_until, handle, owner)
                return
        self.trace = (self.trace * 31 + chosen + 1) & 0xFFFFFFFF
        handle._run()

    def _advance(self) -> None:
        """Jump to the earliest timer that counts, and make all of that instant ready."""
        timers = self._timers
        while timers and self._dropped(timers[0]):
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(f"nothing is ready and no timer is set\n{self.report()}")
        self._seconds = max(self._seconds, timers[0][0])
        while timers and timers[0][0] <= self._seconds:
            _, _, handle, owner = heapq.heappop(timers)
            self._next.append((handle, owner))

    @staticmethod
    def _dropped(timer: tuple[float, int, asyncio.Handle, Crashable | None]) -> bool:
        return timer[2].cancelled() or (timer[3] is not None and not timer[3].alive)

    def _push(self, when: float, handle: asyncio.Handle, owner: Crashable | None) -> None:
        heapq.heappush(self._timers, (when, self._number(), handle, owner))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:  # noqa: ARG002 - asyncio's hook
        self._cancelled_timers += 1
        if self._cancelled_timers > 100 and self._cancelled_timers * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if not self._dropped(timer)]
            heapq.heapify(self._timers)
            self._cancelled_timers = 0

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("the simulated loop is closed")

    def _number(self) -> int:
        self._count += 1
        return self._count


async def elapse(seconds: float = 0) -> None:
    """Let virtual time pass; with 0, let others run. Nothing really waits."""
    await asyncio.sleep(seconds)


def simulate(seed: int | str, main: Callable[[SimLoop], Coroutine[Any, Any, T]], *, steps_max: int = STEPS_MAX) -> T:
    """Run `main(loop)` to its end on a loop of its own and return its result.

    Raises Deadlock or StepsExceeded, and whatever `main` raises. Garbage is collected after the run only.
    """
    collecting = gc.isenabled()
    gc.disable()
    loop = SimLoop(seed, steps_max=steps_max)
    try:
        return loop.run_until_complete(main(loop))
    finally:
        loop.close()
        if collecting:
            gc.enable()


def _place_of(task: SimTask[Any]) -> str:
    """The task's name and the innermost line it waits at."""
    waits: Any = task.get_coro()
    where = "not begun"
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None) or getattr(waits, "ag_frame", None)
        if frame is not None:
            where = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)
    owner = "" if task.owner is None else f"{task.owner.name}: "
    return f"{owner}{task.get_name()} at {where}"


def _close(coro: Any) -> None:
    """End a coroutine whatever its clean-up does; one that awaits in it is closed again.

    One that has not begun is closed with the coroutines that it was given to await.
    """
    if inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED and coro.cr_frame:
        for given in coro.cr_frame.f_locals.values():
            if inspect.iscoroutine(given):
                _close(given)
    for _ in range(CLOSINGS_MAX):
        try:
            coro.close()
        except RuntimeError:
            continue
        except BaseException:
            return
        return
