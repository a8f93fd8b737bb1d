-- The contacts worker's state, first part: tenants and their API keys.

create table tenants (
    tenant text not null,
    name text not null,
    zone text not null,
    currency text not null,
    clock timestamptz,
    primary key (tenant)
);
comment on table tenants is 'Settings of each tenant; clock is where its test clock stands, null on real time.';
alter table tenants enable row level security;
create policy one_tenant on tenants using (tenant = current_setting('regulars.tenant', true));

create table credentials (
    tenant text not null,
    credential_id text not null,
    secret_hash text not null,
    scopes text not null,
    name text not null,
    revoked boolean not null,
    primary key (tenant, credential_id)
);
comment on table credentials is 'API keys, hashed with SHA-256; scopes are separated by spaces.';
alter table credentials enable row level security;
create policy one_tenant on credentials using (tenant = current_setting('regulars.tenant', true));
