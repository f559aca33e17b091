-- Reviews of who may do what at a service: written by `store/review.rs`. The rules of a review are what
-- they were when it began; what is decided about them is the reviewers'.
create table access_review (
    id text not null,
    service text not null,
    -- The policies whose rules these are.
    policy_version text not null,
    -- open, closed
    state text not null,
    started_by_kind text not null,
    started_by_id text not null,
    started_by_email text,
    started_at bigint not null,
    due_at bigint not null,
    -- Accounts and e-mail addresses of those who are to decide, a JSON list; empty for all who may review.
    reviewers text not null,
    closed_at bigint,
    closed_by_kind text,
    closed_by_id text,
    closed_by_email text,
    -- When it was last looked at, since it is due or closed, and put on record what is undecided.
    reminded_at bigint,
    constraint access_review_key primary key (id),
    constraint access_review_state check (state in ('open', 'closed')),
    constraint access_review_closed_whole check ((state = 'closed') = (closed_at is not null)),
    constraint access_review_closed_by check ((closed_at is null) = (closed_by_id is null))
);

-- One at a time: what is decided in one is not undecided in another.
create unique index access_review_open on access_review (service) where state = 'open';

create table access_review_rule (
    review text not null,
    number bigint not null,
    -- entitlement, permit
    kind text not null,
    name text not null,
    -- What it was, in JSON, and SHA-256 of what it meant.
    definition text not null,
    sha256 text not null,
    -- keep, remove
    choice text,
    reason text,
    decided_by_kind text,
    decided_by_id text,
    decided_by_email text,
    decided_by_email_verified bigint,
    decided_by_name text,
    decided_at bigint,
    -- Since when a rule that was to go is gone from the policies.
    removed_at bigint,
    -- When it was last put on record that it is to go.
    reminded_at bigint,
    constraint access_review_rule_key primary key (review, number),
    constraint access_review_rule_review foreign key (review) references access_review (id),
    constraint access_review_rule_kind check (kind in ('entitlement', 'permit')),
    constraint access_review_rule_choice check (choice in ('keep', 'remove')),
    constraint access_review_rule_decided_whole check ((choice is null) = (decided_at is null)),
    constraint access_review_rule_removed check (removed_at is null or choice = 'remove')
);

create index access_review_rule_to_remove on access_review_rule (review, number) where choice = 'remove';
