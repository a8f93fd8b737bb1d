"""What must hold in the tables after a round: the ledger balances, and what was accepted is applied or parked.

Each check returns sentences about what is wrong; an empty list is a proof.
"""

from typing import Final, TypeAlias

import asyncpg
import orjson

from shared.runtime.migrations import machinery_schema_of, quoted
from tests.crash.stream import Letterbox, Stream

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def connected(url: str, worker: str) -> Connection:
    """A connection that sees a worker's state and machinery."""
    path = f"{quoted(worker)}, {quoted(machinery_schema_of(worker))}"
    return await asyncpg.connect(url, server_settings={"search_path": path, "timezone": "UTC"})


# ---- law 1: the ledger

UNBALANCED: Final = """
select 'postings of ' || tenant || '/' || wallet || ' sum to ' || sum(points) from (
    select tenant, wallet, points from ledger_entries
    union all
    select tenant, wallet, - points from ledger_entries
) as postings group by tenant, wallet having sum(points) <> 0
"""
NOT_ITS_ENTRIES: Final = """
with postings as (
    select tenant, contact, wallet, destination as account, points from ledger_entries
    union all
    select tenant, contact, wallet, source, - points from ledger_entries
),
summed as (
    select tenant, contact, wallet,
        coalesce(sum(points) filter (where account = 'member:available'), 0) as available,
        - coalesce(sum(points) filter (where account = 'member:owed'), 0) as owed,
        - coalesce(sum(points) filter (where account = 'program:issued'), 0) as issued,
        coalesce(sum(points) filter (where account = 'program:redeemed'), 0) as redeemed,
        coalesce(sum(points) filter (where account = 'program:expired'), 0) as expired,
        - coalesce(sum(points) filter (where account = 'program:adjusted'), 0) as adjusted,
        coalesce(sum(points) filter (where account = 'program:reversed'), 0) as reversed,
        sum(points) as rest
    from postings group by tenant, contact, wallet
)
select 'account ' || contact || '/' || wallet || ' is not the sum of its entries'
from accounts full join summed using (tenant, contact, wallet)
where (accounts.available, accounts.owed, accounts.issued, accounts.redeemed, accounts.expired, accounts.adjusted,
    accounts.reversed, 0) is distinct from (summed.available, summed.owed, summed.issued, summed.redeemed,
    summed.expired, summed.adjusted, summed.reversed, summed.rest)
"""
NOT_ITS_LOTS: Final = """
select 'account ' || contact || '/' || wallet || ' has ' || coalesce(accounts.available, 0) || ', its lots have '
    || coalesce(held.remaining, 0)
from accounts full join (
    select tenant, contact, wallet, sum(remaining) as remaining from lots group by tenant, contact, wallet
) as held using (tenant, contact, wallet)
where coalesce(accounts.available, 0) <> coalesce(held.remaining, 0)
"""
NEGATIVE: Final = """
select 'account ' || contact || '/' || wallet || ' is negative' from accounts where available < 0 or owed < 0
union all
select 'lot ' || contact || '/' || number || ' is negative' from lots where remaining < 0 or remaining > earned
"""
NOT_DENSE: Final = """
select 'entries of ' || contact || ' are not numbered 1 to ' || coalesce(members.entries, 0)
from members full join (
    select tenant, contact, count(*) as found, min(number) as first, max(number) as last
    from ledger_entries group by tenant, contact
) as written using (tenant, contact)
where (coalesce(found, 0), coalesce(last, 0)) is distinct from (members.entries, members.entries) or first <> 1
"""
LEDGER_LAWS: Final = (UNBALANCED, NOT_ITS_ENTRIES, NOT_ITS_LOTS, NEGATIVE, NOT_DENSE)


async def ledger_faults(points: Connection) -> list[str]:
    """Law 1 over the tables of points."""
    return [str(row[0]) for law in LEDGER_LAWS for row in await points.fetch(law)]


# ---- law 2: applied, parked or a duplicate

RECEIPTS: Final = "select source, id, body_hash from receipts union all select source, id, body_hash from conflicts"
PARKED: Final = 'select topic, partition, "offset" from parked'
REQUESTS: Final = "select key, event_id, outcome from requests"


async def letterbox_faults(worker: str, box: Letterbox, database: Connection) -> list[str]:
    """applied ∪ parked ∪ duplicate = log."""
    parked = {tuple(row) for row in await database.fetch(PARKED)}
    faults = [f"{worker}: {place} is neither applied nor parked" for place in set(box.unreadable) - parked]
    faults += [f"{worker}: {place} is parked and could be read" for place in parked - set(box.unreadable)]
    if worker == "door":
        known = {tuple(row) for row in await database.fetch(RECEIPTS)}
        faults += [
            f"door: {event.source} {event.id} was accepted and has no receipt"
            for event in box.inputs
            if (event.source, event.id, event.data["body_hash"]) not in known
        ]
        return faults
    keys = {row["key"] for row in await database.fetch(REQUESTS)}
    return faults + [f"{worker}: {e.request_key} has no outcome" for e in box.inputs if e.request_key not in keys]


async def outcome_faults(worker: str, stream: Stream, database: Connection) -> list[str]:
    """The outcomes in the table are those of the stream."""
    told = {
        event.request_key: (event.id, event.data)
        for event in stream.events
        if event.request_key and event.producer.startswith(f"{worker}.")
    }
    kept = {row["key"]: (row["event_id"], orjson.loads(row["outcome"])) for row in await database.fetch(REQUESTS)}
    return [
        f"{worker}: {key} is {kept.get(key)} in the table and {told.get(key)} on the stream"
        for key in told.keys() | kept.keys()
        if told.get(key) != kept.get(key)
    ]
