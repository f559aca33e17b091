-- Sign-ins under way and what keeps them from being used twice: written by `store/sign_in.rs`.

-- A browser that was sent to a provider. The row goes with its one use.
create table sign_in_flow (
    id text not null,
    -- SHA-256 of `state`, and of the cookie that binds it to the browser.
    state_hash bytea not null,
    binding_hash bytea not null,
    provider text not null,
    -- Nonce and PKCE verifier, sealed under the key-encryption key.
    sealed bytea not null,
    return_to text not null,
    created_at bigint not null,
    expires_at bigint not null,
    constraint sign_in_flow_key primary key (id),
    constraint sign_in_flow_state unique (state_hash)
);

create index sign_in_flow_ends on sign_in_flow (expires_at);

-- A browser that is signed in at the control host on its way to a service host.
create table service_handover (
    -- SHA-256 of the code, and of the cookie that binds it to the browser at the service host.
    code_hash bytea not null,
    binding_hash bytea not null,
    session text not null,
    host text not null,
    return_to text not null,
    created_at bigint not null,
    expires_at bigint not null,
    constraint service_handover_key primary key (code_hash),
    constraint service_handover_session foreign key (session) references session (id)
);

create index service_handover_ends on service_handover (expires_at);

-- Logout tokens of providers that were obeyed, until they are too old to be taken.
create table logout_token (
    provider text not null,
    jti_hash bytea not null,
    expires_at bigint not null,
    constraint logout_token_key primary key (provider, jti_hash)
);

create index logout_token_ends on logout_token (expires_at);

-- The first issuer of each provider's name, which it keeps.
create table provider_issuer (
    name text not null,
    issuer text not null,
    first_at bigint not null,
    constraint provider_issuer_key primary key (name)
);
