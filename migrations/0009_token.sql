-- What keeps tokens from being used twice or after they were withdrawn: written by `store/token.rs`.
-- Tokens of others and proofs appear only as SHA-256.

-- What a workload's session was recognised by: a JSON object of texts.
alter table session add column claims text;

-- Tokens of other issuers that were exchanged, and proofs of possession (RFC 9449 §11.1) that were
-- taken, until they are too old to be taken again.
create table used_once (
    hash bytea not null,
    expires_at bigint not null,
    constraint used_once_key primary key (hash)
);

create index used_once_ends on used_once (expires_at);

-- Our own tokens that were withdrawn before their end, by their `jti`.
create table revoked_token (
    jti text not null,
    expires_at bigint not null,
    revoked_at bigint not null,
    constraint revoked_token_key primary key (jti)
);

create index revoked_token_ends on revoked_token (expires_at);
