"""What is sent: batches as fast as they are taken, and single requests at instants fixed ahead."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import httpx

from bench.measures import BenchWrong, Latencies

LATE_SECONDS = 0.005
"""A request that leaves later than this after its instant counts as late: then the client is the bottleneck."""
LEAD_SECONDS = 0.2
ANSWER_SECONDS_MAX = 120.0
LIMITS = httpx.Limits(max_connections=200, max_keepalive_connections=200)

Answered = Callable[[httpx.Response], None]


def opened_client(url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """The bench's client of a server: patient, so that a slow answer is a figure and not an error."""
    return httpx.AsyncClient(base_url=url, headers=headers, limits=LIMITS, timeout=ANSWER_SECONDS_MAX)


async def posted(client: httpx.AsyncClient, path: str, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
    """POST, and once more when the server closed a kept connection just then; all that is sent here may be repeated."""
    try:
        return await client.post(path, content=body, headers=headers)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        return await client.post(path, content=body, headers=headers)


async def send_all(
    client: httpx.AsyncClient,
    path: str,
    bodies: Sequence[bytes],
    at_once: int,
    headers: Mapping[str, str],
    answered: Answered,
) -> None:
    """POST every body, `at_once` at a time in their order. Raises BenchWrong for an answer of 400 or more."""
    waiting = iter(bodies)
    await asyncio.gather(*(_sender(client, path, waiting, headers, answered) for _ in range(at_once)))


async def _sender(
    client: httpx.AsyncClient, path: str, waiting: Iterator[bytes], headers: Mapping[str, str], answered: Answered
) -> None:
    for body in waiting:
        answered(succeeded(await posted(client, path, body, headers)))


async def open_loop(send: Callable[[int], Awaitable[None]], rate: int, seconds: float) -> Latencies:
    """Call `send` at `rate` a second for so long, whether or not earlier ones were answered.

    The instants are fixed ahead and a latency counts from its instant: a server that stalls is not asked less often,
    and what waited for it shows (coordinated omission).
    """
    loop = asyncio.get_running_loop()
    began = loop.time() + LEAD_SECONDS
    taken: list[float] = []
    late = 0

    async def one(nth: int) -> None:
        nonlocal late
        due = began + nth / rate
        await asyncio.sleep(due - loop.time())
        late += loop.time() - due > LATE_SECONDS
        await send(nth)
        taken.append(loop.time() - due)

    await asyncio.gather(*(one(nth) for nth in range(max(1, round(rate * seconds)))))
    return Latencies(taken, late)


def succeeded(answer: httpx.Response) -> httpx.Response:
    if answer.status_code >= 400:
        raise BenchWrong(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}")
    return answer
