"""What seeds showed, one by one and together."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from shared.testing.simulator.plan import Plan, Tally

NEEDED: Final = ("rolled_back", "suffix_dropped", "stale_refused", "conflicts", "parked")
"""Counters of workers that must have moved over a set of seeds, or the set proves nothing."""


@dataclass
class Outcome:
    """What one seed showed, when no law was broken."""

    plan: Plan
    trace: int
    steps: int
    seconds: float
    """Virtual."""
    tally: Tally
    counters: Counter[str]
    events: int
    answers: int
    reads: int
    repeated: int
    """Records of the stream that were there before."""
    conflicts: int
    """Repeated keys with another body."""
    rows: dict[str, dict[str, list[tuple[Any, ...]]]]
    """The final rows by worker and table."""


class RunSeed(Protocol):
    """One seed's run to its end; raises LawBroken or SimulationStuck."""

    def __call__(self, seed: int, /) -> Outcome: ...


@dataclass
class Totals:
    """Sums over some seeds; small enough to travel between processes."""

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    events: int = 0
    answers: int = 0
    reads: int = 0
    repeated: int = 0
    tally: Tally = field(default_factory=Tally)
    counters: Counter[str] = field(default_factory=Counter)

    def take(self, outcome: Outcome) -> None:
        self.add(
            Totals(
                1,
                outcome.steps,
                outcome.seconds,
                outcome.events,
                outcome.answers,
                outcome.reads,
                outcome.repeated,
                outcome.tally,
                outcome.counters,
            )
        )

    def add(self, other: "Totals") -> None:
        self.seeds += other.seeds
        self.steps += other.steps
        self.seconds += other.seconds
        self.events += other.events
        self.answers += other.answers
        self.reads += other.reads
        self.repeated += other.repeated
        self.tally.add(other.tally)
        self.counters += other.counters

    def void(self) -> list[str]:
        """Why these seeds, clean as they may be, prove too little; empty when they do not."""
        found = [f"no process died at {point}" for point in self.tally.unhit()]
        found += [f"{name} is 0" for name in NEEDED if not self.counters[name]]
        tally = self.tally
        for name, count in (
            ("connections lost", tally.failed.total()),
            ("processes stalled", tally.stalled.total()),
            ("announcements dropped", tally.dropped),
            ("suffixes repeated by a relay", tally.repeated),
            ("workers that left in order", tally.left),
            ("databases lost", tally.lost),
        ):
            if not count:
                found.append(f"{name}: 0")
        return found
