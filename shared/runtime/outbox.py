"""Upkeep of the outbox: parts by time made ahead, and dropped whole when they are old and acknowledged."""

from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from shared.runtime.migrations import quoted
from shared.runtime.postgres_session import Connection

CUT_HOURS: Final = 6
"""The span of one part."""
CUTS_AHEAD: Final = 2
OWNER_KEPT_HOURS: Final = 24
NAME_FORMAT: Final = "outbox_%Y%m%d%H"

TRY_UPKEEP_LOCK = "select pg_try_advisory_xact_lock(hashtextextended('regulars.upkeep.' || $1, 0))"
SELECT_NOW = "select clock_timestamp()"
SELECT_PARTS = """
select parts.relname from pg_inherits
join pg_class as parts on parts.oid = pg_inherits.inhrelid
where pg_inherits.inhparent = to_regclass($1) order by parts.relname
"""
CREATE_PART = "create table {part} partition of {outbox} for values from ('{since}') to ('{until}')"
UNACKNOWLEDGED = """
select exists (
    select from outbox left join relays on relays.partition = outbox.partition and relays.target = outbox.target
    where outbox.committed_at >= $1 and outbox.committed_at < $2 and outbox.sequence > coalesce(relays.sequence, 0)
)
"""
DELETE_DEFAULT = """
delete from outbox_default using relays
where relays.partition = outbox_default.partition and relays.target = outbox_default.target
    and outbox_default.sequence <= relays.sequence and outbox_default.committed_at < $1
"""
DELETE_OWNERS = "delete from owners where seen_at < $1"


async def maintain(connection: Connection, machinery_schema: str, retention_hours: float) -> tuple[int, int]:
    """Make the parts of now and of the next hours, drop the old; returns how many were made and dropped.

    A part is dropped when its whole span is older than the retention and each of its rows is acknowledged by the log.
    One worker of many does it at a time. Takes a short exclusive lock, so it gives way after the lock time-out.
    """
    made = dropped = 0
    async with connection.transaction():
        if not await connection.fetchval(TRY_UPKEEP_LOCK, machinery_schema):
            return 0, 0
        now: datetime = await connection.fetchval(SELECT_NOW)
        outbox = quoted(machinery_schema) + "." + quoted("outbox")
        parts = {str(record["relname"]) for record in await connection.fetch(SELECT_PARTS, outbox)}
        for since in _spans(now):
            if since.strftime(NAME_FORMAT) not in parts:
                made += await _make(connection, machinery_schema, since)
        before = now - timedelta(hours=retention_hours)
        for part in sorted(parts - {"outbox_default"}):
            dropped += await _drop(connection, machinery_schema, part, before)
        await connection.execute(DELETE_DEFAULT, before)
        await connection.execute(DELETE_OWNERS, now - timedelta(hours=OWNER_KEPT_HOURS))
    return made, dropped


def _spans(now: datetime) -> list[datetime]:
    first = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first -= timedelta(hours=first.hour % CUT_HOURS)
    return [first + timedelta(hours=CUT_HOURS * ahead) for ahead in range(CUTS_AHEAD + 1)]


async def _make(connection: Connection, schema: str, since: datetime) -> bool:
    create = CREATE_PART.format(
        part=quoted(schema) + "." + quoted(since.strftime(NAME_FORMAT)),
        outbox=quoted(schema) + "." + quoted("outbox"),
        since=since.isoformat(),
        until=(since + timedelta(hours=CUT_HOURS)).isoformat(),
    )
    try:
        async with connection.transaction():
            await connection.execute(create)
    except asyncpg.CheckViolationError:
        return False  # rows of this span are in the default part already, and stay there
    return True


async def _drop(connection: Connection, schema: str, part: str, before: datetime) -> bool:
    since = datetime.strptime(part, NAME_FORMAT).replace(tzinfo=UTC)
    until = since + timedelta(hours=CUT_HOURS)
    if until > before or await connection.fetchval(UNACKNOWLEDGED, since, until):
        return False
    await connection.execute("drop table " + quoted(schema) + "." + quoted(part))
    return True
