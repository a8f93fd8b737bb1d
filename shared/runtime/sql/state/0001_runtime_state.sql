-- What every worker folds: subjects with their time and timer, request outcomes, test clocks, parked inputs.

create table subjects (
    tenant text not null,
    subject text not null,
    partition int not null,
    now timestamptz not null,
    due_at timestamptz,
    primary key (tenant, subject)
) with (fillfactor = 80);

-- Timers by the wall clock, and by each tenant's own clock.
create index subjects_due on subjects (partition, due_at) where due_at is not null;
create index subjects_due_by_tenant on subjects (partition, tenant, due_at) where due_at is not null;

create table requests (
    tenant text not null,
    key text not null,
    body_hash text not null,
    event_id text not null,
    type text not null,
    subject text not null,
    partition int not null,
    outcome text not null,
    primary key (tenant, key)
);

-- Tenant-wide letters give each partition a copy of its own. Tenant first, as everywhere; few rows, read by partition.
create table clocks (
    partition int not null,
    tenant text not null,
    at timestamptz not null,
    primary key (tenant, partition)
);

create table parked (
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    tenant text not null,
    reason text not null,
    sealed text not null,
    parked_at timestamptz not null,
    readable_until timestamptz not null,
    retried boolean not null,
    primary key (topic, partition, "offset")
);

create index parked_by_tenant on parked (tenant, parked_at);

-- The API role sees one tenant per transaction; with none set it sees no rows.
alter table subjects enable row level security;
alter table requests enable row level security;
alter table clocks enable row level security;
alter table parked enable row level security;
create policy one_tenant on subjects using (tenant = current_setting('regulars.tenant', true));
create policy one_tenant on requests using (tenant = current_setting('regulars.tenant', true));
create policy one_tenant on clocks using (tenant = current_setting('regulars.tenant', true));
create policy one_tenant on parked using (tenant = current_setting('regulars.tenant', true));
