//! Grants that end when they are not used: what is told between nodes of their use.
//!
//! What happens when such a grant is used: 1. the data path notes the time in memory
//! (`identity/directory.rs`); 2. each node tells the database of the last use, so often that whoever
//! ends it for want of use knows of every use that counts; 3. each node hears of the uses at the others.
//! The sweep ends what was not used anywhere; a node lets nobody through by it meanwhile.

use crate::model::Timestamp;

use super::super::desk::Desk;
use super::AccessError;

/// Tells of uses here, and hears of those elsewhere. Costs nothing where no such grant is known.
///
/// # Errors
/// When the database is away.
pub async fn exchange_uses(desk: &Desk, now: Timestamp) -> Result<(), AccessError> {
    // By a clock that may be ahead, others would take for used what nobody used since.
    if !desk.directory.knows_idle_grants() || desk.clock_guard.may_be_ahead() {
        return Ok(());
    }
    let untold = desk.directory.grant_uses_untold(now);
    if !untold.is_empty() {
        let mut tx = desk.store.begin().await?;
        for used in &untold {
            tx.grant_used(used.id, used.at).await?;
        }
        tx.commit().await?;
        untold.iter().for_each(crate::identity::directory::UntoldUse::told);
    }
    for heard in desk.store.grant_uses().await? {
        desk.directory.grant_used_elsewhere(&heard.principal, heard.id, heard.at);
    }
    Ok(())
}
