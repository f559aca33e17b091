-- Who asked for what, who answered, and what was granted: written by `store/access_request.rs` and
-- `store/grant.rs`. Lists and maps are JSON texts; lengths are milliseconds.

create table access_request (
    id text not null,
    entitlement text not null,
    service text not null,
    principal_kind text not null,
    principal_id text not null,
    email text,
    email_verified bigint not null,
    name text,
    -- The session that asked, and from where: what the right to ask is judged by again.
    session text not null,
    address text not null,
    reason text not null,
    ticket text,
    params text not null,
    length_ms bigint not null,
    start_at bigint,
    emergency bigint not null,
    -- The grant that it prolongs.
    extends text,
    -- `sha256:…` of the canonical request, which an approval names.
    hash text not null,
    -- The actions that it opens.
    actions text not null,
    approvals_needed bigint not null,
    -- pending, approved, denied, withdrawn, timed_out; what comes after is the grant's.
    state text not null,
    created_at bigint not null,
    answer_by bigint not null,
    closed_at bigint,
    grant_id text,
    constraint access_request_key primary key (id),
    constraint access_request_state check (state in ('pending', 'approved', 'denied', 'withdrawn', 'timed_out')),
    constraint access_request_length_positive check (length_ms > 0),
    constraint access_request_closed_whole check ((state = 'pending') = (closed_at is null)),
    constraint access_request_granted_whole check (grant_id is null or state = 'approved')
);

create index access_request_principal on access_request (principal_kind, principal_id);
create index access_request_pending on access_request (answer_by) where state = 'pending';

-- One answer of one account to one request.
create table access_approval (
    request text not null,
    principal_kind text not null,
    principal_id text not null,
    email text,
    email_verified bigint not null,
    name text,
    answer text not null,
    reason text,
    -- What was seen; an answer to something else does not count any more.
    hash text not null,
    time bigint not null,
    constraint access_approval_key primary key (request, principal_kind, principal_id),
    constraint access_approval_answer check (answer in ('approve', 'deny')),
    constraint access_approval_request foreign key (request) references access_request (id)
);

create table access_grant (
    id text not null,
    request text not null,
    entitlement text not null,
    service text not null,
    principal_kind text not null,
    principal_id text not null,
    email text,
    name text,
    params text not null,
    actions text not null,
    emergency bigint not null,
    -- How many people have reviewed it, where it was an emergency.
    reviews bigint not null,
    -- scheduled, queued, active, expired, revoked, dropped
    state text not null,
    created_at bigint not null,
    starts_at bigint not null,
    length_ms bigint not null,
    active_at bigint,
    expires_at bigint,
    ended_at bigint,
    end_reason text,
    constraint access_grant_key primary key (id),
    constraint access_grant_request foreign key (request) references access_request (id),
    constraint access_grant_state check (state in ('scheduled', 'queued', 'active', 'expired', 'revoked', 'dropped')),
    constraint access_grant_active_whole check ((active_at is null) = (expires_at is null)),
    constraint access_grant_over_whole check ((ended_at is not null) = (state in ('expired', 'revoked', 'dropped')))
);

create index access_grant_principal on access_grant (principal_kind, principal_id);
create index access_grant_open on access_grant (entitlement) where ended_at is null;

-- A row an entitlement: who counts its holders holds it until the transaction ends.
create table entitlement_counter (
    entitlement text not null,
    turns bigint not null,
    constraint entitlement_counter_key primary key (entitlement)
);

-- Who does what only one node may do.
create table duty (
    name text not null,
    node text not null,
    until bigint not null,
    constraint duty_key primary key (name)
);
