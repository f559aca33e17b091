-- The record and what keeps it: written by the files `store/audit_event.rs` and its neighbours.

-- Counters that several nodes share. Whoever counts holds the row until its transaction ends, so
-- numbers appear in the order of their commits and a rolled-back one leaves no gap.
create table counter (
    name text not null,
    value bigint not null,
    constraint counter_key primary key (name),
    constraint counter_value_not_negative check (value >= 0)
);

insert into counter (name, value) values ('audit_log', 0), ('revocation', 0), ('signing_key', 0);

-- One log a node. `number` is its short name in `audit_event`.
create table audit_log (
    number bigint not null,
    node text not null,
    next_seq bigint not null,
    opened_at bigint not null,
    constraint audit_log_key primary key (number),
    constraint audit_log_node unique (node),
    constraint audit_log_next_seq_not_negative check (next_seq >= 0)
);

-- What happened. `seq` and `leaf` are null until the event has its number; `log` is then the log
-- that will number it. The body's commitment and those of the personal fields are in the leaf;
-- what they commit to is in `body`, `personal` and `salts`.
create table audit_event (
    id text not null,
    log bigint not null,
    seq bigint,
    time bigint not null,
    type text not null,
    service text,
    outcome text not null,
    actor text,
    session text,
    grant_id text,
    body text not null,
    personal text not null,
    salts bytea not null,
    leaf bytea,
    constraint audit_event_key primary key (id),
    constraint audit_event_number unique (log, seq),
    constraint audit_event_numbered_with_leaf check ((seq is null) = (leaf is null)),
    constraint audit_event_log foreign key (log) references audit_log (number)
);

create index audit_event_pending on audit_event (id) where seq is null;

-- Secrets of the installation, sealed under the key-encryption key.
create table installation_secret (
    purpose text not null,
    sealed bytea not null,
    created_at bigint not null,
    constraint installation_secret_key primary key (purpose)
);

-- Keys that sign tokens. A row never changes: which key signs follows from `signs_from`.
create table signing_key (
    id text not null,
    algorithm text not null,
    public_point bytea not null,
    signs_from bigint not null,
    created_at bigint not null,
    sealed bytea not null,
    constraint signing_key_key primary key (id)
);

-- What every node must hear of, numbered from the counter row `revocation`.
create table revocation (
    number bigint not null,
    kind text not null,
    subject text not null,
    time bigint not null,
    constraint revocation_key primary key (number)
);

-- Principals who are barred. A lifted bar stays as history.
create table principal_lock (
    id text not null,
    principal_kind text not null,
    principal_id text not null,
    reason text not null,
    set_at bigint not null,
    cleared_at bigint,
    constraint principal_lock_key primary key (id)
);

create unique index principal_lock_active on principal_lock (principal_kind, principal_id) where cleared_at is null;
