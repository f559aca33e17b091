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
    -- Events that lost all their content, since a text in them named the person; and those that were
    -- found and left, since nobody asked for them.
    texts bigint not null,
    texts_left bigint not null,
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

-- Events that are still to be erased: held back by a rule of `[[audit.keep]]` until its time is over, or
-- (`rule` is empty) as soon as somebody comes to it.
create table audit_erasure_kept (
    erasure text not null,
    event text not null,
    rule text not null,
    until bigint not null,
    -- 1: all of its content goes, 0: what is the person's.
    whole bigint not null,
    constraint audit_erasure_kept_whole check (whole in (0, 1)),
    constraint audit_erasure_kept_key primary key (erasure, event),
    constraint audit_erasure_kept_of foreign key (erasure) references audit_erasure (id)
);

create index audit_erasure_kept_due on audit_erasure_kept (until);
