-- When the session of a browser was last used at any node: written by `store/session_use.rs`, every
-- now and then while it is in use and not at each request. Without a row it was not used since it began.

create table session_use (
    session text not null,
    used_at bigint not null,
    constraint session_use_key primary key (session)
);
