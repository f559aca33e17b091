-- Whether an answer was one of the approvals that its request had when it was closed, or when its grant began (1, 0).
-- What counts is asked anew at each look until then, and what becomes of an approver later changes nothing of it.
-- None: that moment is to come, or came before this was kept.
alter table access_approval add column counted bigint;
