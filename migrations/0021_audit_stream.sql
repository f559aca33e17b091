-- Streams of the record to receivers outside: written by `store/audit_stream.rs`.

-- One stream, from the first time that it was configured.
create table audit_stream (
    name text not null,
    kind text not null,
    format text not null,
    opened_at bigint not null,
    -- When a node last had it in its configuration.
    seen_at bigint not null,
    -- Which node sends it, and until when nobody else may.
    sender text,
    sender_until bigint not null default 0,
    -- Events that were taken, and when the last ones were.
    sent bigint not null default 0,
    sent_at bigint,
    -- Since when nothing was taken, how often that was tried, and why not; whether that was told.
    failing_since bigint,
    failures bigint not null default 0,
    error text,
    stalled_at bigint,
    constraint audit_stream_key primary key (name),
    constraint audit_stream_kind check (kind in ('syslog', 'webhook', 'otlp'))
);

-- How far a stream has sent a log. A log without a row it begins at the start.
create table audit_stream_cursor (
    stream text not null,
    log bigint not null,
    next_seq bigint not null,
    constraint audit_stream_cursor_key primary key (stream, log),
    constraint audit_stream_cursor_stream foreign key (stream) references audit_stream (name),
    constraint audit_stream_cursor_log foreign key (log) references audit_log (number)
);
