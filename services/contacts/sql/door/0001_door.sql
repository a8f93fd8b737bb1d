-- The door's state: who is known, what was delivered, what orders hold. Rows are inserted and never changed.

create table receipts (
    tenant text not null,
    source text not null,
    id text not null,
    body_hash text not null,
    outcome text not null,
    reason text not null,
    subject text not null,
    primary key (tenant, source, id)
);
comment on table receipts is 'What became of each sender''s event, for ever: dedupe and receipt in one.';
alter table receipts enable row level security;
create policy one_tenant on receipts using (tenant = current_setting('regulars.tenant', true));

create table conflicts (
    tenant text not null,
    source text not null,
    id text not null,
    body_hash text not null,
    primary key (tenant, source, id, body_hash)
);
comment on table conflicts is 'Other bodies that came under the source and id of a receipt.';
alter table conflicts enable row level security;
create policy one_tenant on conflicts using (tenant = current_setting('regulars.tenant', true));

create table identities (
    tenant text not null,
    kind text not null,
    hash text not null,
    contact text not null,
    value text not null,
    primary key (tenant, kind, hash)
);
comment on table identities is 'Contact by keyed hash of an identity; value is sealed under the contact''s key.';
alter table identities enable row level security;
create policy one_tenant on identities using (tenant = current_setting('regulars.tenant', true));

create table order_entries (
    tenant text not null,
    channel text not null,
    order_id text not null,
    turn integer not null,
    kind text not null,
    refund_id text not null,
    subject text not null,
    source text not null,
    id text not null,
    happened_at timestamptz not null,
    currency text not null,
    content_hash text not null,
    lines text not null,
    reason text not null,
    primary key (tenant, channel, order_id, turn)
);
comment on table order_entries is 'One row per fact about an order: purchase, refund, deferral, refusal of a deferral.';
create index order_entries_settling on order_entries (tenant, source, id) where kind in ('refund', 'refusal');
alter table order_entries enable row level security;
create policy one_tenant on order_entries using (tenant = current_setting('regulars.tenant', true));
