"""What the API reads of members as such: whether points knows a contact, what time it is for it, what lapses next."""

from datetime import datetime
from typing import NamedTuple

from shared.runtime.migrations import Connection

SEEN = """
select
    exists (select from members where tenant = $1 and contact = $2)
        or exists (select from identities where tenant = $1 and contact = $2) as known,
    (select at from clocks where tenant = $1 and partition = $3) as clock,
    (select now from subjects where tenant = $1 and subject = $2) as decided_at
"""


class Seen(NamedTuple):
    """A contact as this service knows it. `clock` is the test clock on its partition, None on real time."""

    known: bool
    clock: datetime | None
    decided_at: datetime | None
    """The `now` of its last decision."""

    def instant(self, host: datetime) -> datetime:
        """The time that a decision on this contact would have now; `host` is this machine's."""
        now = self.clock or host
        return now if self.decided_at is None else max(now, self.decided_at)


async def seen(connection: Connection, tenant: str, contact: str, partition: int) -> Seen:
    """What there is of the contact; `partition` is the contact's."""
    row = await connection.fetchrow(SEEN, tenant, contact, partition)
    assert row is not None
    return Seen(*row)


TENANT_CLOCK = """
select max(at) from clocks where tenant = $1
"""


async def tenant_clock(connection: Connection, tenant: str) -> datetime | None:
    """Where the tenant's test clock stands; None: it runs on real time."""
    at: datetime | None = await connection.fetchval(TENANT_CLOCK, tenant)
    return at


LAPSING = """
select distinct on (wallet) wallet, expires_at, sum(remaining)::bigint from lots
where tenant = $1 and contact = $2 and remaining > 0 and expires_at > $3
group by wallet, expires_at
order by wallet, expires_at
"""


class Lapsing(NamedTuple):
    """The points of a wallet that lapse next."""

    wallet: str
    at: datetime
    points: int


async def lapsing_next(connection: Connection, tenant: str, contact: str, at: datetime) -> list[Lapsing]:
    """What lapses next after that instant, by wallet."""
    return [Lapsing(*row) for row in await connection.fetch(LAPSING, tenant, contact, at)]


LAPSING_AS_OF = """
with held as (
    select e.wallet, l.expires_at,
        sum(case when e.destination = 'member:available' then e.points else - e.points end)::bigint as points
    from ledger_entries e
    join lots l on l.tenant = e.tenant and l.contact = e.contact and l.number = e.lot
    where e.tenant = $1 and e.contact = $2 and e.effective_at <= $3 and l.expires_at > $3
        and 'member:available' in (e.source, e.destination)
    group by e.wallet, l.expires_at
)
select distinct on (wallet) wallet, expires_at, points from held
where points > 0
order by wallet, expires_at
"""


async def lapsing_as_of(connection: Connection, tenant: str, contact: str, as_of: datetime) -> list[Lapsing]:
    """The same as it was at that instant, by event time."""
    return [Lapsing(*row) for row in await connection.fetch(LAPSING_AS_OF, tenant, contact, as_of)]
