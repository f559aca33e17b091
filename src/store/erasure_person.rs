//! What the tables beside the record know of a person, found and erased. Which table keeps what, and
//! why, is in `deploy/runbooks/erasure.md`; a new column that can hold something of a person belongs
//! into both.
//!
//! INVARIANT: rows that others' answers rest on stay, with a name in place of the account that no
//! provider can give; rows that are the person's alone go.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::audit::erase::ERASED;
use crate::model::{EventId, Principal, PrincipalKind, Timestamp, UserRef};

/// Accounts, addresses and names that are looked at at most.
const FOUND_MAX: i64 = 10_000;
/// The shortest name that a reason is looked through for: a shorter one is many words.
const NAME_CHARS_MIN: usize = 3;
/// The shortest address that is looked for in texts.
const EMAIL_BYTES_MIN: usize = 5;
/// The address that stands where one was erased.
const NO_ADDRESS: &str = "0.0.0.0";

const ACCOUNTS: &str = "\
    select principal_id from session where principal_kind = 'User' union \
    select principal from person_seen union \
    select principal from person_email union \
    select principal_id from access_request where principal_kind = 'User' union \
    select principal_id from access_approval where principal_kind = 'User' union \
    select principal_id from access_grant where principal_kind = 'User' union \
    select principal_id from principal_lock where principal_kind = 'User' union \
    select started_by_id from access_review where started_by_kind = 'User' union \
    select decided_by_id from access_review_rule where decided_by_kind = 'User' union \
    select provider || '|' || subject from provider_link limit $1";
const ACCOUNTS_OF_EMAIL: &str = "\
    select principal_id from session where principal_kind = 'User' and lower(email) = lower($1) union \
    select principal from person_seen where lower(email) = lower($1) union \
    select principal from person_email where lower(email) = lower($1) union \
    select principal_id from access_request where principal_kind = 'User' and lower(email) = lower($1) union \
    select principal_id from access_approval where principal_kind = 'User' and lower(email) = lower($1) union \
    select principal_id from access_grant where principal_kind = 'User' and lower(email) = lower($1) union \
    select started_by_id from access_review where started_by_kind = 'User' and lower(started_by_email) = lower($1) union \
    select decided_by_id from access_review_rule where decided_by_kind = 'User' and lower(decided_by_email) = lower($1) \
    limit $2";
const NAMES: &str = "\
    select email, name from session where principal_kind = 'User' and principal_id = $1 union \
    select email, name from person_seen where principal = $1 union \
    select email, null from person_email where principal = $1 union \
    select email, name from access_request where principal_kind = 'User' and principal_id = $1 union \
    select email, name from access_approval where principal_kind = 'User' and principal_id = $1 union \
    select email, name from access_grant where principal_kind = 'User' and principal_id = $1 union \
    select started_by_email, null from access_review where started_by_kind = 'User' and started_by_id = $1 union \
    select decided_by_email, decided_by_name from access_review_rule \
    where decided_by_kind = 'User' and decided_by_id = $1 limit $2";
/// An account, an address or a name in the record alone, where all tables have let go of it.
const PRINCIPAL_IN_RECORD: &str = "\
    select actor, personal from audit_event where log = $1 and seq >= $2 and seq < $3 \
    and personal like $4 escape '~' order by seq limit 100";

const SESSIONS_LIVE: &str = "\
    select count(*) from session where principal_kind = 'User' and principal_id = $1 \
    and ended_at is null and expires_at > $2";
const REQUESTS_PENDING: &str = "\
    select count(*) from access_request where principal_kind = 'User' and principal_id = $1 and state = 'pending'";
/// Without its account an approval is nobody's, and who signs in again could give a second one.
const APPROVALS_PENDING: &str = "\
    select count(*) from access_approval a join access_request r on r.id = a.request \
    where a.principal_kind = 'User' and a.principal_id = $1 and a.answer = 'approve' and r.state = 'pending'";
const GRANTS_OPEN: &str = "\
    select count(*) from access_grant where principal_kind = 'User' and principal_id = $1 and ended_at is null";
const GRANTS_UNREVIEWED: &str = "\
    select count(*) from access_grant where principal_kind = 'User' and principal_id = $1 \
    and emergency = 1 and reviews < $2";
const LOCKED: &str = "\
    select count(*) from principal_lock where principal_kind = 'User' and principal_id = $1 and cleared_at is null";

macro_rules! sessions {
    ($before:literal) => {
        concat!($before, " in (select id from session where principal_kind = 'User' and principal_id = $1)")
    };
}

/// What goes with the sessions of a person, then the sessions.
const DELETE: [&str; 13] = [
    sessions!("delete from session_cookie where session"),
    sessions!("delete from refresh_token where session"),
    sessions!("delete from service_handover where session"),
    sessions!("delete from oauth_code where issued"),
    sessions!("delete from oauth_code where parent"),
    sessions!("delete from device_code where issued"),
    sessions!("delete from device_code where parent"),
    sessions!("delete from session_use where session"),
    sessions!("delete from credential where session"),
    "delete from session where principal_kind = 'User' and principal_id = $1",
    "delete from person_seen where principal = $1",
    "delete from person_email where principal = $1",
    "delete from principal_lock where principal_kind = 'User' and principal_id = $1 and cleared_at is not null",
];
const LINKS: &str = "\
    delete from provider_link where provider = $1 and subject = $2 \
    and not exists (select 1 from session where session.link = provider_link.id)";
/// The feed's entries of the last minute are left to its own pruning: a node that is a little behind
/// must not miss that a bar was lifted.
const FEED: &str = "delete from revocation where subject = $1 and time < $2";
const FEED_LEFT_MS: i64 = 60_000;

/// `$1` the account, `$2` what stands in its place, `$3` what stands for a text of theirs.
const REPLACE: [&str; 2] = [
    "update access_approval set principal_id = $2, email = null, email_verified = 0, name = null, address = null, \
     amr = null, device = null, reason = case when reason is null then null else $3 end where principal_kind = 'User' and principal_id = $1",
    "update access_grant set principal_id = $2, email = null, name = null, \
     end_reason = case when end_reason is null then null else $3 end \
     where principal_kind = 'User' and principal_id = $1",
];
const REPLACE_REQUEST: &str = "\
    update access_request set principal_id = $2, email = null, email_verified = 0, name = null, address = $4, \
    reason = $3, ticket = case when ticket is null then null else $3 end \
    where principal_kind = 'User' and principal_id = $1";

macro_rules! mention {
    ($table:literal, $column:literal $(, $and:literal)?) => {
        concat!(
            "update ", $table, " set ", $column, " = $1 where (lower(", $column, ") like $2 escape '~' or ",
            $column, " like $3 escape '~')" $(, " and ", $and)?
        )
    };
}

/// Texts of others that name the person. A request that is open keeps its words: its approvals are bound to
/// them.
const MENTIONS: [&str; 9] = [
    mention!(
        "access_request",
        "reason",
        "state <> 'pending' and not exists (select 1 from access_grant g where g.request = access_request.id \
         and g.ended_at is null)"
    ),
    mention!(
        "access_request",
        "ticket",
        "state <> 'pending' and not exists (select 1 from access_grant g where g.request = access_request.id \
         and g.ended_at is null)"
    ),
    mention!("access_approval", "reason"),
    mention!("access_grant", "end_reason"),
    mention!("principal_lock", "reason"),
    mention!("notice", "error"),
    mention!("access_review_rule", "reason"),
    mention!("audit_stream", "error"),
    mention!("audit_erasure", "reason"),
];
/// An answer that is kept for who repeats it: that it was done stays known, what it said does not.
const ANSWERS: &str = "\
    update idempotency_key set status = null, answer = null, done = 1 \
    where answer is not null and (lower(answer) like $1 escape '~' or answer like $2 escape '~')";

const TOLD: &str = "select channel, event, mark from notice_told where (channel, event, mark) > ($1, $2, $3) \
    order by channel, event, mark limit $4";
const TOLD_DELETE: &str = "delete from notice_told where channel = $1 and event = $2 and mark = $3";
const TOLD_PAGE: i64 = 1_000;

/// What keeps a person from being erased: it is to be ended first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unfinished {
    /// Live sessions.
    pub sessions: i64,
    /// Requests that wait for an answer.
    pub requests: i64,
    /// Requests of others that they approved and that wait for more answers.
    pub approvals: i64,
    /// Grants that are active or will be.
    pub grants: i64,
    /// Emergency grants that not enough people have reviewed.
    pub unreviewed: i64,
    /// Locks that hold.
    pub locks: i64,
}

/// What a person is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Their account.
    pub principal: Principal,
    /// The e-mail addresses that it had.
    pub emails: Vec<String>,
    /// The names that it had.
    pub names: Vec<String>,
}

impl Traces {
    /// Texts that name the person and nobody else: their account and their addresses.
    ///
    /// Names are none of them: a provider may call somebody `the`, and who erases that person must not
    /// take every text with that word.
    #[must_use]
    pub fn telling(&self) -> Vec<String> {
        let addresses = self.emails.iter().filter(|email| {
            email.len() >= EMAIL_BYTES_MIN
                && email.split_once('@').is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
        });
        addresses.cloned().chain([self.principal.id().to_owned()]).collect()
    }

    /// Whether a text has one of them in it, standing by itself.
    #[must_use]
    pub fn are_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        self.telling().iter().any(|telling| stands_in(&text, &telling.to_lowercase()))
    }

    /// Whether a text has one of them, or a name of theirs, in it.
    #[must_use]
    pub fn or_names_are_in(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        let names = self.names.iter().filter(|name| name.chars().count() >= NAME_CHARS_MIN);
        self.are_in(text) || names.into_iter().any(|name| stands_in(&lower, &name.to_lowercase()))
    }
}

/// Whether `part` is in `text` and no letter or digit goes on with it: `a@b.example` is not in
/// `a@b.example2`, and `dev|al` not in `dev|alice`.
fn stands_in(text: &str, part: &str) -> bool {
    let free = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    text.match_indices(part).any(|(at, found)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(at + found.len()..).and_then(|after| after.chars().next());
        free(before) && free(after)
    })
}

#[derive(FromRow)]
struct NameRow {
    email: Option<String>,
    name: Option<String>,
}

#[derive(FromRow)]
struct ToldRow {
    channel: String,
    event: String,
    mark: String,
}

/// `text` as a pattern of `like … escape '~'`.
fn literally(text: &str) -> String {
    text.replace('~', "~~").replace('%', "~%").replace('_', "~_")
}

pub(super) fn anywhere(text: &str) -> String {
    format!("%{}%", literally(text))
}

/// A text as it stands within a JSON string.
pub(super) fn in_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(&quoted).to_owned()
}

fn stands_for(pseudonym: UserRef) -> String {
    format!("({ERASED})|{pseudonym}")
}

/// Who stands in a table where a person was erased.
#[must_use]
pub fn erased_principal(pseudonym: UserRef) -> Option<Principal> {
    Principal::stored(PrincipalKind::User, &stands_for(pseudonym))
}

/// The pseudonym in what stands in a table where a person was erased; none of an account of a person.
#[must_use]
pub fn erased_pseudonym(principal: &str) -> Option<&str> {
    principal.strip_prefix('(')?.strip_prefix(ERASED)?.strip_prefix(")|")
}

impl Store {
    /// Every account of a person that a table knows.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn account_list(&self) -> Result<Vec<Principal>, StoreError> {
        let ids: Vec<String> = sqlx::query_scalar(ACCOUNTS).bind(i64::MAX).fetch_all(self.pool()).await?;
        let held = ids.iter().filter(|id| erased_pseudonym(id).is_none());
        Ok(held.filter_map(|id| Principal::stored(PrincipalKind::User, id)).collect())
    }

    /// The accounts that have had this address, verified or not.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn account_list_of_email(&self, email: &str) -> Result<Vec<Principal>, StoreError> {
        let query = sqlx::query_scalar(ACCOUNTS_OF_EMAIL).bind(email.to_owned()).bind(FOUND_MAX);
        let ids: Vec<String> = query.fetch_all(self.pool()).await?;
        Ok(ids.iter().filter_map(|id| Principal::stored(PrincipalKind::User, id)).collect())
    }

    /// Addresses and names of an account.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn traces_of(&self, principal: &Principal) -> Result<Traces, StoreError> {
        let query = sqlx::query_as(NAMES).bind(principal.id().to_owned()).bind(FOUND_MAX);
        let rows: Vec<NameRow> = query.fetch_all(self.pool()).await?;
        let (mut emails, mut names) = (Vec::new(), Vec::new());
        for row in rows {
            emails.extend(row.email);
            names.extend(row.name);
        }
        for list in [&mut emails, &mut names] {
            list.retain(|text| !text.trim().is_empty());
            list.sort();
            list.dedup();
        }
        Ok(Traces { principal: principal.clone(), emails, names })
    }

    /// The personal values of events at `from..to` of a log that have this text in them, some of them,
    /// each with who acted.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn personal_with(
        &self,
        log: super::log::Log,
        (from, to): (i64, i64),
        text: &str,
    ) -> Result<Vec<(Option<String>, String)>, StoreError> {
        let query = sqlx::query_as(PRINCIPAL_IN_RECORD).bind(log.number).bind(from).bind(to);
        Ok(query.bind(anywhere(&in_json(text))).fetch_all(self.pool()).await?)
    }
}

impl Tx {
    /// What of a person is not over; an emergency grant is over when `reviewers` have reviewed it.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn person_unfinished(
        &mut self,
        principal: &Principal,
        reviewers: u32,
        now: Timestamp,
    ) -> Result<Unfinished, StoreError> {
        let id = principal.id().to_owned();
        let sessions = sqlx::query_scalar(SESSIONS_LIVE).bind(id.clone()).bind(now.millis());
        let sessions = sessions.fetch_one(self.connection()).await?;
        let requests = sqlx::query_scalar(REQUESTS_PENDING).bind(id.clone()).fetch_one(self.connection()).await?;
        let approvals = sqlx::query_scalar(APPROVALS_PENDING).bind(id.clone()).fetch_one(self.connection()).await?;
        let grants = sqlx::query_scalar(GRANTS_OPEN).bind(id.clone()).fetch_one(self.connection()).await?;
        let unreviewed = sqlx::query_scalar(GRANTS_UNREVIEWED).bind(id.clone()).bind(i64::from(reviewers));
        let unreviewed = unreviewed.fetch_one(self.connection()).await?;
        let locks = sqlx::query_scalar(LOCKED).bind(id).fetch_one(self.connection()).await?;
        Ok(Unfinished { sessions, requests, approvals, grants, unreviewed, locks })
    }

    /// Erases a person from every table beside the record, and from the texts of others that name them.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn person_erase(
        &mut self,
        traces: &Traces,
        pseudonym: UserRef,
        mark_of: impl Fn(EventId, &str) -> String + Send,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let principal = &traces.principal;
        for text in DELETE {
            sqlx::query(text).bind(principal.id().to_owned()).execute(self.connection()).await?;
        }
        let links = sqlx::query(LINKS).bind(principal.provider().to_owned()).bind(principal.subject().to_owned());
        links.execute(self.connection()).await?;
        let feed = sqlx::query(FEED).bind(principal.to_string()).bind(now.millis() - FEED_LEFT_MS);
        feed.execute(self.connection()).await?;
        for text in REPLACE {
            let query = sqlx::query(text).bind(principal.id().to_owned()).bind(stands_for(pseudonym));
            query.bind(ERASED).execute(self.connection()).await?;
        }
        let query = sqlx::query(REPLACE_REQUEST).bind(principal.id().to_owned()).bind(stands_for(pseudonym));
        query.bind(ERASED).bind(NO_ADDRESS).execute(self.connection()).await?;
        self.reviews_erase(traces, &stands_for(pseudonym), ERASED).await?;
        for telling in traces.telling() {
            for text in MENTIONS {
                let query = sqlx::query(text).bind(ERASED).bind(anywhere(&telling.to_lowercase()));
                query.bind(anywhere(&telling)).execute(self.connection()).await?;
            }
            let written = in_json(&telling);
            let query = sqlx::query(ANSWERS).bind(anywhere(&written.to_lowercase())).bind(anywhere(&written));
            query.execute(self.connection()).await?;
        }
        self.marks_erase(&traces.emails, mark_of).await
    }

    /// Forgets what was kept of mails to these addresses.
    async fn marks_erase(
        &mut self,
        emails: &[String],
        mark_of: impl Fn(EventId, &str) -> String + Send,
    ) -> Result<(), StoreError> {
        let mut last = (String::new(), String::new(), String::new());
        while !emails.is_empty() {
            let (channel, event, mark) = last;
            let query = sqlx::query_as(TOLD).bind(channel).bind(event).bind(mark).bind(TOLD_PAGE);
            let page: Vec<ToldRow> = query.fetch_all(self.connection()).await?;
            let Some(end) = page.last() else { break };
            last = (end.channel.clone(), end.event.clone(), end.mark.clone());
            for row in page {
                let Ok(id) = EventId::parse(&row.event) else { continue };
                if emails.iter().any(|email| mark_of(id, email) == row.mark) {
                    let query = sqlx::query(TOLD_DELETE).bind(row.channel).bind(row.event).bind(row.mark);
                    query.execute(self.connection()).await?;
                }
            }
        }
        Ok(())
    }
}
