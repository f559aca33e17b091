-- Who has signed in lately, as their provider told of them last: who may approve is found among them
-- also when nobody of them is signed in. Written by `store/person.rs`.
create table person_seen (
    principal text not null,
    email text,
    email_verified bigint not null,
    name text,
    member_of text not null,
    amr text not null,
    seen_at bigint not null,
    constraint person_seen_key primary key (principal),
    constraint person_seen_verified check (email_verified in (0, 1))
);

create index person_seen_at on person_seen (seen_at);

-- Who beside fixed addresses got a mail of an event already: a hash of event and address, so that a
-- trial for those who did not get it sends none of the others a second one.
create table notice_told (
    channel text not null,
    event text not null,
    mark text not null,
    told_at bigint not null,
    constraint notice_told_key primary key (channel, event, mark)
);

create index notice_told_at on notice_told (told_at);
