-- API keys as declared by contacts. No row-level security: it is what says which tenant a caller is.

create table known_credentials (
    secret_hash text not null,
    credential_id text not null,
    tenant text not null,
    scopes text not null,
    revoked bool not null,
    primary key (secret_hash)
);
