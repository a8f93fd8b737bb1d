"""Starts the processes of a round, kills and stops them as their cards say, and starts them again at once."""

import asyncio
import multiprocessing
import os
import signal
import socket
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from threading import Lock
from typing import Final

from shared.settings import Settings
from tests.crash.acts import Switch, Tally
from tests.crash.cards import Card, deck_of
from tests.crash.notes import Defect
from tests.crash.process import LEASE_SECONDS, NOT_YET, Life, PartName, live
from tests.crash.tables import connected
from tests.crash.waiting import passed

SLOTS: Final[dict[str, PartName]] = {
    "door-1": "door",
    "door-2": "door",
    "contacts-1": "contacts",
    "points-1": "points",
    "points-2": "points",
    "api-1": "api",
}
API_KILLS: Final = 2
LOOK_SECONDS: Final = 0.05
AGAIN_SECONDS: Final = 0.3
END_SECONDS: Final = 40.0
OUTPUT_SHOWN: Final = 6_000
STOP_SECONDS_MAX: Final = 10.0
"""How long a process stands still at the most, whether or not another has taken over."""
SUCCESSOR_SECONDS: Final = 0.8
"""What a successor gets to publish what the stopped one had not."""
LEASED: Final = "select count(*) from leases where owner = $1"


@dataclass
class Slot:
    """One place in the installation: a process, or the next one in its place."""

    name: str
    part: PartName
    lives: int = 0
    process: ForkServerProcess | None = None
    tally: Tally | None = None
    card: Card | None = None
    stops_seen: int = 0
    stopped_at: float | None = None
    taken_over_at: float | None = None
    signals: list[asyncio.TimerHandle] = field(default_factory=list)


class Supervisor:
    """All processes of one round. `deeds` counts what was done to them from outside."""

    def __init__(self, place: Path, settings: Settings, seed: int) -> None:
        self.deeds: Counter[str] = Counter()
        self.defects: list[str] = []
        self.played = asyncio.Event()
        """Set when every card has been dealt and played."""
        self._place, self._settings, self._draw = place, settings, Random(seed)
        self._deck = deck_of(seed)
        self._switch_path = place / "switch"
        self._switch = Switch(self._switch_path)
        self._slots = {name: Slot(name, part) for name, part in SLOTS.items()}
        self._ending = asyncio.Event()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.crash.process"])
        self._asking = Lock()
        """Starting a process asks for the end of all others; of two who ask at once, one is told 255."""
        self._tasks: list[asyncio.Task[None]] = []
        self._healing = False

    def start(self) -> None:
        """Start all processes; nothing happens to them before `arm`."""
        self._tasks = [asyncio.create_task(self._keep(slot), name=slot.name) for slot in self._slots.values()]
        self._tasks.append(asyncio.create_task(self._watch(), name="watch"))

    def arm(self) -> None:
        """From now on the cards are played."""
        self._switch.turn(True)
        for slot in self._slots.values():
            if slot.part == "api":
                self._later(slot, self._draw.uniform(0.5, 4.0), signal.SIGKILL)

    def heal(self) -> None:
        """From now on nothing happens to anybody."""
        self._healing = True
        self._switch.turn(False)
        self._deck.clear()
        for slot in self._slots.values():
            for handle in slot.signals:
                handle.cancel()
            self._send(slot, signal.SIGCONT)

    def show_tasks(self) -> None:
        """Have every worker say what it is at, for a report."""
        for slot in self._slots.values():
            if slot.part != "api":
                self._send(slot, signal.SIGUSR1)

    async def end(self) -> None:
        """Ask all processes to end, and wait until they have. Raises Defect for one that ends badly."""
        self._ending.set()
        for slot in self._slots.values():
            self._send(slot, signal.SIGCONT)
            self._send(slot, signal.SIGTERM)
        await asyncio.wait(self._tasks, timeout=END_SECONDS / 2)
        self.show_tasks()
        _, late = await asyncio.wait(self._tasks, timeout=END_SECONDS / 2)
        for slot in self._slots.values():
            if slot.process is not None and self._alive(slot.process):
                self.defects.append(f"{slot.name} did not end within {END_SECONDS:.0f} s of SIGTERM")
                self._send(slot, signal.SIGKILL)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self._switch.close()
        if self.defects:
            raise Defect("\n".join(self.defects))

    def counted(self) -> Counter[str]:
        """What all lives of all processes counted, and what was done to them."""
        total = Counter(self.deeds)
        for path in sorted(self._place.glob("*.tally")):
            tally = Tally(path)
            total.update(tally.read())
            tally.close()
        return total

    def output(self) -> str:
        """The end of what each process said, for a report."""
        found = []
        for path in sorted(self._place.glob("*.output")):
            if text := path.read_text(errors="replace").strip():
                found.append(f"--- {path.stem}\n{text[-OUTPUT_SHOWN:]}")
        return "\n".join(found)

    async def _keep(self, slot: Slot) -> None:
        """One life after the other."""
        while not self._ending.is_set():
            await self._life(slot)

    async def _life(self, slot: Slot) -> None:
        slot.lives += 1
        slot.card = self._deal(slot)
        slot.stops_seen, slot.stopped_at, slot.taken_over_at = 0, None, None
        acts = slot.card.acts if slot.card else ()
        stem = f"{slot.name}-{slot.lives:03}"
        tally, output = self._place / f"{stem}.tally", self._place / f"{slot.name}.output"
        slot.tally = Tally(tally)
        life = Life(slot.part, self._settings, acts, tally, self._switch_path, output)
        process = self._context.Process(target=live, args=(life,), name=stem, daemon=True)
        died = asyncio.Event()
        await asyncio.to_thread(self._begin, process)
        slot.process = process
        loop = asyncio.get_running_loop()
        loop.add_reader(process.sentinel, died.set)
        if slot.card and slot.card.kill_after is not None:
            self._later(slot, slot.card.kill_after, signal.SIGKILL)
        if slot.card and slot.card.stop_after is not None:
            self._later(slot, slot.card.stop_after, signal.SIGSTOP)
        if self._ending.is_set():
            self._send(slot, signal.SIGTERM)
        try:
            await died.wait()
        finally:
            loop.remove_reader(process.sentinel)
        await self._ended(slot, process)

    def _begin(self, process: ForkServerProcess) -> None:
        with self._asking:
            process.start()

    def _alive(self, process: ForkServerProcess) -> bool:
        with self._asking:
            return process.is_alive()

    async def _ended(self, slot: Slot, process: ForkServerProcess) -> None:
        with self._asking:
            process.join()
            code = process.exitcode
        for handle in slot.signals:
            handle.cancel()
        slot.signals.clear()
        card, slot.process, slot.card = slot.card, None, None
        if slot.tally is not None:
            slot.tally.close()
            slot.tally = None
        if code == NOT_YET:
            if card is not None and slot.part != "api":
                self._deck.put_back(card)
            await self._pause()
        elif code != -signal.SIGKILL and not (code == 0 and self._ending.is_set()):
            self.defects.append(f"{slot.name} ended by itself with exit code {code}")
            await self._pause()

    async def _pause(self) -> None:
        await passed(AGAIN_SECONDS, self._ending)

    def _deal(self, slot: Slot) -> Card | None:
        """The card of a life that begins. Before all is armed, signals from outside would have nothing to hit."""
        if self._healing:
            return None
        if slot.part == "api":
            again = 1 < slot.lives <= API_KILLS
            return Card(kill_after=self._draw.uniform(1.0, 4.0)) if again else None
        twins = [other for other in self._slots.values() if other.part == slot.part and other is not slot]
        may_stop = bool(twins) and not any(other.card and other.card.stops for other in twins)
        return self._deck.deal(may_stop=may_stop, acts_only=not self._switch.on)

    def _later(self, slot: Slot, seconds: float, what: signal.Signals) -> None:
        def do() -> None:
            if self._switch.on and self._send(slot, what):
                self.deeds[f"{'kill' if what == signal.SIGKILL else 'stop'} at any time"] += 1
                if what == signal.SIGSTOP:
                    slot.stopped_at = asyncio.get_running_loop().time()

        slot.signals.append(asyncio.get_running_loop().call_later(seconds, do))

    def _send(self, slot: Slot, what: signal.Signals) -> bool:
        process = slot.process
        if process is None or process.pid is None or not self._alive(process):
            return False
        os.kill(process.pid, what)
        return True

    async def _watch(self) -> None:
        """Wake up who stands still, once another process has all its partitions; say when all cards are played."""
        while not self._ending.is_set():
            for slot in self._slots.values():
                if slot.tally is not None and slot.stopped_at is None and slot.card is not None:
                    stops = sum(n for name, n in slot.tally.read().items() if name.startswith("stop "))
                    if stops > slot.stops_seen:
                        slot.stops_seen, slot.stopped_at = stops, asyncio.get_running_loop().time()
                if slot.stopped_at is not None and self._switch.on:
                    await self._wake(slot, slot.stopped_at)
            in_play = [slot for slot in self._slots.values() if slot.card and slot.part != "api"]
            if self._switch.on and not self._deck and not in_play:
                self.played.set()
            await passed(LOOK_SECONDS, self._ending)

    async def _wake(self, slot: Slot, stopped_at: float) -> None:
        loop = asyncio.get_running_loop()
        stood = loop.time() - stopped_at
        if stood < STOP_SECONDS_MAX and (stood < LEASE_SECONDS or await self._still_leased(slot)):
            return
        if slot.taken_over_at is None:
            slot.taken_over_at = loop.time()
        if loop.time() - slot.taken_over_at >= SUCCESSOR_SECONDS:
            slot.stopped_at = slot.taken_over_at = None
            self._send(slot, signal.SIGCONT)
            self._later(slot, self._draw.uniform(0.5, 1.5), signal.SIGKILL)

    async def _still_leased(self, slot: Slot) -> bool:
        """Whether some partition is still in the name of the process that stands still."""
        assert slot.process is not None
        database = await connected(self._settings.database_url, slot.part)
        try:
            owner = f"{slot.part}@{socket.gethostname()}-{slot.process.pid}"
            return bool(await database.fetchval(LEASED, owner))
        finally:
            await database.close()
