"""The ledger's tables, all folded from this worker's own facts: members, accounts, lots, entries, orders, refunds."""

from datetime import datetime
from typing import NamedTuple

from shared.runtime.tables import Table

LOAD_MEMBERS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, contact)
cross join lateral (
    select tenant, contact, entries, evaluations, purchases from members
    where (tenant, contact) = (asked.tenant, asked.contact)
    offset 0
) as found
"""
SAVE_MEMBERS = """
insert into members (tenant, contact, entries, evaluations, purchases)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
on conflict (tenant, contact) do update
set entries = excluded.entries, evaluations = excluded.evaluations, purchases = excluded.purchases
"""


class MemberRow(NamedTuple):
    """A contact's counters: the last number used in its ledger and in its evaluations, and its purchases so far."""

    tenant: str
    contact: str
    entries: int
    evaluations: int
    purchases: int


MEMBERS = Table(
    "members", MemberRow, ("tenant", "contact"), ("tenant", "contact"), "own", LOAD_MEMBERS, SAVE_MEMBERS, kept=True
)

LOAD_ACCOUNTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, contact)
cross join lateral (
    select tenant, contact, wallet, available, owed, issued, redeemed, expired, adjusted, reversed
    from accounts
    where (tenant, contact) = (asked.tenant, asked.contact)
    offset 0
) as found
"""
SAVE_ACCOUNTS = """
insert into accounts (tenant, contact, wallet, available, owed, issued, redeemed, expired, adjusted, reversed)
select * from unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
    $9::bigint[], $10::bigint[]
)
on conflict (tenant, contact, wallet) do update
set available = excluded.available, owed = excluded.owed, issued = excluded.issued, redeemed = excluded.redeemed,
    expired = excluded.expired, adjusted = excluded.adjusted, reversed = excluded.reversed
"""


class AccountRow(NamedTuple):
    """A contact's accounts of one wallet. Always: available - owed = issued - redeemed - expired + adjusted - reversed.

    The program's accounts are the sums of these rows over all contacts: no row is shared.
    """

    tenant: str
    contact: str
    wallet: str
    available: int = 0
    """The sum of what remains in the open lots; never negative."""
    owed: int = 0
    issued: int = 0
    redeemed: int = 0
    expired: int = 0
    adjusted: int = 0
    """Given less taken by hand."""
    reversed: int = 0


ACCOUNTS = Table(
    "accounts",
    AccountRow,
    ("tenant", "contact", "wallet"),
    ("tenant", "contact"),
    "own",
    LOAD_ACCOUNTS,
    SAVE_ACCOUNTS,
    kept=True,
)

LOAD_LOTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, contact)
cross join lateral (
    select tenant, contact, number, wallet, standing, program, version, rule, earned, remaining, earned_at, expires_at
    from lots
    where (tenant, contact) = (asked.tenant, asked.contact) and remaining > 0
    offset 0
) as found
"""
SAVE_LOTS = """
insert into lots (
    tenant, contact, number, wallet, standing, program, version, rule, earned, remaining, earned_at, expires_at
)
select * from unnest(
    $1::text[], $2::text[], $3::bigint[], $4::text[], $5::bool[], $6::text[], $7::int[], $8::text[], $9::bigint[],
    $10::bigint[], $11::timestamptz[], $12::timestamptz[]
)
on conflict (tenant, contact, number) do update set earned = excluded.earned, remaining = excluded.remaining
"""


class LotRow(NamedTuple):
    """Points that were earned together and lapse together; `number` is that of the ledger entry that made the lot.

    A `standing` lot gathers the points of a qualifying wallet that never lapse, so that a member's open lots stay few.
    """

    tenant: str
    contact: str
    number: int
    wallet: str
    standing: bool
    program: str
    version: int
    rule: str
    earned: int
    remaining: int
    earned_at: datetime
    expires_at: datetime | None


LOTS = Table(
    "lots",
    LotRow,
    ("tenant", "contact", "number"),
    ("tenant", "contact"),
    "own",
    LOAD_LOTS,
    SAVE_LOTS,
    alive=lambda lot: lot.remaining > 0,
    kept=True,
)


class EntryRow(NamedTuple):
    """One posting, never changed: `points` (above 0) go from the account `source` to the account `destination`.

    Accounts are `member:available` and `member:owed` of this contact and wallet, and the program's `program:issued`,
    `program:redeemed`, `program:expired`, `program:adjusted`, `program:reversed`.
    """

    tenant: str
    contact: str
    number: int
    wallet: str
    source: str
    destination: str
    points: int
    lot: int
    """0: no lot is concerned."""
    program: str
    version: int
    rule: str
    line_id: str
    channel: str
    order_id: str
    event_source: str
    event_id: str
    """The received event behind it; empty for a request or a timer."""
    fact_id: str
    fact_type: str
    reference: str
    """A redemption's reference, a refund's id or an adjustment's reason."""
    by: str
    effective_at: datetime
    recorded_at: datetime
    cause: str


LEDGER_ENTRIES = Table(
    "ledger_entries", EntryRow, ("tenant", "contact", "number"), ("tenant", "contact"), "own", append_only=True
)


class EvaluationRow(NamedTuple):
    """What was said of one event, as JSON text in `results`: of a purchase or a tenant's own event a list of
    {rule, fired, reason, inputs}; of a refund, of which `program` is empty, a list of {rule, entry, points, owed,
    forgiven}, one for each award that it took back. A refund that came before its order has two: `order-awaited`, and
    later, with the cause that released it, what became of it."""

    tenant: str
    contact: str
    number: int
    event_source: str
    event_id: str
    event_type: str
    channel: str
    order_id: str
    program: str
    version: int
    reason: str
    results: str
    fact_id: str
    effective_at: datetime
    recorded_at: datetime
    cause: str


EVALUATIONS = Table(
    "evaluations", EvaluationRow, ("tenant", "contact", "number"), ("tenant", "contact"), "own", append_only=True
)

ORDER = ("tenant", "contact", "channel", "order_id")
"""An order belongs to its contact's partition: the contact is part of its key, so no other partition touches it."""

LOAD_ORDER_LINES = """
select found.* from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as asked (tenant, contact, channel, order_id)
cross join lateral (
    select tenant, contact, channel, order_id, line_id, quantity, refunded
    from order_lines
    where (tenant, contact, channel, order_id) = (asked.tenant, asked.contact, asked.channel, asked.order_id)
    offset 0
) as found
"""
SAVE_ORDER_LINES = """
insert into order_lines (tenant, contact, channel, order_id, line_id, quantity, refunded)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
on conflict (tenant, contact, channel, order_id, line_id) do update set refunded = excluded.refunded
"""


class OrderLineRow(NamedTuple):
    """A line of a purchase that was decided, and how much of it went back."""

    tenant: str
    contact: str
    channel: str
    order_id: str
    line_id: str
    quantity: int
    refunded: int


ORDER_LINES = Table("order_lines", OrderLineRow, (*ORDER, "line_id"), ORDER, "own", LOAD_ORDER_LINES, SAVE_ORDER_LINES)

LOAD_ORDER_AWARDS = """
select found.* from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as asked (tenant, contact, channel, order_id)
cross join lateral (
    select tenant, contact, channel, order_id, entry, line_id, wallet, program, version, rule, points, reversed, lot,
        expires_at, recorded_at
    from order_awards
    where (tenant, contact, channel, order_id) = (asked.tenant, asked.contact, asked.channel, asked.order_id)
    offset 0
) as found
"""
SAVE_ORDER_AWARDS = """
insert into order_awards (
    tenant, contact, channel, order_id, entry, line_id, wallet, program, version, rule, points, reversed, lot,
    expires_at, recorded_at
)
select * from unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::int[],
    $10::text[], $11::bigint[], $12::bigint[], $13::bigint[], $14::timestamptz[], $15::timestamptz[]
)
on conflict (tenant, contact, channel, order_id, entry) do update set reversed = excluded.reversed
"""


class OrderAwardRow(NamedTuple):
    """What one rule gave for one line of an order (`line_id` empty: for the whole order), and how much went back."""

    tenant: str
    contact: str
    channel: str
    order_id: str
    entry: int
    line_id: str
    wallet: str
    program: str
    version: int
    rule: str
    points: int
    reversed: int
    lot: int
    expires_at: datetime | None
    recorded_at: datetime


ORDER_AWARDS = Table(
    "order_awards", OrderAwardRow, (*ORDER, "entry"), ORDER, "own", LOAD_ORDER_AWARDS, SAVE_ORDER_AWARDS
)

LOAD_REFUNDS = """
select found.* from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as asked (tenant, contact, channel, order_id)
cross join lateral (
    select tenant, contact, channel, order_id, refund_id, reason, fact_id
    from refunds
    where (tenant, contact, channel, order_id) = (asked.tenant, asked.contact, asked.channel, asked.order_id)
    offset 0
) as found
"""
SAVE_REFUNDS = """
insert into refunds (tenant, contact, channel, order_id, refund_id, reason, fact_id)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
on conflict (tenant, contact, channel, order_id, refund_id) do nothing
"""


class RefundRow(NamedTuple):
    """A refund that was decided, so that a second report of it changes nothing."""

    tenant: str
    contact: str
    channel: str
    order_id: str
    refund_id: str
    reason: str
    fact_id: str


REFUNDS = Table("refunds", RefundRow, (*ORDER, "refund_id"), ORDER, "own", LOAD_REFUNDS, SAVE_REFUNDS)

LOAD_WAITING_REFUNDS = """
select found.* from unnest($1::text[], $2::text[], $3::text[], $4::text[]) as asked (tenant, contact, channel, order_id)
cross join lateral (
    select tenant, contact, channel, order_id, refund_id, number, lines, event_source, event_id, event_type,
        happened_at, waiting_since, fact_id, released_by
    from waiting_refunds
    where (tenant, contact, channel, order_id) = (asked.tenant, asked.contact, asked.channel, asked.order_id)
        and released_by = ''
    offset 0
) as found
"""
SAVE_WAITING_REFUNDS = """
insert into waiting_refunds (
    tenant, contact, channel, order_id, refund_id, number, lines, event_source, event_id, event_type, happened_at,
    waiting_since, fact_id, released_by
)
select * from unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[], $14::text[]
)
on conflict (tenant, contact, channel, order_id, refund_id) do update set released_by = excluded.released_by
"""


class WaitingRefundRow(NamedTuple):
    """A refund that came before its order, in the order of `number`, the evaluation that told of it."""

    tenant: str
    contact: str
    channel: str
    order_id: str
    refund_id: str
    number: int
    lines: str
    """JSON: [line id, quantity] each."""
    event_source: str
    event_id: str
    event_type: str
    happened_at: datetime
    waiting_since: datetime
    fact_id: str
    released_by: str
    """The fact that took its points back; empty while it waits."""


WAITING_REFUNDS = Table(
    "waiting_refunds",
    WaitingRefundRow,
    (*ORDER, "refund_id"),
    ORDER,
    "own",
    LOAD_WAITING_REFUNDS,
    SAVE_WAITING_REFUNDS,
    alive=lambda refund: not refund.released_by,
)

TABLES = (
    MEMBERS,
    ACCOUNTS,
    LOTS,
    LEDGER_ENTRIES,
    EVALUATIONS,
    ORDER_LINES,
    ORDER_AWARDS,
    REFUNDS,
    WAITING_REFUNDS,
)
