"""Everybody who asks: requests with a key, repeated until they are answered, and reads after the answers.

Each call goes to any API process that lives; a read goes to another one than has just answered.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NoReturn, TypeVar

from shared.events.envelope import Event, encode
from shared.log.port import At, LogError, inbox, partition_of
from shared.runtime.front import Asked
from shared.runtime.state import RequestRow
from shared.runtime.store import StoreError
from shared.testing.simulator.laws import Answer, Read, check_answer
from shared.testing.simulator.loop import elapse
from shared.testing.simulator.outcome import Outcome
from shared.testing.simulator.processes import ProcessDied
from shared.testing.simulator.stream import LawBroken, enforce
from shared.testing.simulator.world import Api, World

T = TypeVar("T")
WAIT_SECONDS: Final = 5.0
TRIES_MAX: Final = 200
RECALL_CHANCE: Final = 0.3


@dataclass
class Callers:
    """What they were told, for the laws."""

    world: World
    draw: Random
    answers: list[Answer] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    conflicts: int = 0

    async def ask(self, name: str, worker: str, event: Event) -> tuple[Answer, RequestRow]:
        """Ask until there is an outcome, and hold the answer against the log (law 2)."""
        for _ in range(TRIES_MAX):
            if self.draw.random() < RECALL_CHANCE:
                value, asked = b"", await self._recalled(worker, event)
            else:
                value, asked = encode(event), await self.insist(worker, lambda api: api.front.ask(event, WAIT_SECONDS))
            if asked is None:
                continue
            at = At(inbox(worker), asked.partition)
            if asked.partition != partition_of(event.tenant, event.subject, self.world.plan.partitions):
                value = b""  # decided on another contact's partition
            answer = Answer(worker, event.tenant, event.request_key, at, asked.offset, value)
            if asked.outcome is None:
                self._told(name, answer)
                continue
            answer = answer._replace(event_id=asked.outcome.event_id, outcome=asked.outcome.outcome)
            self._told(name, answer)
            self.conflicts += asked.outcome.body_hash != event.request_hash
            return answer, asked.outcome
        return self.unanswered(f"{name} was not answered about {event.request_key} of {event.tenant}")

    async def _recalled(self, worker: str, event: Event) -> Asked | None:
        """As one who asked before and lost the answer."""
        asked = await self.insist(worker, lambda api: api.front.recall(event.tenant, event.request_key, WAIT_SECONDS))
        return asked if asked is not None and asked.published else None

    def _told(self, name: str, answer: Answer) -> None:
        self.world.look()
        enforce(check_answer(self.world.stream, self.world.log.records, answer), f"when {name} was answered")
        self.answers.append(answer)

    async def read_after(
        self,
        name: str,
        answer: Answer,
        subject: str,
        seen: Callable[[Api], Coroutine[Any, Any, tuple[frozenset[str], int]]],
    ) -> None:
        """Read what `seen` shows, events and a version that never goes back, after the answer's position (law 7)."""

        async def read(api: Api) -> tuple[frozenset[str], int] | None:
            until = {answer.at.partition: answer.offset + 1}
            if not await api.front.wait(inbox=until, events={}, wait_seconds=WAIT_SECONDS):
                return None
            return await seen(api)

        found = await self.insist(answer.worker, read)
        if found is not None:
            must = frozenset({answer.event_id})
            self.reads.append(Read(f"{name} of {answer.worker}", answer.tenant, subject, must, *found))

    async def insist(self, worker: str, call: Callable[[Api], Coroutine[Any, Any, T]]) -> T:
        """Ask any API process, again while connections break."""
        for _ in range(TRIES_MAX):
            api = self.draw.choice(self.world.apis[worker])
            try:
                return await api.process.ask(call(api))
            except (ProcessDied, StoreError, LogError):
                await elapse(self.draw.choice((0.1, 1.0, 3.0)))
        return self.unanswered(f"no API process of {worker} answered")

    def outcome(self, trace: int) -> Outcome:
        """What the run showed, when all was judged."""
        world = self.world
        return Outcome(
            world.plan,
            trace,
            world.loop.steps,
            world.loop.time(),
            world.faults.tally,
            world.tallied(),
            sum(len(standing) for standing in world.stream.accepted),
            len(self.answers),
            len(self.reads),
            world.stream.repeated,
            self.conflicts,
            {worker: world.rows(worker) for worker in world.stores},
        )

    def unanswered(self, what: str) -> NoReturn:
        troubles = [*self.world.troubles(), *self.world.lag()]
        listed = "\n".join(f"  law {breach.law}: {breach.what}" for breach in troubles)
        raise LawBroken(f"{what} in {TRIES_MAX} tries\n{listed}\n{self.world.loop.report()}")
