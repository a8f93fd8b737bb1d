-- How far a worker is: positions, leases and owners, the outbox, and the relay's record of what was acknowledged.

create table positions (
    partition int primary key,
    version bigint not null,
    offsets jsonb not null default '{}',
    seen jsonb not null default '{}',
    sequences jsonb not null default '{}'
) with (fillfactor = 20);

-- Apart from the position row, so that prolonging a lease never waits for a batch.
create table leases (
    partition int primary key,
    owner text not null,
    leased_until timestamptz not null
) with (fillfactor = 50);

create table owners (
    owner text primary key,
    seen_at timestamptz not null
) with (fillfactor = 50);

-- Cut by time, so that old rows go away with their whole partition. The cuts are made ahead by `maintain`;
-- the default one takes what comes when they were not.
create table outbox (
    partition int not null,
    target int not null,
    sequence bigint not null,
    "group" bigint not null,
    letter boolean not null,
    key bytea not null,
    value bytea not null,
    committed_at timestamptz not null default statement_timestamp()
) partition by range (committed_at);

create table outbox_default partition of outbox default;

create index outbox_unsent on outbox (partition, target, sequence);

create table relays (
    partition int not null,
    target int not null,
    sequence bigint not null,
    next_offset bigint not null,
    primary key (partition, target)
) with (fillfactor = 50);

create table answers (
    partition int primary key,
    answered bigint not null
) with (fillfactor = 50);
