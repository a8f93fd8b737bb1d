"""A worker's machinery in Postgres: positions, leases, the outbox, the relay's record, timers.

Each statement stands above the one function that runs it. Functions take the connection first, never commit and raise
what the driver raises; `shared.runtime.postgres_store` gives that its meaning.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
import orjson

from shared.log.port import EVENTS
from shared.runtime.postgres_session import Connection
from shared.runtime.store import Acknowledged, Due, OutboxRow, Position, Reached, Sent

UNSENT_BYTES_MAX: Final = 8_000_000
"""Of keys and values that one reading of the outbox returns, unless its first group alone is larger."""


HOLD = """
with held as (
    select positions.partition from positions
    join unnest($1::int[], $2::bigint[]) as wanted (partition, version) using (partition, version)
    order by positions.partition for update of positions
)
update positions set version = version + 1 from held where positions.partition = held.partition
"""


async def hold(connection: Connection, held: Sequence[Position]) -> bool:
    partitions, versions = [each.partition for each in held], [each.version for each in held]
    return await connection.execute(HOLD, partitions, versions) == f"UPDATE {len(held)}"


MOVE = """
update positions
set offsets = moved.offsets::jsonb, seen = moved.seen::jsonb, sequences = moved.sequences::jsonb
from unnest($1::int[], $2::text[], $3::text[], $4::text[]) as moved (partition, offsets, seen, sequences)
where positions.partition = moved.partition
"""


async def move(connection: Connection, moved: Sequence[Position]) -> bool:
    columns = [[_json(getattr(each, name)) for each in moved] for name in ("offsets", "seen", "sequences")]
    done = await connection.execute(MOVE, [each.partition for each in moved], *columns)
    return done == f"UPDATE {len(moved)}"


def _json(part: Mapping[Any, int]) -> str:
    return orjson.dumps(part, option=orjson.OPT_NON_STR_KEYS).decode()


CLAIM = """
with taken as (
    insert into leases (partition, owner, leased_until)
    values ($1, $2, clock_timestamp() + $3::float8 * interval '1 second')
    on conflict (partition) do update set owner = excluded.owner, leased_until = excluded.leased_until
    where leases.owner = excluded.owner or leases.leased_until <= clock_timestamp()
    returning partition
)
insert into positions (partition, version) select partition, 1 from taken
on conflict (partition) do update set version = positions.version + 1
returning version, offsets, seen, sequences
"""


CLAIM_WAIT_MILLISECONDS_MAX = 250
BOUND_WAIT = "select set_config('lock_timeout', $1, true)"


async def claim(connection: Connection, owner: str, partition: int, lease_seconds: float) -> Position | None:
    """Waits but a little for a batch of the last owner: a stopped one must not cost us our other leases."""
    async with connection.transaction():
        await connection.fetchval(
            BOUND_WAIT, f"{max(1, min(CLAIM_WAIT_MILLISECONDS_MAX, int(lease_seconds * 1000 / 40)))}ms"
        )
        record = await connection.fetchrow(CLAIM, partition, owner, lease_seconds)
    return None if record is None else _position(partition, record)


def _position(partition: int, record: asyncpg.Record) -> Position:
    sequences = {int(target): int(last) for target, last in record["sequences"].items()}
    return Position(partition, record["version"], record["offsets"], record["seen"], sequences)


RENEW = """
with beat as (
    insert into owners (owner, seen_at) values ($1, clock_timestamp())
    on conflict (owner) do update set seen_at = excluded.seen_at
),
held as (select partition from leases where owner = $1 order by partition for update)
update leases set leased_until = clock_timestamp() + $2::float8 * interval '1 second'
from held where leases.partition = held.partition and leases.owner = $1
returning leases.partition
"""


async def renew(connection: Connection, owner: str, lease_seconds: float) -> frozenset[int]:
    return frozenset(record["partition"] for record in await connection.fetch(RENEW, owner, lease_seconds))


RELEASE = "delete from leases where owner = $1 and partition = any ($2::int[])"


async def release(connection: Connection, owner: str, partitions: Iterable[int]) -> None:
    await connection.execute(RELEASE, owner, sorted(partitions))


OWNERS = """
select owner, null::int as partition from owners
where seen_at > clock_timestamp() - $1::float8 * interval '1 second'
union all
select owner, partition from leases where leased_until > clock_timestamp()
"""


async def owners(connection: Connection, lease_seconds: float) -> tuple[frozenset[str], dict[int, str]]:
    records = await connection.fetch(OWNERS, lease_seconds)
    live = frozenset(record["owner"] for record in records if record["partition"] is None)
    return live, {record["partition"]: record["owner"] for record in records if record["partition"] is not None}


RETIRE = """
with leases_gone as (delete from leases where owner = $1)
delete from owners where owner = $1
"""


async def retire(connection: Connection, owner: str) -> None:
    await connection.execute(RETIRE, owner)


# For share: it waits for a commit that is still on its way, such as one whose answer was lost.
POSITION = "select version, offsets, seen, sequences from positions where partition = $1 for share"


async def position(connection: Connection, partition: int) -> Position | None:
    record = await connection.fetchrow(POSITION, partition)
    return None if record is None else _position(partition, record)


UNSENT = """
with outstanding as (
    select committed.target::int as target, coalesce(sent.sequence, 0) as after
    from positions
    cross join lateral jsonb_each_text(positions.sequences) as committed (target, sequence)
    left join unnest($2::int[], $3::bigint[]) as sent (target, sequence) on sent.target = committed.target::int
    where positions.partition = $1 and committed.sequence::bigint > coalesce(sent.sequence, 0)
),
found as (
    select next.* from outstanding cross join lateral (
        select partition, target, sequence, "group", letter, key, value from outbox
        where outbox.partition = $1 and outbox.target = outstanding.target and outbox.sequence > outstanding.after
        order by outbox.sequence limit $4
    ) as next
),
placed as (
    select found.*, row_number() over in_order as place, count(*) over () as found_rows,
        sum(octet_length(key) + octet_length(value))
            over (in_order rows between unbounded preceding and 1 preceding) as bytes_before
    from found window in_order as (order by "group", letter, target, sequence)
)
select partition, target, sequence, "group", letter, key, value, found_rows from placed
where place <= $4 and coalesce(bytes_before, 0) < $5 order by place
"""


async def unsent(connection: Connection, partition: int, sent: Mapping[int, Sent], most: int) -> list[OutboxRow]:
    """Whole groups within both bounds, or the first group alone. One query, unless a group is over the bounds.

    One row more than asked is read: when it is there, the last group may go on and is left for the next time.
    """
    targets = sorted(sent)
    sequences = [sent[target].sequence for target in targets]
    rows_max, bytes_max, widened = most + 1, UNSENT_BYTES_MAX, False
    while True:
        records = await connection.fetch(UNSENT, partition, targets, sequences, rows_max, bytes_max)
        rows = [OutboxRow(*record[:-1]) for record in map(tuple, records)]
        complete = len(rows) < rows_max and (not rows or len(rows) == records[0]["found_rows"])
        whole = rows if complete else [row for row in rows if row.group != rows[-1].group]
        if complete or whole:
            return [row for row in whole if row.group == whole[0].group] if widened else whole
        rows_max, bytes_max, widened = rows_max * 4, bytes_max * 4, True


SENT = """
select target, sequence, next_offset, null::bigint as answered from relays where partition = $1
union all
select null, null, null, answered from answers where partition = $1
"""


async def sent(connection: Connection, partition: int) -> tuple[dict[int, Sent], int]:
    found: dict[int, Sent] = {}
    answered = 0
    for record in await connection.fetch(SENT, partition):
        if record["target"] is None:
            answered = record["answered"]
        else:
            found[record["target"]] = Sent(record["sequence"], record["next_offset"])
    return found, answered


RECORD_SENT = """
with told as (
    insert into answers (partition, answered) select * from unnest($1::int[], $2::bigint[])
    on conflict (partition) do update set answered = excluded.answered where answers.answered < excluded.answered
)
insert into relays (partition, target, sequence, next_offset)
select * from unnest($3::int[], $4::int[], $5::bigint[], $6::bigint[])
on conflict (partition, target) do update set sequence = excluded.sequence, next_offset = excluded.next_offset
where (relays.sequence, relays.next_offset) < (excluded.sequence, excluded.next_offset)
"""


async def record_sent(connection: Connection, acknowledged: Mapping[int, Acknowledged]) -> None:
    partitions = sorted(acknowledged)
    sent = [
        (partition, target, *acknowledged[partition].sent[target])
        for partition in partitions
        for target in sorted(acknowledged[partition].sent)
    ]
    answered = [acknowledged[partition].answered for partition in partitions]
    await connection.execute(RECORD_SENT, partitions, answered, *(zip(*sent, strict=True) if sent else ((),) * 4))


# Timers of test-clock tenants lie behind the wall clock for good, so that passing over them would cost more with each.
# Their branch goes by tenant; the other one is not run where all tenants with timers are on test clocks.
DUE = """
select asked.partition, due.* from unnest($1::int[]) as asked (partition) cross join lateral (
    with recursive clocked as (select tenant, at from clocks where partition = asked.partition),
    tenants as (
        select min(tenant) as tenant from subjects where partition = asked.partition and due_at is not null
        union all
        select (
            select min(tenant) from subjects
            where partition = asked.partition and due_at is not null and tenant > tenants.tenant
        )
        from tenants where tenants.tenant in (select tenant from clocked)
    )
    (
        select tenant, subject, due_at from subjects
        where partition = asked.partition and due_at <= $2
            and (select bool_or(tenant not in (select tenant from clocked)) from tenants)
            and tenant <> all (array(select tenant from clocked))
        order by due_at, tenant, subject limit $3
    )
    union all
    select timers.* from clocked cross join lateral (
        select tenant, subject, due_at from subjects
        where partition = asked.partition and tenant = clocked.tenant and due_at <= clocked.at
        order by due_at, subject limit $3
    ) as timers
    order by due_at, tenant, subject limit $3
) as due
order by asked.partition, due_at, tenant, subject
"""


async def due(connection: Connection, partitions: Sequence[int], now: datetime, most: int) -> dict[int, list[Due]]:
    found: dict[int, list[Due]] = {partition: [] for partition in partitions}
    for partition, *timer in await connection.fetch(DUE, sorted(partitions), now, most):
        found[partition].append(Due(*timer))
    return found


NEXT_DUE = """
with recursive clocked as (select tenant from clocks where partition = $1),
tenants as (
    select min(tenant) as tenant from subjects where partition = $1 and due_at is not null
    union all
    select (select min(tenant) from subjects where partition = $1 and due_at is not null and tenant > tenants.tenant)
    from tenants where tenants.tenant in (select tenant from clocked)
)
select due_at from subjects
where partition = $1 and due_at is not null
    and (select bool_or(tenant not in (select tenant from clocked)) from tenants)
    and tenant <> all (array(select tenant from clocked))
order by due_at limit 1
"""


async def next_due(connection: Connection, partition: int) -> datetime | None:
    found: datetime | None = await connection.fetchval(NEXT_DUE, partition)
    return found


NOW = "select clock_timestamp()"


async def now(connection: Connection) -> datetime:
    found: datetime = await connection.fetchval(NOW)
    return found


REACHED = """
select $1::int, coalesce(answers.answered, 0), coalesce((positions.offsets ->> $2)::bigint, 0),
    coalesce(relays.next_offset, 0)
from (select $1::int as partition) as asked
left join positions on positions.partition = asked.partition
left join answers on answers.partition = asked.partition
left join relays on relays.partition = asked.partition and relays.target = asked.partition
"""


async def reached(connection: Connection, partition: int) -> Reached:
    record = await connection.fetchrow(REACHED, partition, EVENTS)
    return Reached(*record) if record else Reached(partition, 0, 0, 0)
