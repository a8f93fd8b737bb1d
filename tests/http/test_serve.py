"""A process ends in order: requests first, then what they wait for; and it does not live on with a dead task."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from shared.http.serve import BackgroundDied, PortTaken, serve

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 20

PROGRAM = """
import asyncio, logging
from fastapi import FastAPI
from shared.http.serve import run, serve

asked = asyncio.Event()

class Asked(logging.Handler):
    def emit(self, record):
        asked.set()

logging.getLogger("regulars.serve").addHandler(Asked())
logging.getLogger("regulars.serve").setLevel("INFO")
app = FastAPI()

@app.get("/slow")
async def slow():
    print("request begins", flush=True)
    await asked.wait()
    print("request ends", flush=True)
    return type(asyncio.get_running_loop()).__module__

async def worker(stop):
    await stop.wait()
    print("worker ends", flush=True)

run(serve(app, "127.0.0.1", 0, {"worker": worker}, started=lambda port: print(port, flush=True)))
print("left", flush=True)
"""


async def test_on_sigterm_the_running_request_is_answered_then_the_worker_ends_then_the_process() -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS), httpx.AsyncClient() as client:
            assert program.stdout is not None
            port = int(await program.stdout.readline())
            request = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/slow"))
            assert await program.stdout.readline() == b"request begins\n"
            program.send_signal(signal.SIGTERM)
            answer = await request
            said, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
    assert (answer.status_code, answer.json()) == (200, "uvloop")
    assert said.decode().splitlines() == ["request ends", "worker ends", "left"]
    assert program.returncode == 0


@pytest.mark.parametrize("fault", [OSError("disk full"), None])
async def test_a_background_task_that_ends_by_itself_ends_the_process_and_the_others(fault: OSError | None) -> None:
    ended = []

    async def dies(_: asyncio.Event) -> None:
        if fault:
            raise fault

    async def lives(stop: asyncio.Event) -> None:
        await stop.wait()
        ended.append("lives")

    with pytest.raises(BackgroundDied, match="relay ended by itself") as raised:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await serve(FastAPI(), "127.0.0.1", 0, {"worker": lives, "relay": dies})
    assert raised.value.__cause__ is fault
    assert ended == ["lives"]


async def test_a_task_that_does_not_end_in_time_is_cut_off() -> None:
    cut_off = asyncio.Event()

    async def dies(_: asyncio.Event) -> None:
        return

    async def stubborn(_: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cut_off.set()

    background = {"relay": dies, "stubborn": stubborn}
    with pytest.raises(BackgroundDied):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await serve(FastAPI(), "127.0.0.1", 0, background, background_end_seconds=0.01)
    assert cut_off.is_set()


async def test_an_address_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTaken, match="is taken: end what has it"):
        await serve(FastAPI(), "127.0.0.1", taken.getsockname()[1])
