//! What access reviews know of a person, erased: who began, decided and closed stays told apart by what
//! stands for the account, and so does a reviewer who was named.

use sqlx::FromRow;

use super::engine::{StoreError, Tx};
use super::erasure_person::Traces;

/// `$1` the account, `$2` what stands in its place.
const STARTED: &str = "\
    update access_review set started_by_id = $2, started_by_email = null \
    where started_by_kind = 'User' and started_by_id = $1";
const CLOSED: &str = "\
    update access_review set closed_by_id = $2, closed_by_email = null \
    where closed_by_kind = 'User' and closed_by_id = $1";
/// The reason is a text of theirs: `$3` stands for it.
const DECIDED: &str = "\
    update access_review_rule set decided_by_id = $2, decided_by_email = null, decided_by_email_verified = 0, \
    decided_by_name = null, reason = case when reason is null then null else $3 end \
    where decided_by_kind = 'User' and decided_by_id = $1";
const REVIEWERS: &str =
    "select id, reviewers from access_review where reviewers <> '[]' and id > $1 order by id limit 500";
const SET_REVIEWERS: &str = "update access_review set reviewers = $2 where id = $1";

#[derive(FromRow)]
struct Named {
    id: String,
    reviewers: String,
}

impl Tx {
    /// Erases a person from access reviews.
    ///
    /// # Errors
    /// When the database refuses.
    pub(super) async fn reviews_erase(&mut self, traces: &Traces, instead: &str, text: &str) -> Result<(), StoreError> {
        let account = traces.principal.id().to_owned();
        for update in [STARTED, CLOSED] {
            let query = sqlx::query(update).bind(account.clone()).bind(instead.to_owned());
            query.execute(self.connection()).await?;
        }
        let query = sqlx::query(DECIDED).bind(account).bind(instead.to_owned()).bind(text.to_owned());
        query.execute(self.connection()).await?;
        let mut after = String::new();
        loop {
            let page: Vec<Named> = sqlx::query_as(REVIEWERS).bind(after).fetch_all(self.connection()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id.clone();
            for Named { id, reviewers } in page {
                let wrong =
                    |_| StoreError::Inconsistent { table: "access_review", column: "reviewers", row: id.clone() };
                let mut names: Vec<String> = serde_json::from_str(&reviewers).map_err(wrong)?;
                let mut found = false;
                for name in names.iter_mut().filter(|name| traces.are_in(name)) {
                    instead.clone_into(name);
                    found = true;
                }
                if found {
                    let query = sqlx::query(SET_REVIEWERS).bind(id).bind(serde_json::json!(names).to_string());
                    query.execute(self.connection()).await?;
                }
            }
        }
    }
}
