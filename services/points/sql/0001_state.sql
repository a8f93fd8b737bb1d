-- The state of the points worker, folded from the stream and digested: programs, ledger, lots, orders and tiers.

create table members (
    tenant text not null,
    contact text not null,
    entries bigint not null,
    evaluations bigint not null,
    purchases bigint not null,
    primary key (tenant, contact)
);

create table accounts (
    tenant text not null,
    contact text not null,
    wallet text not null,
    available bigint not null check (available >= 0),
    owed bigint not null check (owed >= 0),
    issued bigint not null,
    redeemed bigint not null,
    expired bigint not null,
    adjusted bigint not null,
    reversed bigint not null,
    primary key (tenant, contact, wallet),
    check (available - owed = issued - redeemed - expired + adjusted - reversed)
);

create table lots (
    tenant text not null,
    contact text not null,
    number bigint not null,
    wallet text not null,
    standing boolean not null,
    program text not null,
    version integer not null,
    rule text not null,
    earned bigint not null,
    remaining bigint not null check (remaining >= 0),
    earned_at timestamptz not null,
    expires_at timestamptz,
    primary key (tenant, contact, number)
);
create index lots_open on lots (tenant, contact) where remaining > 0;

create table ledger_entries (
    tenant text not null,
    contact text not null,
    number bigint not null,
    wallet text not null,
    source text not null,
    destination text not null,
    points bigint not null check (points > 0),
    lot bigint not null,
    program text not null,
    version integer not null,
    rule text not null,
    line_id text not null,
    channel text not null,
    order_id text not null,
    event_source text not null,
    event_id text not null,
    fact_id text not null,
    fact_type text not null,
    reference text not null,
    by text not null,
    effective_at timestamptz not null,
    recorded_at timestamptz not null,
    cause text not null,
    primary key (tenant, contact, number)
);

create table evaluations (
    tenant text not null,
    contact text not null,
    number bigint not null,
    event_source text not null,
    event_id text not null,
    event_type text not null,
    channel text not null,
    order_id text not null,
    program text not null,
    version integer not null,
    reason text not null,
    results text not null,
    fact_id text not null,
    effective_at timestamptz not null,
    recorded_at timestamptz not null,
    cause text not null,
    primary key (tenant, contact, number)
);
create index evaluations_by_event on evaluations (tenant, event_id);

create table order_lines (
    tenant text not null,
    contact text not null,
    channel text not null,
    order_id text not null,
    line_id text not null,
    quantity bigint not null,
    refunded bigint not null check (refunded between 0 and quantity),
    primary key (tenant, contact, channel, order_id, line_id)
);

create table order_awards (
    tenant text not null,
    contact text not null,
    channel text not null,
    order_id text not null,
    entry bigint not null,
    line_id text not null,
    wallet text not null,
    program text not null,
    version integer not null,
    rule text not null,
    points bigint not null,
    reversed bigint not null check (reversed between 0 and points),
    lot bigint not null,
    expires_at timestamptz,
    recorded_at timestamptz not null,
    primary key (tenant, contact, channel, order_id, entry)
);

create table refunds (
    tenant text not null,
    contact text not null,
    channel text not null,
    order_id text not null,
    refund_id text not null,
    reason text not null,
    fact_id text not null,
    primary key (tenant, contact, channel, order_id, refund_id)
);

create table waiting_refunds (
    tenant text not null,
    contact text not null,
    channel text not null,
    order_id text not null,
    refund_id text not null,
    number bigint not null,
    lines text not null,
    event_source text not null,
    event_id text not null,
    event_type text not null,
    happened_at timestamptz not null,
    waiting_since timestamptz not null,
    fact_id text not null,
    released_by text not null,
    primary key (tenant, contact, channel, order_id, refund_id)
);

create table tiers (
    tenant text not null,
    contact text not null,
    tiers text not null,
    program text not null,
    version integer not null,
    wallet text not null,
    level text not null,
    level_since timestamptz not null,
    joined_at timestamptz not null,
    qualified bigint not null,
    period_started_at timestamptz not null,
    review_at timestamptz,
    changes bigint not null,
    primary key (tenant, contact)
);

create table tier_changes (
    tenant text not null,
    contact text not null,
    number bigint not null,
    tiers text not null,
    program text not null,
    version integer not null,
    change text not null,
    from_level text not null,
    to_level text not null,
    qualified bigint not null,
    reviewed bigint,
    period_started_at timestamptz not null,
    review_at timestamptz,
    fact_id text not null,
    effective_at timestamptz not null,
    recorded_at timestamptz not null,
    cause text not null,
    primary key (tenant, contact, number)
);

create table programs (
    tenant text not null,
    program text not null,
    draft text not null,
    draft_hash text not null,
    drafted_at timestamptz not null,
    drafted_by text not null,
    versions integer not null,
    primary key (tenant, program)
);

create table published_programs (
    tenant text not null,
    program text not null,
    version integer not null,
    effective_from timestamptz not null,
    document text not null,
    document_hash text not null,
    published_by text not null,
    published_at timestamptz not null,
    fact_id text not null,
    cause text not null,
    primary key (tenant, program, version)
);

create table program_versions (
    tenant text not null,
    partition integer not null,
    program text not null,
    version integer not null,
    effective_from timestamptz not null,
    document text not null,
    document_hash text not null,
    primary key (tenant, partition, program, version)
);

create table tenants (
    tenant text not null,
    partition integer not null,
    zone text not null,
    currency text not null,
    primary key (tenant, partition)
);

create table identities (
    tenant text not null,
    kind text not null,
    hash text not null,
    contact text not null,
    identified_at timestamptz not null,
    primary key (tenant, kind, hash, contact)
);
create index identities_by_contact on identities (tenant, contact);

alter table members enable row level security;
create policy one_tenant on members using (tenant = current_setting('regulars.tenant', true));
alter table accounts enable row level security;
create policy one_tenant on accounts using (tenant = current_setting('regulars.tenant', true));
alter table lots enable row level security;
create policy one_tenant on lots using (tenant = current_setting('regulars.tenant', true));
alter table ledger_entries enable row level security;
create policy one_tenant on ledger_entries using (tenant = current_setting('regulars.tenant', true));
alter table evaluations enable row level security;
create policy one_tenant on evaluations using (tenant = current_setting('regulars.tenant', true));
alter table order_lines enable row level security;
create policy one_tenant on order_lines using (tenant = current_setting('regulars.tenant', true));
alter table order_awards enable row level security;
create policy one_tenant on order_awards using (tenant = current_setting('regulars.tenant', true));
alter table refunds enable row level security;
create policy one_tenant on refunds using (tenant = current_setting('regulars.tenant', true));
alter table waiting_refunds enable row level security;
create policy one_tenant on waiting_refunds using (tenant = current_setting('regulars.tenant', true));
alter table tiers enable row level security;
create policy one_tenant on tiers using (tenant = current_setting('regulars.tenant', true));
alter table tier_changes enable row level security;
create policy one_tenant on tier_changes using (tenant = current_setting('regulars.tenant', true));
alter table programs enable row level security;
create policy one_tenant on programs using (tenant = current_setting('regulars.tenant', true));
alter table published_programs enable row level security;
create policy one_tenant on published_programs using (tenant = current_setting('regulars.tenant', true));
alter table program_versions enable row level security;
create policy one_tenant on program_versions using (tenant = current_setting('regulars.tenant', true));
alter table tenants enable row level security;
create policy one_tenant on tenants using (tenant = current_setting('regulars.tenant', true));
alter table identities enable row level security;
create policy one_tenant on identities using (tenant = current_setting('regulars.tenant', true));
