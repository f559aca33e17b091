//! What a job that takes a token for the control API says it wants to do there: a token of a service, of which
//! actions, and what it asks for first.
//!
//! A job's token is good for one exchange, and one that asks and waits spends it on a session with the control
//! API. What can't be had is refused there all the same, and the pipeline would have no token left to try again.
//! So the wish may come along, and is judged while the token is whole: what is refused here uses nothing up.
//!
//! INVARIANTS: only who showed a token that its issuer signed and a rule names is told anything, and no more than
//! the session which they would get is told by the API; nothing comes of a wish that fits, and whoever asks is
//! judged again.

use crate::model::{ServiceName, SessionId, Timestamp, Ttl};

use super::super::access::{self, Asked};
use super::super::caller::ConnectionFacts;
use super::super::desk::Desk;
use super::exchange::{ExchangeError, new_session};
use super::foreign::Foreign;
use super::target::scope;

/// A job's wish.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The service that a token is wanted for.
    pub audience: String,
    /// Actions of the service, with blanks between; all where it is not said.
    pub scope: Option<String>,
    /// What is asked for first, if anything.
    pub request: Option<Asked>,
}

/// Whether a job could have what it wants, as far as that hangs on no approver.
///
/// # Errors
/// What it would be refused for.
pub(super) async fn can_be_had(
    desk: &Desk,
    wanted: &Wanted,
    foreign: &Foreign,
    ttl: Ttl,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<(), ExchangeError> {
    let policies = desk.policies.load_full();
    let reached = &foreign.recognised.services;
    let name = ServiceName::parse(&wanted.audience).map_err(|_| ExchangeError::Target)?;
    let service = policies.service(&name).filter(|service| reached.is_empty() || reached.contains(&service.name));
    let service = service.ok_or(ExchangeError::Target)?;
    scope(service, wanted.scope.as_deref())?;
    let Some(asked) = &wanted.request else { return Ok(()) };
    if *asked.entitlement.service() != name {
        return Err(ExchangeError::Invalid("`wanted_request` is for an entitlement of another service than its token"));
    }
    // As it will be: it has no row and no certificate, and nothing of it is kept.
    let id = SessionId::fresh(now, &*desk.entropy);
    let session = new_session(foreign, ttl, now).session(id, now.plus(ttl), now);
    Ok(access::check(desk, &session, connection.address, asked, now).await?)
}
