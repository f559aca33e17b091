-- Grants that end when they are not used, and what it takes to find the accounts of one human:
-- written by `store/grant.rs`, read by `store/grant_use.rs` and `store/human.rs`.

alter table access_grant add column idle_ms bigint;
-- The last use that any node told of; a little behind the truth (`control/access/idle.rs`).
alter table access_grant add column used_at bigint;

create index access_grant_idle on access_grant (id) where idle_ms is not null and ended_at is null;
create index access_grant_ended on access_grant (entitlement, ended_at);

create index session_email on session (lower(email)) where email_verified = 1;
create index access_request_email on access_request (lower(email)) where email_verified = 1;
create index access_approval_email on access_approval (lower(email)) where email_verified = 1;
create index access_approval_principal on access_approval (principal_kind, principal_id);
