-- Sessions and what is issued under them: written by `store/session.rs`, `store/link.rs` and
-- `store/oauth.rs`. Secrets that people or programs hold appear only as SHA-256.

-- What ties sessions to a sign-in at a provider: one row a sign-in, shared by the browser session
-- and the sessions that came from it.
create table provider_link (
    id text not null,
    provider text not null,
    subject text not null,
    -- The provider's own session id, where it told one (OpenID Connect Back-Channel Logout §2.1).
    sid text,
    -- The provider's refresh token, sealed under the key-encryption key.
    sealed bytea,
    -- When the provider is asked next; null where it can't be asked.
    next_check_at bigint,
    created_at bigint not null,
    constraint provider_link_key primary key (id)
);

create index provider_link_subject on provider_link (provider, subject);
create index provider_link_due on provider_link (next_check_at) where next_check_at is not null;

create table session (
    id text not null,
    kind text not null,
    principal_kind text not null,
    principal_id text not null,
    email text,
    email_verified bigint not null,
    name text,
    -- JSON arrays of texts.
    member_of text not null,
    amr text not null,
    created_at bigint not null,
    authenticated_at bigint not null,
    expires_at bigint not null,
    version bigint not null,
    device_id text,
    device_certificate text,
    -- The newest certificate that was issued: thumbprint, end, and SHA-256 of its public key.
    certificate text,
    certificate_expires_at bigint,
    certificate_key bytea,
    link text,
    ended_at bigint,
    end_reason text,
    constraint session_key primary key (id),
    constraint session_version_positive check (version > 0),
    constraint session_device_whole check ((device_id is null) = (device_certificate is null)),
    constraint session_certificate_whole check ((certificate is null) = (certificate_expires_at is null)),
    constraint session_end_whole check ((ended_at is null) = (end_reason is null)),
    constraint session_link foreign key (link) references provider_link (id)
);

create index session_principal on session (principal_kind, principal_id);
create index session_by_link on session (link) where link is not null;

create table session_cookie (
    hash bytea not null,
    session text not null,
    host text not null,
    created_at bigint not null,
    expires_at bigint not null,
    constraint session_cookie_key primary key (hash),
    constraint session_cookie_session foreign key (session) references session (id)
);

create index session_cookie_by_session on session_cookie (session);

create table oauth_code (
    hash bytea not null,
    client_id text not null,
    redirect_uri text not null,
    -- BASE64URL(SHA-256(verifier)), RFC 7636 §4.2.
    challenge text not null,
    -- The browser session that stands behind it.
    parent text not null,
    created_at bigint not null,
    expires_at bigint not null,
    used_at bigint,
    -- The session that came from it.
    issued text,
    constraint oauth_code_key primary key (hash),
    constraint oauth_code_parent foreign key (parent) references session (id),
    constraint oauth_code_issued foreign key (issued) references session (id)
);

-- A family of refresh tokens is a session.
create table refresh_token (
    hash bytea not null,
    session text not null,
    client_id text not null,
    created_at bigint not null,
    expires_at bigint not null,
    used_at bigint,
    constraint refresh_token_key primary key (hash),
    constraint refresh_token_session foreign key (session) references session (id)
);

create index refresh_token_by_session on refresh_token (session);

create table device_code (
    hash bytea not null,
    user_code_hash bytea not null,
    client_id text not null,
    -- pending, approved, denied, redeemed
    state text not null,
    -- Who asks: shown to the person who is to agree.
    address text not null,
    agent text not null,
    created_at bigint not null,
    expires_at bigint not null,
    -- How long the asker waits between two polls, and when it may poll next.
    interval_ms bigint not null,
    next_poll_at bigint not null,
    -- The browser session that agreed.
    parent text,
    -- The session that came from it.
    issued text,
    constraint device_code_key primary key (hash),
    constraint device_code_user_code unique (user_code_hash),
    constraint device_code_state check (state in ('pending', 'approved', 'denied', 'redeemed')),
    constraint device_code_parent foreign key (parent) references session (id),
    constraint device_code_issued foreign key (issued) references session (id)
);
