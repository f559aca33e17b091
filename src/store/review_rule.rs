//! The rules of access reviews, as they were when their review began, and what was decided about each.
//!
//! INVARIANT: a decision and what follows from it change by guarded statements, so of two who change one
//! the first is; only a rule of an open review is decided.

use sqlx::FromRow;

use super::access_request::principal_of;
use super::engine::{Store, StoreError, Tx};
use crate::model::{Choice, Decision, Person, ReviewId, RuleKind, RuleState, ServiceName, Timestamp};

/// Rules of one review at most.
pub const RULES_MAX: u32 = 1_000;

macro_rules! columns {
    () => {
        "r.review, r.number, r.kind, r.name, r.definition, r.sha256, r.choice, r.reason, r.decided_by_kind, \
         r.decided_by_id, r.decided_by_email, r.decided_by_email_verified, r.decided_by_name, r.decided_at, \
         r.removed_at, r.reminded_at, a.service"
    };
}

const INSERT: &str = "\
    insert into access_review_rule (review, number, kind, name, definition, sha256) values ($1, $2, $3, $4, $5, $6)";
const LIST: &str = concat!(
    "select ",
    columns!(),
    " from access_review_rule r join access_review a on a.id = r.review where r.review = $1 order by r.number limit $2"
);
const DECIDE: &str = "\
    update access_review_rule set choice = $3, reason = $4, decided_by_kind = $5, decided_by_id = $6, \
    decided_by_email = $7, decided_by_email_verified = $8, decided_by_name = $9, decided_at = $10, reminded_at = null \
    where review = $1 and number = $2 and removed_at is null \
    and exists (select 1 from access_review a where a.id = $1 and a.state = 'open')";
/// Those that are or were to go, after the one named.
const LIST_TO_REMOVE: &str = concat!(
    "select ",
    columns!(),
    " from access_review_rule r join access_review a on a.id = r.review where r.choice = 'remove' \
     and (r.review > $1 or (r.review = $1 and r.number > $2)) order by r.review, r.number limit $3"
);
const GONE: &str = "\
    update access_review_rule set removed_at = $3 \
    where review = $1 and number = $2 and choice = 'remove' and removed_at is null";
const BACK: &str = "\
    update access_review_rule set removed_at = null, reminded_at = $3 \
    where review = $1 and number = $2 and choice = 'remove' and removed_at is not null";
const REMIND: &str = "\
    update access_review_rule set reminded_at = $3 where review = $1 and number = $2 and choice = 'remove' \
    and removed_at is null and coalesce(reminded_at, decided_at) <= $4";

/// A rule of a review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRule {
    /// Of which review.
    pub review: ReviewId,
    /// Of which service.
    pub service: ServiceName,
    /// Its number in it, from 1.
    pub number: u32,
    /// What kind.
    pub kind: RuleKind,
    /// What it is called.
    pub name: String,
    /// What it was, in JSON.
    pub definition: String,
    /// SHA-256 of what it meant, hexadecimal.
    pub sha256: String,
    /// How far it is.
    pub state: RuleState,
    /// When it was last put on record that it is to go and is not gone.
    pub reminded_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    review: String,
    number: i64,
    kind: String,
    name: String,
    definition: String,
    sha256: String,
    choice: Option<String>,
    reason: Option<String>,
    decided_by_kind: Option<String>,
    decided_by_id: Option<String>,
    decided_by_email: Option<String>,
    decided_by_email_verified: Option<i64>,
    decided_by_name: Option<String>,
    decided_at: Option<i64>,
    removed_at: Option<i64>,
    reminded_at: Option<i64>,
    service: String,
}

impl Row {
    fn decision(&self) -> Option<Decision> {
        let principal = principal_of(self.decided_by_kind.as_deref()?, self.decided_by_id.as_deref()?)?;
        Some(Decision {
            by: Person {
                principal,
                email: self.decided_by_email.clone(),
                email_verified: self.decided_by_email_verified == Some(1),
                name: self.decided_by_name.clone(),
            },
            reason: self.reason.clone()?,
            at: Timestamp::from_millis(self.decided_at?),
        })
    }
}

impl TryFrom<Row> for StoredRule {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| {
            let row = format!("{} {}", row.review, row.number);
            StoreError::Inconsistent { table: "access_review_rule", column, row }
        };
        let state = match row.choice.as_deref() {
            None => RuleState::Undecided,
            Some(choice) => {
                let decision = row.decision().ok_or_else(|| wrong("decided_by_id"))?;
                match (Choice::parse(choice).ok_or_else(|| wrong("choice"))?, row.removed_at) {
                    (Choice::Keep, _) => RuleState::Kept(decision),
                    (Choice::Remove, None) => RuleState::ToRemove(decision),
                    (Choice::Remove, Some(at)) => RuleState::Removed { decision, at: Timestamp::from_millis(at) },
                }
            }
        };
        Ok(Self {
            review: ReviewId::parse(&row.review).map_err(|_| wrong("review"))?,
            service: ServiceName::parse(&row.service).map_err(|_| wrong("service"))?,
            number: u32::try_from(row.number).map_err(|_| wrong("number"))?,
            kind: RuleKind::parse(&row.kind).ok_or_else(|| wrong("kind"))?,
            name: row.name,
            definition: row.definition,
            sha256: row.sha256,
            state,
            reminded_at: row.reminded_at.map(Timestamp::from_millis),
        })
    }
}

impl Store {
    /// The rules of a review, in their order.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn review_rules(&self, id: ReviewId) -> Result<Vec<StoredRule>, StoreError> {
        let query = sqlx::query_as(LIST).bind(id.to_string()).bind(i64::from(RULES_MAX));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(StoredRule::try_from).collect()
    }

    /// Rules of all reviews that are to go, or were and are gone; after the one named.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn review_rules_to_remove(
        &self,
        after: Option<(ReviewId, u32)>,
        limit: u32,
    ) -> Result<Vec<StoredRule>, StoreError> {
        let (review, number) = after.map_or((String::new(), 0), |(id, number)| (id.to_string(), number));
        let query = sqlx::query_as(LIST_TO_REMOVE).bind(review).bind(i64::from(number)).bind(i64::from(limit));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(StoredRule::try_from).collect()
    }
}

impl Tx {
    /// Adds a rule to a review that begins; it is undecided.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_rule_insert(&mut self, rule: &StoredRule) -> Result<(), StoreError> {
        sqlx::query(INSERT)
            .bind(rule.review.to_string())
            .bind(i64::from(rule.number))
            .bind(rule.kind.name())
            .bind(rule.name.clone())
            .bind(rule.definition.clone())
            .bind(rule.sha256.clone())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The rules of a review, as this transaction sees them.
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn review_rules(&mut self, id: ReviewId) -> Result<Vec<StoredRule>, StoreError> {
        let query = sqlx::query_as(LIST).bind(id.to_string()).bind(i64::from(RULES_MAX));
        let rows: Vec<Row> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(StoredRule::try_from).collect()
    }

    /// Keeps a decision. `false`: the review is over, or the rule is gone.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_rule_decide(
        &mut self,
        (review, number): (ReviewId, u32),
        choice: Choice,
        decision: &Decision,
    ) -> Result<bool, StoreError> {
        let by = &decision.by;
        let done = sqlx::query(DECIDE)
            .bind(review.to_string())
            .bind(i64::from(number))
            .bind(choice.name())
            .bind(decision.reason.clone())
            .bind(by.principal.kind().name())
            .bind(by.principal.id().to_owned())
            .bind(by.email.clone())
            .bind(i64::from(by.email_verified))
            .bind(by.name.clone())
            .bind(decision.at.millis())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// A rule that was to go is gone. `false`: that is known, or it is not to go any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_rule_gone(&mut self, rule: &StoredRule, now: Timestamp) -> Result<bool, StoreError> {
        self.review_rule_seen(GONE, rule, now).await
    }

    /// A rule that was gone is back. `false`: that is known, or it is not to go any more.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_rule_back(&mut self, rule: &StoredRule, now: Timestamp) -> Result<bool, StoreError> {
        self.review_rule_seen(BACK, rule, now).await
    }

    async fn review_rule_seen(
        &mut self,
        statement: &'static str,
        rule: &StoredRule,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let query =
            sqlx::query(statement).bind(rule.review.to_string()).bind(i64::from(rule.number)).bind(now.millis());
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Notes that it was put on record that a rule is to go and is not gone. `false`: somebody else did.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_rule_remind(
        &mut self,
        rule: &StoredRule,
        now: Timestamp,
        reminded: Timestamp,
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(REMIND)
            .bind(rule.review.to_string())
            .bind(i64::from(rule.number))
            .bind(now.millis())
            .bind(reminded.millis());
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }
}
