-- Which addresses a provider has verified for an account lately: accounts with one address are one human,
-- also after the session that told of it is forgotten, and whichever address the account has since. Kept
-- for as long as `control/access/human.rs` asks for it, also of who left: it only ever refuses.
create table person_email (
    principal text not null,
    email text not null,
    seen_at bigint not null,
    constraint person_email_key primary key (principal, email)
);

create index person_email_address on person_email (lower(email));
create index person_email_at on person_email (seen_at);

insert into person_email (principal, email, seen_at)
    select principal_id, email, max(created_at) from session
    where principal_kind = 'User' and email_verified = 1 and email is not null group by principal_id, email;
