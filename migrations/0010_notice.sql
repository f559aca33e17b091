-- Notices that follow from committed events: written by `store/notice.rs`.

-- The places that are told, from the first time that one was configured.
create table notice_channel (
    name text not null,
    created_at bigint not null,
    -- Set by whoever reads the record for it: the row is held until its notices are kept.
    read_at bigint not null,
    constraint notice_channel_key primary key (name)
);

-- How far a channel has read a log.
create table notice_cursor (
    channel text not null,
    log bigint not null,
    next_seq bigint not null,
    constraint notice_cursor_key primary key (channel, log),
    constraint notice_cursor_channel foreign key (channel) references notice_channel (name),
    constraint notice_cursor_log foreign key (log) references audit_log (number)
);

-- One notice a channel and event. What it says is made from the event when it is sent, so nothing
-- personal is kept here. A trial is claimed by counting it and setting the time of the next.
create table notice (
    channel text not null,
    event text not null,
    type text not null,
    -- waiting, delivered, dead
    state text not null,
    attempts bigint not null,
    next_at bigint not null,
    error text,
    created_at bigint not null,
    ended_at bigint,
    constraint notice_key primary key (channel, event),
    constraint notice_channel_known foreign key (channel) references notice_channel (name),
    constraint notice_state check (state in ('waiting', 'delivered', 'dead')),
    constraint notice_end_whole check ((state = 'waiting') = (ended_at is null))
);

create index notice_due on notice (channel, next_at) where state = 'waiting';
create index notice_ended on notice (ended_at) where ended_at is not null;
