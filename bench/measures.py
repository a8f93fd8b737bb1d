"""What is measured: processor seconds by process, latencies, and the figures that a run ends with."""

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

CLIENT: Final = "client"
TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class BenchWrong(Exception):
    """The system did not do what the bench asked for, so there is no figure; the message says what it did."""


@dataclass(frozen=True)
class Processes:
    """The processes whose processor time counts, by name; this one is `client`.

    A root's time includes that of its children, the ended ones too, as /proc/<pid>/stat has it (`man 5 proc`): so all
    of a Postgres server is one number.
    """

    roots: Mapping[str, int]

    def seconds(self) -> dict[str, float]:
        """Processor seconds used so far, user and system."""
        spent = _spent_by_pid()
        found = {CLIENT: time.process_time()}
        for name, root in self.roots.items():
            found[name] = sum(
                seconds for pid, (parent, seconds) in spent.items() if pid == root or parent == root
            ) + _of_ended_children(root)
        return found


def _stat(pid: int) -> list[str]:
    """The fields behind the command's name, which may hold blanks; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _spent_by_pid() -> dict[int, tuple[int, float]]:
    """Parent and own processor seconds of every process."""
    fields = {int(name): _stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {
        pid: (int(stat[1]), (int(stat[11]) + int(stat[12])) / TICKS_PER_SECOND) for pid, stat in fields.items() if stat
    }


def _of_ended_children(pid: int) -> float:
    stat = _stat(pid)
    return (int(stat[13]) + int(stat[14])) / TICKS_PER_SECOND if stat else 0.0


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before.get(name, 0.0) for name in after}


@dataclass(frozen=True)
class Latencies:
    """Of requests at a fixed rate: seconds from the instant each was due, and how many were sent late."""

    seconds: Sequence[float]
    late: int

    def percentile_ms(self, percent: int) -> float:
        """The nearest rank: the smallest latency that `percent` of all do not exceed."""
        ordered = sorted(self.seconds)
        return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] * 1000


@dataclass
class Measured:
    """One measurement of one round."""

    value: float
    cpu_seconds: dict[str, float]
    events: int
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """What a measurement came to: the median of its rounds, and processor seconds of all rounds together."""

    name: str
    value: float
    unit: str
    events: int
    cpu_seconds: Mapping[str, float]
    facts: Mapping[str, float]


def figure(name: str, unit: str, rounds: Sequence[Measured]) -> Figure:
    """Medians over the rounds; `late` is summed."""
    spent: dict[str, float] = {}
    for each in rounds:
        for process, seconds in each.cpu_seconds.items():
            spent[process] = round(spent.get(process, 0.0) + seconds, 3)
    facts = {
        fact: sum(each.facts[fact] for each in rounds)
        if fact == "late"
        else round(statistics.median(each.facts[fact] for each in rounds), 3)
        for fact in rounds[0].facts
    }
    value = round(statistics.median(each.value for each in rounds), 3)
    return Figure(name, value, unit, sum(each.events for each in rounds), spent, facts)


def as_json(figures: Sequence[Figure]) -> dict[str, Any]:
    return {each.name: asdict(each) for each in figures}
