//! Pruning: old events lose their content and keep their leaf, so that every proof stays.

use super::engine::{StoreError, Tx};
use super::log::Log;
use crate::model::Timestamp;

const PRUNE: &str = "\
    update audit_event set body = '', personal = '{}', salts = $1, actor = null, session = null, grant_id = null \
    where log = $2 and seq >= $3 and seq < $4 and time < $5 and body <> ''";
const FIRST_KEPT: &str = "\
    select min(seq) from audit_event where log = $1 and seq >= $2 and seq < $3 and time >= $4";
const SIZE: &str = "select next_seq from audit_log where number = $1";
const REACHED: &str = "update audit_log set pruned_to = $1 where number = $2";

impl Tx {
    /// Prunes the events of `log` from number `from` on whose time is before `cutoff`, `batch` places at
    /// most. Gives how many lost their content, and where the next batch begins: at `from` again
    /// when there is nothing more to do.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn event_prune(
        &mut self,
        log: Log,
        from: i64,
        batch: i64,
        cutoff: Timestamp,
    ) -> Result<(u64, i64), StoreError> {
        let size: i64 = sqlx::query_scalar(SIZE).bind(log.number).fetch_one(self.connection()).await?;
        let to = size.min(from + batch);
        let done = sqlx::query(PRUNE)
            .bind(Vec::<u8>::new())
            .bind(log.number)
            .bind(from)
            .bind(to)
            .bind(cutoff.millis())
            .execute(self.connection())
            .await?;
        let query = sqlx::query_scalar(FIRST_KEPT).bind(log.number).bind(from).bind(to).bind(cutoff.millis());
        let kept: Option<i64> = query.fetch_one(self.connection()).await?;
        let next = kept.unwrap_or(to);
        sqlx::query(REACHED).bind(next).bind(log.number).execute(self.connection()).await?;
        Ok((done.rows_affected(), next))
    }
}
