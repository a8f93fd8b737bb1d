"""Tables of the toy workers, with their SQL for runs on a real database (schema: `toy.sql` beside this file)."""

from datetime import datetime
from typing import Literal, NamedTuple

from shared.runtime.tables import Table

LOAD_ACCOUNTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, subject)
cross join lateral (
    select tenant, subject, available, pending, transit, facts from accounts
    where (tenant, subject) = (asked.tenant, asked.subject)
    offset 0
) as found
"""
SAVE_ACCOUNTS = """
insert into accounts (tenant, subject, available, pending, transit, facts)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
on conflict (tenant, subject) do update
set available = excluded.available, pending = excluded.pending, transit = excluded.transit, facts = excluded.facts
"""


class AccountRow(NamedTuple):
    """What a contact has: to spend, not yet mature, and on its way to somebody; and how many facts made it so."""

    tenant: str
    subject: str
    available: int = 0
    pending: int = 0
    transit: int = 0
    facts: int = 0


ACCOUNTS = Table(
    "accounts", AccountRow, ("tenant", "subject"), ("tenant", "subject"), "own", LOAD_ACCOUNTS, SAVE_ACCOUNTS
)

LOAD_DEPOSITS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, subject)
cross join lateral (
    select tenant, subject, deposit_id, amount, matures_at, matured from deposits
    where (tenant, subject) = (asked.tenant, asked.subject) and not matured
    offset 0
) as found
"""
SAVE_DEPOSITS = """
insert into deposits (tenant, subject, deposit_id, amount, matures_at, matured)
select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::bool[])
on conflict (tenant, subject, deposit_id) do update set matured = excluded.matured
"""


class DepositRow(NamedTuple):
    """Points that cannot be spent before `matures_at`."""

    tenant: str
    subject: str
    deposit_id: str
    amount: int
    matures_at: datetime
    matured: bool


DEPOSITS = Table(
    "deposits",
    DepositRow,
    ("tenant", "subject", "deposit_id"),
    ("tenant", "subject"),
    "own",
    LOAD_DEPOSITS,
    SAVE_DEPOSITS,
    alive=lambda row: not row.matured,
)

LOAD_TRANSFERS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, subject)
cross join lateral (
    select tenant, subject, transfer_id, side, other, amount, state from transfers
    where (tenant, subject) = (asked.tenant, asked.subject)
    offset 0
) as found
"""
SAVE_TRANSFERS = """
insert into transfers (tenant, subject, transfer_id, side, other, amount, state)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[])
on conflict (tenant, subject, transfer_id, side) do update set state = excluded.state
"""


class TransferRow(NamedTuple):
    """One side of a transfer; the sender's is open until the receiver has answered."""

    tenant: str
    subject: str
    transfer_id: str
    side: str
    """`sent` or `received`."""
    other: str
    amount: int
    state: str
    """`open`, `taken` or `declined`."""


TRANSFERS = Table(
    "transfers",
    TransferRow,
    ("tenant", "subject", "transfer_id", "side"),
    ("tenant", "subject"),
    "own",
    LOAD_TRANSFERS,
    SAVE_TRANSFERS,
)

LOAD_NICKNAMES = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, nickname)
cross join lateral (
    select tenant, nickname, subject from nicknames
    where (tenant, nickname) = (asked.tenant, asked.nickname)
    offset 0
) as found
"""
SAVE_NICKNAMES = """
insert into nicknames (tenant, nickname, subject)
select * from unnest($1::text[], $2::text[], $3::text[])
on conflict (tenant, nickname) do nothing
"""


class NicknameRow(NamedTuple):
    """Who has a nickname; written by whichever partition comes first."""

    tenant: str
    nickname: str
    subject: str


NICKNAMES = Table(
    "nicknames",
    NicknameRow,
    ("tenant", "nickname"),
    ("tenant", "nickname"),
    "own",
    LOAD_NICKNAMES,
    SAVE_NICKNAMES,
    shared=True,
)

Account = Literal["available", "pending", "transit", "clearing", "outside"]


class EntryRow(NamedTuple):
    """One posting of a fact. `clearing` holds what crosses between contacts, `outside` what enters and leaves."""

    tenant: str
    subject: str
    event_id: str
    account: Account
    amount: int


ENTRIES = Table(
    "entries",
    EntryRow,
    ("tenant", "subject", "event_id", "account"),
    ("tenant", "subject"),
    "own",
    append_only=True,
)

LOAD_RATES = """
select found.* from unnest($1::int[], $2::text[]) as asked (partition, tenant)
cross join lateral (
    select partition, tenant, effective_from, percent from rates
    where (partition, tenant) = (asked.partition, asked.tenant)
    offset 0
) as found
"""
SAVE_RATES = """
insert into rates (partition, tenant, effective_from, percent)
select * from unnest($1::int[], $2::text[], $3::timestamptz[], $4::int[])
on conflict (partition, tenant, effective_from) do update set percent = excluded.percent
"""


class RateRow(NamedTuple):
    """A tenant's interest from an instant on, as this partition was told."""

    partition: int
    tenant: str
    effective_from: datetime
    percent: int


RATES = Table(
    "rates",
    RateRow,
    ("partition", "tenant", "effective_from"),
    ("partition", "tenant"),
    "others",
    LOAD_RATES,
    SAVE_RATES,
)

LOAD_WATCHED = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, subject)
cross join lateral (
    select tenant, subject, deposits, amount from watched
    where (tenant, subject) = (asked.tenant, asked.subject)
    offset 0
) as found
"""
SAVE_WATCHED = """
insert into watched (tenant, subject, deposits, amount)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
on conflict (tenant, subject) do update set deposits = excluded.deposits, amount = excluded.amount
"""


class WatchedRow(NamedTuple):
    """What the bonus worker has seen a contact put in."""

    tenant: str
    subject: str
    deposits: int = 0
    amount: int = 0


WATCHED = Table(
    "watched", WatchedRow, ("tenant", "subject"), ("tenant", "subject"), "others", LOAD_WATCHED, SAVE_WATCHED
)

LOAD_GRANTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, subject)
cross join lateral (
    select tenant, subject, times, amount from grants
    where (tenant, subject) = (asked.tenant, asked.subject)
    offset 0
) as found
"""
SAVE_GRANTS = """
insert into grants (tenant, subject, times, amount)
select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])
on conflict (tenant, subject) do update set times = excluded.times, amount = excluded.amount
"""


class GrantRow(NamedTuple):
    """What the bonus worker has given a contact."""

    tenant: str
    subject: str
    times: int = 0
    amount: int = 0


GRANTS = Table("grants", GrantRow, ("tenant", "subject"), ("tenant", "subject"), "own", LOAD_GRANTS, SAVE_GRANTS)

LOAD_CLOCKED = """
select found.* from unnest($1::text[]) as asked (tenant)
cross join lateral (
    select tenant, clock_at from clocked
    where clocked.tenant = asked.tenant
    offset 0
) as found
"""
SAVE_CLOCKED = """
insert into clocked (tenant, clock_at)
select * from unnest($1::text[], $2::timestamptz[])
on conflict (tenant) do update set clock_at = excluded.clock_at
"""


class ClockedRow(NamedTuple):
    """A tenant as the toy's stand-in for the contacts worker knows it."""

    tenant: str
    clock_at: datetime | None


CLOCKED = Table("clocked", ClockedRow, ("tenant",), ("tenant",), "own", LOAD_CLOCKED, SAVE_CLOCKED)
