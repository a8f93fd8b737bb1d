"""The run: floors, door, ledger and redemptions in turn, round after round, then the proofs of what they left."""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import orjson

from bench.floors import Floors, opened_floors
from bench.load import open_loop
from bench.measures import BenchWrong, Figure, Latencies, Measured, Processes, difference, figure
from bench.shop import Shop, batches_of, events_of, opened_shop, redemption_body
from bench.system import System
from regulars.cdnow import Order
from shared.operations import Place, places, rebuild_one, verify_one

MEMBERS: Final = 50
"""Members who redeem, so that some redemptions meet on a partition and most do not."""
PROVED: Final = ("door", "points")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    orders: Sequence[Order]
    """Of all rounds together: each round has its own share, so that nothing is a duplicate."""
    rounds: int
    rates: Sequence[int]
    """Redemptions a second."""
    seconds: float
    """Of redemptions at each rate in each round."""

    def share(self, nth: int) -> Sequence[Order]:
        size = len(self.orders) // self.rounds
        return self.orders[nth * size : (nth + 1) * size]


class Run:
    """Measures one system; `figures` are there when it is over."""

    def __init__(self, system: System, plan: Plan, say: Callable[[str], None]) -> None:
        self._system, self._plan, self._say = system, plan, say
        self._rounds: dict[tuple[str, str], list[Measured]] = defaultdict(list)

    def figures(self) -> list[Figure]:
        return [figure(name, unit, rounds) for (name, unit), rounds in self._rounds.items()]

    async def measure(self) -> None:
        """All rounds on the running server; then the server ends and its state is proved. Raises BenchWrong."""
        system, plan = self._system, self._plan
        async with (
            opened_floors(system.database_url, system.log_url, system.bare_url) as floors,
            opened_shop(system.url, system.admin_key) as shop,
        ):
            for nth in range(plan.rounds):
                self._say(f"round {nth + 1} of {plan.rounds}")
                events = events_of(plan.share(nth), datetime.now(UTC))
                bodies = batches_of(events)
                await self._floors(floors, [orjson.dumps(event) for event in events], bodies)
                await self._purchases(shop, bodies, len(events))
                await self._redemptions(shop, floors, nth)
        system.end_server()
        for verb, prove in (("verify", _verified), ("rebuild", _rebuilt)):
            self._say(verb)
            for place in places(system.parts, PROVED):
                await self._proof(verb, place, prove)

    async def _floors(self, floors: Floors, values: Sequence[bytes], bodies: Sequence[bytes]) -> None:
        await self._rate("bare append", len(values), lambda: floors.append(values))
        await self._rate("bare copy", len(values), lambda: floors.copy(values))
        await self._rate("bare answer", len(values), lambda: floors.answer(bodies))

    async def _rate(self, name: str, events: int, work: Callable[[], Awaitable[float]]) -> None:
        before = self._system.processes.seconds()
        seconds = await work()
        spent = difference(self._system.processes.seconds(), before)
        self._rounds[name, "events/s"].append(Measured(events / seconds, spent, events))

    async def _purchases(self, shop: Shop, bodies: Sequence[bytes], events: int) -> None:
        before = self._system.processes.seconds()
        accepted, applied = await shop.buy(bodies)
        spent = difference(self._system.processes.seconds(), before)
        self._rounds["door", "events/s"].append(Measured(events / accepted, {}, events))
        self._rounds["door to ledger", "purchases/s"].append(Measured(events / applied, spent, events))

    async def _redemptions(self, shop: Shop, floors: Floors, nth: int) -> None:
        customers = sorted({order.customer for order in self._plan.share(nth)})[:MEMBERS]
        await shop.give(customers)
        bodies = [redemption_body(customer) for customer in customers]
        for rate in self._plan.rates:

            async def bare(place: int) -> None:
                await floors.answer_one(bodies[place % len(bodies)])

            async def redeem(place: int, rate: int = rate) -> None:
                await shop.redeem(bodies[place % len(bodies)], f"{nth}-{rate}-{place}")

            await self._at_rate(f"bare answer at {rate}/s", rate, bare)
            await self._at_rate(f"redemption at {rate}/s", rate, redeem)

    async def _at_rate(self, name: str, rate: int, send: Callable[[int], Awaitable[None]]) -> None:
        before = self._system.processes.seconds()
        taken: Latencies = await open_loop(send, rate, self._plan.seconds)
        spent = difference(self._system.processes.seconds(), before)
        p50, p99 = taken.percentile_ms(50), taken.percentile_ms(99)
        facts = {"p99_ms": p99, "late": float(taken.late)}
        self._rounds[name, "ms p50"].append(Measured(p50, spent, len(taken.seconds), facts))

    async def _proof(self, verb: str, place: Place, prove: Callable[[Place], Awaitable[int]]) -> None:
        processes: Processes = self._system.processes
        before, began = processes.seconds(), time.perf_counter()
        folded = await prove(place)
        seconds = time.perf_counter() - began
        spent = difference(processes.seconds(), before)
        self._rounds[f"{verb} {place.plan.name}", "events/s"].append(Measured(folded / seconds, spent, folded))


async def _verified(place: Place) -> int:
    proof = await verify_one(place)
    if not proof.equal:
        raise BenchWrong(f"{proof.worker} is not equal to its replay: {proof}")
    return proof.events_folded


async def _rebuilt(place: Place) -> int:
    return sum((await rebuild_one(place)).folded.values())
