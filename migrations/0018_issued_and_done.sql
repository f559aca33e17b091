-- Certificates and tokens of ours that are out: written by `store/credential.rs` in the transaction that
-- issues them. Whose they are is their session's to say. Nothing of what makes them good is here.
create table credential (
    id text not null,
    -- x509, token
    kind text not null,
    session text not null,
    -- Where a token is good, what it is narrowed to, the grant that it ends with, and who acts by it.
    audience text,
    scope text,
    grant_id text,
    acting text,
    -- Of a certificate its own; of a token that of the certificate that it is bound to.
    thumbprint text,
    jti text,
    issued_at bigint not null,
    expires_at bigint not null,
    constraint credential_key primary key (id),
    constraint credential_kind check (kind in ('x509', 'token')),
    constraint credential_jti_of_token check ((kind = 'token') = (jti is not null))
);

create index credential_ends on credential (expires_at);

-- Whether what a key was taken for has been done: set in the transaction that does it
-- (`store/idempotency.rs`), so that it is known also where its answer got lost.
alter table idempotency_key add column done bigint not null default 0;
