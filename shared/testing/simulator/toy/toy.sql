-- The state of the toy workers, for tests of the runtime on a real database.
create table accounts (
    tenant text not null,
    subject text not null,
    available bigint not null,
    pending bigint not null,
    transit bigint not null,
    facts bigint not null,
    primary key (tenant, subject)
);
create table deposits (
    tenant text not null,
    subject text not null,
    deposit_id text not null,
    amount bigint not null,
    matures_at timestamptz not null,
    matured boolean not null,
    primary key (tenant, subject, deposit_id)
);
create table transfers (
    tenant text not null,
    subject text not null,
    transfer_id text not null,
    side text not null,
    other text not null,
    amount bigint not null,
    state text not null,
    primary key (tenant, subject, transfer_id, side)
);
create table nicknames (
    tenant text not null,
    nickname text not null,
    subject text not null,
    primary key (tenant, nickname)
);
create table entries (
    tenant text not null,
    subject text not null,
    event_id text not null,
    account text not null,
    amount bigint not null,
    primary key (tenant, subject, event_id, account)
);
create table rates (
    partition integer not null,
    tenant text not null,
    effective_from timestamptz not null,
    percent integer not null,
    primary key (partition, tenant, effective_from)
);
create table watched (
    tenant text not null,
    subject text not null,
    deposits bigint not null,
    amount bigint not null,
    primary key (tenant, subject)
);
create table grants (
    tenant text not null,
    subject text not null,
    times bigint not null,
    amount bigint not null,
    primary key (tenant, subject)
);
create table clocked (
    tenant text not null,
    clock_at timestamptz,
    primary key (tenant)
);
