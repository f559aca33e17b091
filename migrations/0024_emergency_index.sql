-- Emergencies are read kind by kind and to the end, every few seconds at each node: of thousands of readings
-- of the record (`audit.`), which lie in the same index, none is looked at. Still one comparison for whoever
-- inserts anything else, and queries repeat the condition as it stands here.

drop index audit_event_emergency;

create index audit_event_emergency on audit_event (type, id) where type < 'c';
