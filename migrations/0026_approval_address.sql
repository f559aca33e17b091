-- How an approver came: approvals are judged again when others follow and when a grant begins, and policies may
-- ask where from, by which proof (`amr`, a JSON array) and on which device. Address and `amr` are both there or
-- both not: none for approvals of before, of which nothing is known; erased with the person.
alter table access_approval add column address text;
alter table access_approval add column amr text;
alter table access_approval add column device text;
