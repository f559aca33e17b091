-- Erasures of people from the record: written by `store/erasure.rs` and `store/erasure_person.rs`.
-- Nothing here says who a pseudonym stood for.

create table audit_erasure (
    id text not null,
    -- The pseudonym that the erased trail goes on under. It is given to nobody any more.
    pseudonym text not null,
    requested_at bigint not null,
    -- The pseudonym of who erased, and why, in their words.
    requested_by text not null,
    reason text not null,
    -- running: batches are under way; kept: what a rule holds back waits; done
    state text not null,
    -- Events that lost values, and values that went with their salts, so far.
    events bigint not null,
    fields bigint not null,
    -- Where the logs are looked through once more, for what came late; null when that is done.
    look_again_at bigint,
    finished_at bigint,
    constraint audit_erasure_key primary key (id),
    constraint audit_erasure_pseudonym unique (pseudonym),
    constraint audit_erasure_state check (state in ('running', 'kept', 'done')),
    constraint audit_erasure_finish_whole check ((state = 'done') = (finished_at is not null))
);

create index audit_erasure_open on audit_erasure (id) where state = 'running' or look_again_at is not null;

-- How far an erasure has looked through a log. A crash goes on from here.
create table audit_erasure_log (
    erasure text not null,
    log bigint not null,
    next_seq bigint not null,
    constraint audit_erasure_log_key primary key (erasure, log),
    constraint audit_erasure_log_of foreign key (erasure) references audit_erasure (id),
    constraint audit_erasure_log_log foreign key (log) references audit_log (number)
);

-- Events that a rule of `[[audit.keep]]` holds back, and until when.
create table audit_erasure_kept (
    erasure text not null,
    event text not null,
    rule text not null,
    until bigint not null,
    constraint audit_erasure_kept_key primary key (erasure, event),
    constraint audit_erasure_kept_of foreign key (erasure) references audit_erasure (id)
);

create index audit_erasure_kept_due on audit_erasure_kept (until);
