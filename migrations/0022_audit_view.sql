-- What it takes to tell everything about one grant, and who had access: read by `store/audit_view.rs`.
-- A request pays for it only where it rests on a grant; requests and grants themselves are few.

create index audit_event_grant on audit_event (grant_id, id) where grant_id is not null;

create index audit_event_access on audit_event (id)
    where type in ('request.created', 'request.approved', 'request.denied', 'request.voided', 'grant.scheduled',
        'grant.active', 'grant.extended', 'grant.expired', 'grant.revoked', 'grant.dropped', 'breakglass.opened',
        'breakglass.closed', 'breakglass.expired');
