"""Waiting on conditions with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

LOOK_AGAIN_SECONDS = 0.1


async def passed(seconds: float, unless: asyncio.Event) -> None:
    """Return when the time is over, or earlier when the event is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(unless.wait(), seconds)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether the condition came true within this time; it is looked at ten times a second."""
    never = asyncio.Event()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not await condition():
                await passed(LOOK_AGAIN_SECONDS, never)
            return True
    return False
