"""All SQL of the door. Its tables are shared by its partitions and insert-only: a row that is there stays."""

from collections.abc import Collection
from typing import Final, NamedTuple

from services.contacts.door.domain import ConflictRow, IdentityRow, OrderEntryRow, ReceiptRow
from shared.runtime.postgres_session import Connection
from shared.runtime.tables import Table

LOAD_RECEIPTS = """
select found.* from unnest($1::text[], $2::text[], $3::text[]) as asked (tenant, source, id)
cross join lateral (
    select tenant, source, id, body_hash, outcome, reason, subject from receipts
    where (tenant, source, id) = (asked.tenant, asked.source, asked.id)
    offset 0
) as found
"""
SAVE_RECEIPTS = """
insert into receipts (tenant, source, id, body_hash, outcome, reason, subject)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
on conflict (tenant, source, id) do nothing
"""
RECEIPTS: Final = Table(
    "receipts",
    ReceiptRow,
    ("tenant", "source", "id"),
    ("tenant", "source", "id"),
    "own",
    LOAD_RECEIPTS,
    SAVE_RECEIPTS,
    shared=True,
)

LOAD_CONFLICTS = """
select found.* from unnest($1::text[], $2::text[], $3::text[]) as asked (tenant, source, id)
cross join lateral (
    select tenant, source, id, body_hash from conflicts
    where (tenant, source, id) = (asked.tenant, asked.source, asked.id)
    offset 0
) as found
"""
SAVE_CONFLICTS = """
insert into conflicts (tenant, source, id, body_hash)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[])
on conflict (tenant, source, id, body_hash) do nothing
"""
CONFLICTS: Final = Table(
    "conflicts",
    ConflictRow,
    ("tenant", "source", "id", "body_hash"),
    ("tenant", "source", "id"),
    "own",
    LOAD_CONFLICTS,
    SAVE_CONFLICTS,
    shared=True,
)

LOAD_IDENTITIES = """
select found.* from unnest($1::text[], $2::text[], $3::text[]) as asked (tenant, kind, hash)
cross join lateral (
    select tenant, kind, hash, contact, value from identities
    where (tenant, kind, hash) = (asked.tenant, asked.kind, asked.hash)
    offset 0
) as found
"""
SAVE_IDENTITIES = """
insert into identities (tenant, kind, hash, contact, value)
select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
on conflict (tenant, kind, hash) do nothing
"""
IDENTITIES: Final = Table(
    "identities",
    IdentityRow,
    ("tenant", "kind", "hash"),
    ("tenant", "kind", "hash"),
    "own",
    LOAD_IDENTITIES,
    SAVE_IDENTITIES,
    shared=True,
)

LOAD_ORDER_ENTRIES = """
select found.* from unnest($1::text[], $2::text[], $3::text[]) as asked (tenant, channel, order_id)
cross join lateral (
    select tenant, channel, order_id, turn, kind, refund_id, subject, source, id, happened_at, currency, content_hash,
        lines, reason
    from order_entries
    where (tenant, channel, order_id) = (asked.tenant, asked.channel, asked.order_id)
    offset 0
) as found
"""
SAVE_ORDER_ENTRIES = """
insert into order_entries (
    tenant, channel, order_id, turn, kind, refund_id, subject, source, id, happened_at, currency, content_hash, lines,
    reason
)
select * from unnest(
    $1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::timestamptz[], $11::text[], $12::text[], $13::text[], $14::text[]
)
on conflict (tenant, channel, order_id, turn) do nothing
"""
ORDER_ENTRIES: Final = Table(
    "order_entries",
    OrderEntryRow,
    ("tenant", "channel", "order_id", "turn"),
    ("tenant", "channel", "order_id"),
    "own",
    LOAD_ORDER_ENTRIES,
    SAVE_ORDER_ENTRIES,
    shared=True,
)

TABLES: Final = (RECEIPTS, CONFLICTS, IDENTITIES, ORDER_ENTRIES)


class Receipt(NamedTuple):
    """What a sender is told of its event.

    `outcome` is the type of the fact that stands on the stream; of a refund that came before its order it is
    `refund.deferred.v1` until the order has come. `reason` is empty but for a refusal. `subject` is the contact; of
    a deferred or refused refund that names nobody known, the key of its inbox. `conflicts` counts other bodies that
    were refused under the same source and id.
    """

    body_hash: str
    outcome: str
    reason: str
    subject: str
    conflicts: int


FIND_RECEIPTS = """
select
    receipts.source,
    receipts.id,
    receipts.body_hash,
    case settling.kind
        when 'refund' then 'purchase.refunded.v1' when 'refusal' then 'refund.refused.v1' else receipts.outcome
    end as outcome,
    coalesce(settling.reason, receipts.reason) as reason,
    coalesce(settling.subject, receipts.subject) as subject,
    (
        select count(*) from conflicts
        where (conflicts.tenant, conflicts.source, conflicts.id) = (receipts.tenant, receipts.source, receipts.id)
    ) as conflicts
from unnest($2::text[], $3::text[]) as asked (source, id)
cross join lateral (  -- one by one by key: a plan from before the table was analysed would read all of the tenant's
    select * from receipts
    where receipts.tenant = $1 and receipts.source = asked.source and receipts.id = asked.id limit 1
) as receipts
left join lateral (
    select * from order_entries
    where order_entries.tenant = $1 and order_entries.source = asked.source and order_entries.id = asked.id
        and order_entries.kind in ('refund', 'refusal') limit 1
) as settling on true
"""


async def find_receipts(
    connection: Connection, tenant: str, asked: Collection[tuple[str, str]]
) -> dict[tuple[str, str], Receipt]:
    """The receipts of senders' events by (source, id), without those that the door has not decided on (yet)."""
    rows = await connection.fetch(
        FIND_RECEIPTS, tenant, [source for source, _ in asked], [event_id for _, event_id in asked]
    )
    return {(row["source"], row["id"]): Receipt(*tuple(row)[2:]) for row in rows}


async def find_receipt(connection: Connection, tenant: str, source: str, event_id: str) -> Receipt | None:
    """The receipt of a sender's event, None when the door has not decided on it (yet)."""
    return (await find_receipts(connection, tenant, [(source, event_id)])).get((source, event_id))


FIND_UNPUBLISHED = """
select positions.partition, (positions.offsets ->> $1)::bigint as reached
from door_machinery.positions
left join door_machinery.answers using (partition)
where (positions.offsets ->> $1)::bigint > coalesce(answers.answered, 0)
"""


async def find_unpublished(connection: Connection, inbox_topic: str) -> dict[int, int]:
    """Partitions whose latest decisions are not known to be in the log, with the inbox offset they reach."""
    rows = await connection.fetch(FIND_UNPUBLISHED, inbox_topic)
    return {row["partition"]: row["reached"] for row in rows}
