"""The state tables that every worker has: subjects (last `now`, timer), request outcomes, test clocks, parked inputs.

Their SQL is in `sql/state/`, in the worker's own state schema, so they are digested and rebuilt with the rest.
"""

from datetime import datetime
from typing import NamedTuple

from shared.runtime.tables import Table

LOAD_SUBJECTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, subject)
cross join lateral (
    select tenant, subject, partition, now, due_at from subjects
    where (tenant, subject) = (asked.tenant, asked.subject)
    offset 0
) as found
"""
SAVE_SUBJECTS = """
insert into subjects (tenant, subject, partition, now, due_at)
select * from unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::timestamptz[])
on conflict (tenant, subject) do update
set partition = excluded.partition, now = excluded.now, due_at = excluded.due_at
"""


class SubjectRow(NamedTuple):
    """A contact as this worker's clock sees it: the last `now` decided with, and its earliest timer."""

    tenant: str
    subject: str
    partition: int
    now: datetime
    due_at: datetime | None


SUBJECTS = Table(
    "subjects", SubjectRow, ("tenant", "subject"), ("tenant", "subject"), "own", LOAD_SUBJECTS, SAVE_SUBJECTS, kept=True
)

LOAD_REQUESTS = """
select found.* from unnest($1::text[], $2::text[]) as asked (tenant, key)
cross join lateral (
    select tenant, key, body_hash, event_id, type, subject, partition, outcome from requests
    where (tenant, key) = (asked.tenant, asked.key)
    offset 0
) as found
"""
SAVE_REQUESTS = """
insert into requests (tenant, key, body_hash, event_id, type, subject, partition, outcome)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::text[])
on conflict (tenant, key) do nothing
"""


class RequestRow(NamedTuple):
    """The one outcome of a request, found by its idempotency key for ever. `outcome` is its data as JSON text."""

    tenant: str
    key: str
    body_hash: str
    event_id: str
    type: str
    subject: str
    partition: int
    outcome: str


REQUESTS = Table(
    "requests", RequestRow, ("tenant", "key"), ("tenant", "key"), "own", LOAD_REQUESTS, SAVE_REQUESTS, shared=True
)

LOAD_CLOCKS = """
select found.* from unnest($1::int[], $2::text[]) as asked (partition, tenant)
cross join lateral (
    select partition, tenant, at from clocks
    where (partition, tenant) = (asked.partition, asked.tenant)
    offset 0
) as found
"""
SAVE_CLOCKS = """
insert into clocks (partition, tenant, at)
select * from unnest($1::int[], $2::text[], $3::timestamptz[])
on conflict (partition, tenant) do update set at = excluded.at
"""


class ClockRow(NamedTuple):
    """A test-clock tenant's clock as last applied on one partition."""

    partition: int
    tenant: str
    at: datetime


CLOCKS = Table(
    "clocks",
    ClockRow,
    ("partition", "tenant"),
    ("partition", "tenant"),
    "others",
    LOAD_CLOCKS,
    SAVE_CLOCKS,
    kept=True,
)

LOAD_PARKED = """
select found.* from unnest($1::text[], $2::int[], $3::bigint[]) as asked (topic, partition, "offset")
cross join lateral (
    select topic, partition, "offset", tenant, reason, sealed, parked_at, readable_until, retried from parked
    where (topic, partition, "offset") = (asked.topic, asked.partition, asked."offset")
    offset 0
) as found
"""
SAVE_PARKED = """
insert into parked (topic, partition, "offset", tenant, reason, sealed, parked_at, readable_until, retried)
select * from unnest(
    $1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[],
    $9::bool[]
)
on conflict (topic, partition, "offset") do update set retried = excluded.retried
"""


class ParkedRow(NamedTuple):
    """An inbox record that could not be decoded or decided; its bytes are sealed under a key of its own."""

    topic: str
    partition: int
    offset: int
    tenant: str
    reason: str
    sealed: str
    parked_at: datetime
    readable_until: datetime
    retried: bool


PARKED = Table(
    "parked",
    ParkedRow,
    ("topic", "partition", "offset"),
    ("topic", "partition", "offset"),
    "own",
    LOAD_PARKED,
    SAVE_PARKED,
)

TABLES = (SUBJECTS, REQUESTS, CLOCKS, PARKED)
