//! When somebody may begin to hold an entitlement: its lead time, and the break after they held it last.
//! In an emergency neither counts.

use std::fmt;

use crate::model::{EntitlementName, GrantId, Person, Timestamp, Ttl};
use crate::policy::{Entitlement, PolicySet};
use crate::store::{GrantMoment, StoreError, Tx};

use super::super::desk::Desk;
use super::human::{Human, Shelf, human_of};
use super::{AccessError, create::Asked};

/// Why something can't begin yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooSoon {
    /// What.
    pub entitlement: EntitlementName,
    /// From when on it can.
    pub from: Timestamp,
    /// What keeps it until then.
    pub because: Wait,
}

/// What keeps a grant from beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// So long between a request and its beginning.
    Lead(Ttl),
    /// So long after the last grant.
    Break(Ttl),
}

impl fmt::Display for TooSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entitlement, from, because } = self;
        match because {
            Wait::Lead(lead) => write!(
                f,
                "`{entitlement}` begins {lead} after it was asked for at the earliest; leave `--start` out, or give \
                 one from {from} on"
            ),
            Wait::Break(pause) => write!(
                f,
                "`{entitlement}` has a break of {pause} after each grant, and yours lasts until {from}; ask again \
                 then, or now with `--start {from}`"
            ),
        }
    }
}

/// When what is asked for is to begin: none, as soon as it is approved.
///
/// # Errors
/// When it can't begin then.
pub(super) async fn start_of(
    desk: &Desk,
    policies: &PolicySet,
    definition: &Entitlement,
    requester: &Person,
    asked: &Asked,
    start: Option<Timestamp>,
    now: Timestamp,
) -> Result<Option<Timestamp>, AccessError> {
    if asked.emergency {
        return Ok(start);
    }
    let entitlement = &definition.name;
    let lead = definition.earliest_start.map(|lead| (lead, now.plus(lead)));
    if let (Some((lead, from)), Some(start)) = (lead, start)
        && start < from
    {
        let because = Wait::Lead(lead);
        return Err(TooSoon { entitlement: entitlement.clone(), from, because }.into());
    }
    let start = start.or(lead.map(|(_, from)| from));
    if let Some(pause) = definition.break_after {
        let human = human_of(Shelf::Store(&desk.store), policies, requester, now).await?;
        let ends = desk.store.grant_ends(entitlement, now.minus(pause)).await?;
        if let Some(from) = rested_at(&ends, &human, pause, None)
            && start.unwrap_or(now) < from
        {
            let because = Wait::Break(pause);
            return Err(TooSoon { entitlement: entitlement.clone(), from, because }.into());
        }
    }
    Ok(start)
}

/// When the holder has had their break from an entitlement; nobody begins another meanwhile.
pub(super) async fn rested_within(
    tx: &mut Tx,
    policies: &PolicySet,
    definition: &Entitlement,
    holder: &Person,
    own: Option<GrantId>,
    now: Timestamp,
) -> Result<Option<Timestamp>, StoreError> {
    let Some(pause) = definition.break_after else { return Ok(None) };
    let human = human_of(Shelf::Tx(tx), policies, holder, now).await?;
    let ends = tx.grant_ends(&definition.name, now.minus(pause)).await?;
    Ok(rested_at(&ends, &human, pause, own))
}

fn rested_at(ends: &[GrantMoment], human: &Human, pause: Ttl, own: Option<GrantId>) -> Option<Timestamp> {
    let theirs = ends.iter().filter(|held| Some(held.id) != own && human.has(&held.principal));
    theirs.map(|held| held.at).max().map(|end| end.plus(pause))
}
