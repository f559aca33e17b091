//! People who have signed in lately, as their provider told of them last.
//!
//! INVARIANT: one row a principal, written in the transaction that begins or changes a session, and gone
//! with the provider's word that they left. Nobody is let in by it: it only says whom to tell. The addresses
//! that were verified for them stay beside it (`store/human.rs`), whether they left or not.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::model::{Person, Principal, PrincipalKind, Session, SessionKind, Timestamp};

/// The most that one page has.
pub const PERSON_PAGE_MAX: u32 = 500;
/// Rows that one sweep takes at most.
const SWEEP_MAX: i64 = 500;

const SEEN: &str = "\
    insert into person_seen (principal, email, email_verified, name, member_of, amr, seen_at) \
    values ($1, $2, $3, $4, $5, $6, $7) on conflict (principal) do update set \
    email = excluded.email, email_verified = excluded.email_verified, name = excluded.name, \
    member_of = excluded.member_of, amr = excluded.amr, seen_at = excluded.seen_at \
    where excluded.seen_at >= person_seen.seen_at";
const VERIFIED: &str = "\
    insert into person_email (principal, email, seen_at) values ($1, $2, $3) on conflict (principal, email) \
    do update set seen_at = excluded.seen_at where excluded.seen_at >= person_email.seen_at";
const REGROUPED: &str = "update person_seen set member_of = $2 where principal = $1";
const GONE: &str = "delete from person_seen where principal = $1";
const LIST: &str = "\
    select principal, email, email_verified, name, member_of, amr, seen_at from person_seen \
    where principal > $1 order by principal limit $2";
const FETCH: &str = "\
    select principal, email, email_verified, name, member_of, amr, seen_at from person_seen where principal = $1";
const SWEEP: [&str; 2] = [
    "delete from person_seen where principal in (select principal from person_seen where seen_at < $1 limit $2)",
    "delete from person_email where (principal, email) in \
     (select principal, email from person_email where seen_at < $1 limit $2)",
];

/// A person, and what policies judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPerson {
    /// Who.
    pub person: Person,
    /// Their groups, as the provider told last.
    pub groups: Vec<String>,
    /// How they signed in last.
    pub amr: Vec<String>,
    /// When that was.
    pub seen_at: Timestamp,
}

#[derive(FromRow)]
struct Row {
    principal: String,
    email: Option<String>,
    email_verified: i64,
    name: Option<String>,
    member_of: String,
    amr: String,
    seen_at: i64,
}

impl TryFrom<Row> for KnownPerson {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "person_seen", column, row: row.principal.clone() };
        let principal = Principal::stored(PrincipalKind::User, &row.principal).ok_or_else(|| wrong("principal"))?;
        Ok(Self {
            groups: serde_json::from_str(&row.member_of).map_err(|_| wrong("member_of"))?,
            amr: serde_json::from_str(&row.amr).map_err(|_| wrong("amr"))?,
            seen_at: Timestamp::from_millis(row.seen_at),
            person: Person { principal, email: row.email, email_verified: row.email_verified == 1, name: row.name },
        })
    }
}

/// Whether a session tells of a person.
fn is_person(session: &Session) -> bool {
    session.principal.kind() == PrincipalKind::User && session.kind != SessionKind::Workload
}

impl Store {
    /// The person who is this principal, if they have signed in lately.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn person_fetch(&self, principal: &Principal) -> Result<Option<KnownPerson>, StoreError> {
        if principal.kind() != PrincipalKind::User {
            return Ok(None);
        }
        let query = sqlx::query_as(FETCH).bind(principal.id().to_owned());
        let row: Option<Row> = query.fetch_optional(self.pool()).await?;
        row.map(KnownPerson::try_from).transpose()
    }

    /// People after the one named, in the order of their ids.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn person_list(&self, after: Option<&Principal>, limit: u32) -> Result<Vec<KnownPerson>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(after.map_or_else(String::new, |principal| principal.id().to_owned()))
            .bind(i64::from(limit.min(PERSON_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(KnownPerson::try_from).collect()
    }
}

impl Tx {
    /// Remembers the person of a session that begins.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn person_seen(&mut self, session: &Session) -> Result<(), StoreError> {
        if !is_person(session) {
            return Ok(());
        }
        let listed = |texts: &[String]| serde_json::Value::from(texts).to_string();
        sqlx::query(SEEN)
            .bind(session.principal.id().to_owned())
            .bind(session.email.clone())
            .bind(i64::from(session.email_verified))
            .bind(session.name.clone())
            .bind(listed(&session.groups))
            .bind(listed(&session.amr))
            .bind(session.created_at.millis())
            .execute(self.connection())
            .await?;
        if let Some(email) = session.email.as_ref().filter(|_| session.email_verified) {
            let query = sqlx::query(VERIFIED).bind(session.principal.id().to_owned()).bind(email.clone());
            query.bind(session.created_at.millis()).execute(self.connection()).await?;
        }
        Ok(())
    }

    /// Takes the groups that the provider gave a session.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn person_regrouped(&mut self, session: &Session) -> Result<(), StoreError> {
        if is_person(session) {
            let groups = serde_json::Value::from(session.groups.as_slice()).to_string();
            let query = sqlx::query(REGROUPED).bind(session.principal.id().to_owned()).bind(groups);
            query.execute(self.connection()).await?;
        }
        Ok(())
    }

    /// Forgets a person: their provider says that they left, or nothing is to be kept of them.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn person_forget(&mut self, principal: &Principal) -> Result<(), StoreError> {
        sqlx::query(GONE).bind(principal.id().to_owned()).execute(self.connection()).await?;
        Ok(())
    }

    /// Forgets people who were not seen since `before`, and their addresses, some at a time.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn person_sweep(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let mut gone = 0;
        for text in SWEEP {
            let query = sqlx::query(text).bind(before.millis()).bind(SWEEP_MAX);
            gone += query.execute(self.connection()).await?.rows_affected();
        }
        Ok(gone)
    }
}
