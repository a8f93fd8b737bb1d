"""Calls of many tasks as few: those that come while one call runs make up the next."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


class Gathered(Generic[K, R]):
    """Asks for one key at a time, through a function that answers for many at once."""

    def __init__(self, ask: Callable[[Sequence[K]], Awaitable[Mapping[K, R]]], name: str) -> None:
        self._ask, self._name = ask, name
        self._waiting: dict[K, list[asyncio.Future[R]]] = {}
        self._running: asyncio.Task[None] | None = None

    async def of(self, key: K) -> R:
        """The answer of a call that began after this one. Raises what the call raised."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name=self._name)
        return await future

    async def close(self) -> None:
        """Those who wait are cancelled."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        _cancel(self._waiting)

    async def _run(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, {}
            try:
                answers = await self._ask(list(asked))
            except asyncio.CancelledError:
                _cancel(asked)
                raise
            except Exception as error:
                for future in _left(asked):
                    future.set_exception(error)
            else:
                for key, futures in asked.items():
                    for future in _left({key: futures}):
                        future.set_result(answers[key])


def _left(asked: "Mapping[K, Sequence[asyncio.Future[R]]]") -> "list[asyncio.Future[R]]":
    """Those that somebody still waits for."""
    return [future for futures in asked.values() for future in futures if not future.done()]


def _cancel(asked: "Mapping[K, Sequence[asyncio.Future[R]]]") -> None:
    for future in _left(asked):
        future.cancel()
