-- Where an approver came from: approvals are judged again when others follow and when a grant begins, and
-- policies may ask where from. None for approvals of before; erased with the person.
alter table access_approval add column address text;
