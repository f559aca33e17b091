-- The account of emergencies: what `store/emergency.rs` reads. These events are few, and no request
-- pays for finding them.

create index audit_event_emergency on audit_event (id)
    where type in ('breakglass.opened', 'breakglass.closed', 'breakglass.expired', 'breakglass.reviewed',
        'breakglass.drilled', 'breakglass.custodians_changed');

create index access_grant_emergency on access_grant (id) where emergency = 1;

-- Who reviews holds this row, so that two reviews are one after the other.
insert into counter (name, value) values ('review', 0);
