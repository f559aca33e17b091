//! Access reviews: of which service, since when, until when, and who closed them. Their rules are in
//! `store/review_rule.rs`.
//!
//! INVARIANT: a service has one open review at most (`access_review_open`).

use sqlx::FromRow;

use super::access_request::principal_of;
use super::engine::{Store, StoreError, Tx};
use crate::model::{Principal, ReviewId, ReviewState, ServiceName, Timestamp};

/// Reviews on one page of a list at most.
pub const REVIEW_PAGE_MAX: u32 = 200;
/// What sorts after every id.
const AFTER_ALL: &str = "rev_w";

macro_rules! columns {
    () => {
        "id, service, policy_version, state, started_by_kind, started_by_id, started_by_email, started_at, due_at, \
         reviewers, closed_at, closed_by_kind, closed_by_id, closed_by_email"
    };
}

const INSERT: &str = "\
    insert into access_review (id, service, policy_version, state, started_by_kind, started_by_id, started_by_email, \
    started_at, due_at, reviewers) values ($1, $2, $3, 'open', $4, $5, $6, $7, $8, $9) on conflict do nothing";
const FETCH: &str = concat!("select ", columns!(), " from access_review where id = $1");
/// Empty text: any. `id` sorts by time.
const LIST: &str = concat!(
    "select ",
    columns!(),
    " from access_review where ($1 = '' or state = $1) and ($2 = '' or service = $2) and id < $3 \
     order by id desc limit $4"
);
/// An update that changes nothing: it waits for who changes the review, and makes others wait.
const HOLD: &str =
    concat!("update access_review set state = state where id = $1 and state = 'open' returning ", columns!());
const CLOSE: &str = concat!(
    "update access_review set state = 'closed', closed_at = $2, closed_by_kind = $3, closed_by_id = $4, \
     closed_by_email = $5 where id = $1 and state = 'open' returning ",
    columns!()
);
const LIST_DUE: &str = concat!(
    "select ",
    columns!(),
    " from access_review where ((state = 'open' and due_at <= $1) or (state = 'closed' and not exists \
     (select 1 from access_review l where l.service = access_review.service and l.id > access_review.id))) \
     and (reminded_at is null or reminded_at <= $2) order by due_at limit $3"
);
const REMIND: &str = "\
    update access_review set reminded_at = $2 where id = $1 \
    and (reminded_at is null or reminded_at <= $3)";

/// Somebody who did something, with the address that the provider told of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doer {
    /// Who.
    pub principal: Principal,
    /// Their e-mail.
    pub email: Option<String>,
}

/// A review without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReview {
    /// Its id.
    pub id: ReviewId,
    /// Of which service.
    pub service: ServiceName,
    /// Under which policies it began.
    pub policy_version: String,
    /// How far it is.
    pub state: ReviewState,
    /// Who began it.
    pub started_by: Doer,
    /// When.
    pub started_at: Timestamp,
    /// Until when its rules are to be decided.
    pub due_at: Timestamp,
    /// Accounts and e-mail addresses of those who are to decide; none: all who may review.
    pub reviewers: Vec<String>,
    /// Who closed it.
    pub closed_by: Option<Doer>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    service: String,
    policy_version: String,
    state: String,
    started_by_kind: String,
    started_by_id: String,
    started_by_email: Option<String>,
    started_at: i64,
    due_at: i64,
    reviewers: String,
    closed_at: Option<i64>,
    closed_by_kind: Option<String>,
    closed_by_id: Option<String>,
    closed_by_email: Option<String>,
}

impl TryFrom<Row> for StoredReview {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "access_review", column, row: row.id.clone() };
        let closed_by = match (&row.closed_by_kind, &row.closed_by_id) {
            (Some(kind), Some(id)) => {
                let principal = principal_of(kind, id).ok_or_else(|| wrong("closed_by_id"))?;
                Some(Doer { principal, email: row.closed_by_email.clone() })
            }
            _ => None,
        };
        let state = match (row.state.as_str(), row.closed_at) {
            ("open", None) => ReviewState::Open,
            ("closed", Some(at)) => ReviewState::Closed { at: Timestamp::from_millis(at) },
            _ => return Err(wrong("state")),
        };
        let started_by =
            principal_of(&row.started_by_kind, &row.started_by_id).ok_or_else(|| wrong("started_by_id"))?;
        Ok(Self {
            id: ReviewId::parse(&row.id).map_err(|_| wrong("id"))?,
            service: ServiceName::parse(&row.service).map_err(|_| wrong("service"))?,
            policy_version: row.policy_version.clone(),
            state,
            started_by: Doer { principal: started_by, email: row.started_by_email.clone() },
            started_at: Timestamp::from_millis(row.started_at),
            due_at: Timestamp::from_millis(row.due_at),
            reviewers: serde_json::from_str(&row.reviewers).map_err(|_| wrong("reviewers"))?,
            closed_by,
        })
    }
}

impl Store {
    /// The review of that id.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn review_fetch(&self, id: ReviewId) -> Result<Option<StoredReview>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        row.map(StoredReview::try_from).transpose()
    }

    /// Reviews, newest first: in that state, of that service, older than `before`.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn review_list(
        &self,
        state: Option<&str>,
        service: Option<&ServiceName>,
        before: Option<ReviewId>,
        limit: u32,
    ) -> Result<Vec<StoredReview>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(state.unwrap_or_default().to_owned())
            .bind(service.map_or("", ServiceName::as_str).to_owned())
            .bind(before.map_or_else(|| AFTER_ALL.to_owned(), |id| id.to_string()))
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(StoredReview::try_from).collect()
    }

    /// Reviews that may have something undecided though they are over or due, and of which nobody was reminded
    /// since `reminded`. One that is closed counts until another of its service begins.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn review_list_due(
        &self,
        now: Timestamp,
        reminded: Timestamp,
        limit: u32,
    ) -> Result<Vec<StoredReview>, StoreError> {
        let query = sqlx::query_as(LIST_DUE).bind(now.millis()).bind(reminded.millis()).bind(i64::from(limit));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(StoredReview::try_from).collect()
    }
}

impl Tx {
    /// Begins a review. `false`: one of that service is open.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_insert(&mut self, review: &StoredReview) -> Result<bool, StoreError> {
        let reviewers = serde_json::json!(review.reviewers).to_string();
        let done = sqlx::query(INSERT)
            .bind(review.id.to_string())
            .bind(review.service.as_str().to_owned())
            .bind(review.policy_version.clone())
            .bind(review.started_by.principal.kind().name())
            .bind(review.started_by.principal.id().to_owned())
            .bind(review.started_by.email.clone())
            .bind(review.started_at.millis())
            .bind(review.due_at.millis())
            .bind(reviewers)
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Waits for whoever changes the review; until this transaction ends nobody else does. `None`: it is over.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn review_hold(&mut self, id: ReviewId) -> Result<Option<StoredReview>, StoreError> {
        let row: Option<Row> = sqlx::query_as(HOLD).bind(id.to_string()).fetch_optional(self.connection()).await?;
        row.map(StoredReview::try_from).transpose()
    }

    /// Closes a review. `None`: it is over already.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn review_close(
        &mut self,
        id: ReviewId,
        by: &Doer,
        now: Timestamp,
    ) -> Result<Option<StoredReview>, StoreError> {
        let row: Option<Row> = sqlx::query_as(CLOSE)
            .bind(id.to_string())
            .bind(now.millis())
            .bind(by.principal.kind().name())
            .bind(by.principal.id().to_owned())
            .bind(by.email.clone())
            .fetch_optional(self.connection())
            .await?;
        row.map(StoredReview::try_from).transpose()
    }

    /// Notes that the review was looked at and, where something is undecided, that was put on record. `false`:
    /// somebody else did.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_remind(
        &mut self,
        id: ReviewId,
        now: Timestamp,
        reminded: Timestamp,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(REMIND).bind(id.to_string()).bind(now.millis()).bind(reminded.millis());
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }
}
