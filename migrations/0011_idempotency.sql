-- What a repeated POST is answered: written by `store/idempotency.rs`.

create table idempotency_key (
    -- SHA-256 of principal, route and key: whose key it is can't be told from the row.
    key_hash bytea not null,
    -- SHA-256 of the body: the same key for something else is refused.
    body_hash bytea not null,
    -- The answer; null while the first one is at work.
    status bigint,
    answer text,
    created_at bigint not null,
    constraint idempotency_key_key primary key (key_hash)
);

create index idempotency_key_age on idempotency_key (created_at);
