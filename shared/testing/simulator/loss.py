"""Losing a worker's database and making it again from the log, as `regulars rebuild` does (DESIGN §8)."""

from collections.abc import Callable

from shared.log.port import Log
from shared.runtime.replay import Replayed, bounds_of, replay, restarts, survey
from shared.runtime.rules import Rules
from shared.runtime.store import Reached
from shared.testing.memory_log import no_point
from shared.testing.memory_store import MemoryStore, MemoryStoreContent
from shared.testing.simulator.loop import SimLoop


async def rebuilt(
    rules: Rules, log: Log, loop: SimLoop, partitions: int, drops: Callable[[Reached], bool]
) -> tuple[MemoryStoreContent, Replayed]:
    """A database made of the stream alone, and what was folded."""
    content = MemoryStoreContent(drops)
    store = MemoryStore(content, rules.worker, rules.tables, loop.now, no_point)
    found = await survey(rules, log, partitions)
    done = await replay(rules, log, store, partitions, bounds_of(found), found.letters)
    for restart in restarts(rules, found, done, partitions):
        q = restart.position.partition
        content.positions[q], content.relays[q] = restart.position, restart.sent
        for row in restart.outbox:
            content.outbox.setdefault(q, {}).setdefault(row.target, []).append(row)
    return content, done
