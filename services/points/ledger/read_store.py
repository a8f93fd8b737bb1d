"""What the API reads of the ledger. Every query names its tenant; row-level security says the same once more.

A balance "at" an instant is what a redemption at that instant could spend: a lot that has lapsed by then does not
count, be its expiry written down or not. "As of" an instant is history by the events' own times; "known at" leaves out
what was written down later.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from services.points.ledger.store import EntryRow, EvaluationRow, LotRow
from shared.runtime.migrations import Connection

BALANCES = """
select a.wallet, coalesce(sum(l.remaining), 0)::bigint as available, a.owed, min(l.expires_at) as lapses_at
from accounts a
left join lots l on l.tenant = a.tenant and l.contact = a.contact and l.wallet = a.wallet
    and l.remaining > 0 and (l.expires_at is null or l.expires_at > $3)
where a.tenant = $1 and a.contact = $2
group by a.wallet, a.owed
order by a.wallet
"""


class Balance(NamedTuple):
    """A wallet of a member. `available - owed` is the balance; `lapses_at` is when the next lot lapses."""

    wallet: str
    available: int
    owed: int
    lapses_at: datetime | None


async def balances(connection: Connection, tenant: str, contact: str, at: datetime) -> list[Balance]:
    """What the member has at that instant, by wallet; empty for a contact that never had points."""
    return [Balance(*row) for row in await connection.fetch(BALANCES, tenant, contact, at)]


BALANCES_AS_OF = """
select e.wallet,
    coalesce(
        sum(
            case
                when e.destination = 'member:available' then e.points
                when e.source = 'member:available' then - e.points
                else 0
            end
        ) filter (where l.expires_at is null or l.expires_at > $3),
        0
    )::bigint as available,
    sum(
        case when e.source = 'member:owed' then e.points when e.destination = 'member:owed' then - e.points else 0 end
    )::bigint as owed
from ledger_entries e
left join lots l on l.tenant = e.tenant and l.contact = e.contact and l.number = e.lot
where e.tenant = $1 and e.contact = $2 and e.effective_at <= $3
    and ($4::timestamptz is null or e.recorded_at <= $4)
group by e.wallet
order by e.wallet
"""


class BalanceAsOf(NamedTuple):
    """A wallet of a member as it was."""

    wallet: str
    available: int
    owed: int


async def balances_as_of(
    connection: Connection, tenant: str, contact: str, as_of: datetime, known_at: datetime | None = None
) -> list[BalanceAsOf]:
    """The balances by event time, from the entries alone; `known_at` (log time) None means all that is known now."""
    rows = await connection.fetch(BALANCES_AS_OF, tenant, contact, as_of, known_at)
    return [BalanceAsOf(*row) for row in rows]


OPEN_LOTS = """
select tenant, contact, number, wallet, standing, program, version, rule, earned, remaining, earned_at, expires_at
from lots
where tenant = $1 and contact = $2 and remaining > 0 and (expires_at is null or expires_at > $3)
    and (
        $5::text is null
        or (wallet, coalesce(expires_at, 'infinity'), earned_at, number)
            > ($5, coalesce($6::timestamptz, 'infinity'), $7::timestamptz, $8::bigint)
    )
order by wallet, coalesce(expires_at, 'infinity'), earned_at, number
limit $4
"""


class BurnPlace(NamedTuple):
    """Where a lot stands in the burn order of all of a member's wallets."""

    wallet: str
    expires_at: datetime | None
    earned_at: datetime
    number: int


async def open_lots(
    connection: Connection, tenant: str, contact: str, at: datetime, most: int, after: BurnPlace | None = None
) -> list[LotRow]:
    """The lots that can be spent at that instant, by wallet in burn order; the next page is `after` the last lot."""
    place = after or (None, None, None, None)
    return [LotRow(*row) for row in await connection.fetch(OPEN_LOTS, tenant, contact, at, most, *place)]


LEDGER_PAGE = """
select tenant, contact, number, wallet, source, destination, points, lot, program, version, rule, line_id, channel,
    order_id, event_source, event_id, fact_id, fact_type, reference, by, effective_at, recorded_at, cause
from ledger_entries
where tenant = $1 and contact = $2 and number < $3 and ($4 = '' or wallet = $4)
    and ($5::timestamptz is null or effective_at <= $5) and ($6::timestamptz is null or recorded_at <= $6)
order by number desc
limit $7
"""
FIRST_PAGE = 2**62


async def ledger_page(
    connection: Connection,
    tenant: str,
    contact: str,
    most: int,
    *,
    before: int = FIRST_PAGE,
    wallet: str = "",
    as_of: datetime | None = None,
    known_at: datetime | None = None,
) -> list[EntryRow]:
    """A page of the member's ledger, latest entry first; the next page is `before` the last number of this one."""
    rows = await connection.fetch(LEDGER_PAGE, tenant, contact, before, wallet, as_of, known_at, most)
    return [EntryRow(*row) for row in rows]


LEDGER_ENTRY = """
select tenant, contact, number, wallet, source, destination, points, lot, program, version, rule, line_id, channel,
    order_id, event_source, event_id, fact_id, fact_type, reference, by, effective_at, recorded_at, cause
from ledger_entries
where tenant = $1 and contact = $2 and number = $3
"""
LOT = """
select tenant, contact, number, wallet, standing, program, version, rule, earned, remaining, earned_at, expires_at
from lots
where tenant = $1 and contact = $2 and number = $3
"""
LOT_ENTRIES = """
select tenant, contact, number, wallet, source, destination, points, lot, program, version, rule, line_id, channel,
    order_id, event_source, event_id, fact_id, fact_type, reference, by, effective_at, recorded_at, cause
from ledger_entries
where tenant = $1 and contact = $2 and lot = $3
order by number
limit $4
"""


class ExplainedEntry(NamedTuple):
    """A ledger line with its lot, all entries of that lot (what became of it), and what the rules said of the event."""

    entry: EntryRow
    lot: LotRow | None
    lot_entries: Sequence[EntryRow]
    evaluation: EvaluationRow | None


async def explain_entry(
    connection: Connection, tenant: str, contact: str, number: int, most: int
) -> ExplainedEntry | None:
    """Why this ledger line is there; at most `most` entries of its lot. None: there is no such line."""
    found = await connection.fetchrow(LEDGER_ENTRY, tenant, contact, number)
    if found is None:
        return None
    entry = EntryRow(*found)
    lot = await connection.fetchrow(LOT, tenant, contact, entry.lot)
    entries = await connection.fetch(LOT_ENTRIES, tenant, contact, entry.lot, most) if entry.lot else []
    said = await evaluations_of(connection, tenant, entry.event_id) if entry.event_id else []
    about = (contact, entry.event_source, entry.cause)
    of_contact = [each for each in said if (each.contact, each.event_source, each.cause) == about]
    return ExplainedEntry(
        entry,
        None if lot is None else LotRow(*lot),
        [EntryRow(*row) for row in entries],
        of_contact[0] if of_contact else None,
    )


EVALUATIONS_OF = """
select tenant, contact, number, event_source, event_id, event_type, channel, order_id, program, version, reason,
    results, fact_id, effective_at, recorded_at, cause
from evaluations
where tenant = $1 and event_id = $2
order by event_source, recorded_at, number
limit 20
"""


async def evaluations_of(connection: Connection, tenant: str, event_id: str) -> list[EvaluationRow]:
    """What was said of the event with its sender's id (of several senders, if they share the id).

    `results` is JSON, see `EvaluationRow`: it answers "why not" for a rule that did not fire.
    """
    return [EvaluationRow(*row) for row in await connection.fetch(EVALUATIONS_OF, tenant, event_id)]


PROGRAM_TOTALS = """
select a.wallet, count(*)::bigint as members, sum(a.issued)::bigint as issued, sum(a.redeemed)::bigint as redeemed,
    sum(a.expired)::bigint + coalesce(max(due.points), 0)::bigint as lapsed, sum(a.adjusted)::bigint as adjusted,
    sum(a.reversed)::bigint as reversed, sum(a.owed)::bigint as owed,
    sum(a.available)::bigint - coalesce(max(due.points), 0)::bigint as outstanding
from accounts a
left join (
    select wallet, sum(remaining) as points from lots
    where tenant = $1 and remaining > 0 and expires_at <= $2
    group by wallet
) due on due.wallet = a.wallet
where a.tenant = $1
group by a.wallet
order by a.wallet
"""


class ProgramTotals(NamedTuple):
    """The program's accounts of one wallet: outstanding - owed = issued - redeemed - lapsed + adjusted - reversed."""

    wallet: str
    members: int
    issued: int
    redeemed: int
    lapsed: int
    adjusted: int
    reversed: int
    owed: int
    outstanding: int


async def program_totals(connection: Connection, tenant: str, at: datetime) -> list[ProgramTotals]:
    """Sums over all members at that instant, by wallet."""
    return [ProgramTotals(*row) for row in await connection.fetch(PROGRAM_TOTALS, tenant, at)]


TOTALS_AS_OF = """
with posted as (
    select e.contact, e.wallet, e.source, e.destination, e.points,
        case
            when e.destination = 'member:available' then e.points
            when e.source = 'member:available' then - e.points
            else 0
        end as available,
        coalesce(l.expires_at <= $2, false) as gone
    from ledger_entries e
    left join lots l on l.tenant = e.tenant and l.contact = e.contact and l.number = e.lot
    where e.tenant = $1 and e.effective_at <= $2 and ($3::timestamptz is null or e.recorded_at <= $3)
)
select wallet, count(distinct contact)::bigint as members,
    coalesce(sum(points) filter (where source = 'program:issued'), 0)::bigint as issued,
    coalesce(sum(points) filter (where destination = 'program:redeemed'), 0)::bigint as redeemed,
    (
        coalesce(sum(points) filter (where destination = 'program:expired'), 0)
        + coalesce(sum(available) filter (where gone), 0)
    )::bigint as lapsed,
    sum(
        case when source = 'program:adjusted' then points when destination = 'program:adjusted' then - points else 0 end
    )::bigint as adjusted,
    coalesce(sum(points) filter (where destination = 'program:reversed'), 0)::bigint as reversed,
    sum(case when source = 'member:owed' then points when destination = 'member:owed' then - points else 0 end)::bigint
        as owed,
    coalesce(sum(available) filter (where not gone), 0)::bigint as outstanding
from posted
group by wallet
order by wallet
"""


async def totals_as_of(
    connection: Connection, tenant: str, as_of: datetime, known_at: datetime | None = None
) -> list[ProgramTotals]:
    """The sums as they were, from the entries alone. Reads the whole ledger.

    `as_of` is event time; `known_at` (log time) None means all that is known now.
    """
    return [ProgramTotals(*row) for row in await connection.fetch(TOTALS_AS_OF, tenant, as_of, known_at)]


LEDGER_PROOF = """
with postings as (
    select wallet, destination as account, points from ledger_entries where tenant = $1
    union all
    select wallet, source, - points from ledger_entries where tenant = $1
),
sums as (
    select wallet, count(*)::bigint / 2 as entries, sum(points)::bigint as all_accounts,
        coalesce(sum(points) filter (where account = 'member:available'), 0)::bigint as posted,
        coalesce(sum(points) filter (where account = 'member:owed'), 0)::bigint as owed_posted
    from postings group by wallet
)
select s.wallet, s.entries, s.all_accounts, s.posted, s.owed_posted,
    coalesce(a.available, 0)::bigint as balances, coalesce(a.owed, 0)::bigint as owed,
    coalesce(l.remaining, 0)::bigint as lots
from sums s
left join (
    select wallet, sum(available) as available, sum(owed) as owed from accounts where tenant = $1 group by wallet
) a on a.wallet = s.wallet
left join (
    select wallet, sum(remaining) as remaining from lots where tenant = $1 group by wallet
) l on l.wallet = s.wallet
order by s.wallet
"""


class LedgerProof(NamedTuple):
    """The ledger of one wallet, added up in three ways."""

    wallet: str
    entries: int
    all_accounts: int
    posted: int
    owed_posted: int
    balances: int
    owed: int
    lots: int

    @property
    def holds(self) -> bool:
        """Double entry sums to 0, and members' balances = their postings = their lots."""
        return self.all_accounts == 0 and self.posted == self.balances == self.lots and self.owed_posted == -self.owed


async def ledger_proof(connection: Connection, tenant: str) -> list[LedgerProof]:
    """Add up every posting of the tenant, by wallet. Reads the whole ledger."""
    return [LedgerProof(*row) for row in await connection.fetch(LEDGER_PROOF, tenant)]


FIND_CONTACTS = """
select contact from identities
where tenant = $1 and kind = $2 and hash = $3
order by identified_at, contact
limit 2
"""


async def find_contacts(connection: Connection, tenant: str, kind: str, keyed_hash: str) -> list[str]:
    """The contacts known by this identity, the earliest first; more than one is ambiguous."""
    return [str(row[0]) for row in await connection.fetch(FIND_CONTACTS, tenant, kind, keyed_hash)]
