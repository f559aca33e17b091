-- Emergencies are read kind by kind and to the end, every few seconds at each node: of thousands of readings
-- of the record (`audit.`), which lie in the same index, none is looked at. Still one comparison for whoever
-- inserts anything else, and queries repeat the condition as it stands here.

-- ORDER: the new one first. On PostgreSQL dropping an index locks others out, who go on reading while one is made.
create index audit_event_emergency_kind on audit_event (type, id) where type < 'c';

drop index audit_event_emergency;
