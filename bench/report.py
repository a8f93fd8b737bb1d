"""The run as a table for people and one line of JSON for machines."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.measures import Figure, as_json

SHOWN: Final = ("server", "bare server", "postgres", "kafka", "client")
MICROSECONDS: Final = 1e6


def ratios(figures: Sequence[Figure]) -> dict[str, float]:
    """Each figure as a part of its bare floor; for latencies, how many times the floor."""
    by_name = {each.name: each for each in figures}
    pairs = [
        ("door", "bare append"),
        ("door", "bare answer"),
        ("door to ledger", "bare append"),
        ("door to ledger", "bare copy"),
    ]
    pairs += [(name, name.replace("redemption", "bare answer")) for name in by_name if name.startswith("redemption")]
    return {f"{one} / {floor}": round(by_name[one].value / by_name[floor].value, 4) for one, floor in pairs}


def show(console: Console, figures: Sequence[Figure], about: Mapping[str, Any]) -> None:
    """The table, the ratios and the line of JSON, which comes last."""
    processes = [name for name in SHOWN if any(name in each.cpu_seconds for each in figures)]
    table = Table("Figure", "Value", "", "Events", *(f"CPU s {name}" for name in processes), "CPU us/event", "Also")
    for each in figures:
        spent = sum(each.cpu_seconds.values())
        table.add_row(
            each.name,
            f"{each.value:,.2f}" if each.value < 100 else f"{each.value:,.0f}",
            each.unit,
            f"{each.events:,}",
            *(f"{each.cpu_seconds[name]:.2f}" if name in each.cpu_seconds else "" for name in processes),
            f"{spent / each.events * MICROSECONDS:,.0f}" if each.cpu_seconds else "",
            ", ".join(f"{name} {value:g}" for name, value in each.facts.items()),
        )
    console.print(table)
    found = ratios(figures)
    floors = Table("Against its floor of the same run", "Ratio")
    for name, ratio in found.items():
        floors.add_row(name, f"{ratio:g}")
    console.print(floors)
    print(json.dumps({**about, "figures": as_json(figures), "ratios": found}))
