-- Every request writes two events, and each asks every index on `audit_event` whether it belongs there.
-- A list of types was half of what an insertion costs on SQLite; the first letter says it in one
-- comparison: `c` to `f` are credentials, decisions and the ends of exchanges. Queries repeat the
-- condition as it stands here, by which SQLite knows the index.

drop index audit_event_emergency;
drop index audit_event_access;

-- `audit.` and `breakglass.`: what `store/emergency.rs` reads.
create index audit_event_emergency on audit_event (id) where type < 'c';

-- These and `grant.` to `review.`, without sessions and tokens: what `store/audit_view.rs` reads. The bound
-- is written differently, else SQLite takes this index for the one above.
create index audit_event_access on audit_event (id) where (type < 'bz' or (type > 'f' and type < 's'));
