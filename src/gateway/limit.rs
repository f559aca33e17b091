//! How much and how fast: per principal and service once someone is identified, per address before.

use std::net::IpAddr;

use governor::NotUntil;
use governor::clock::{Clock, DefaultClock};
use http::HeaderMap;
use http::header::COOKIE;

use crate::model::Principal;

use super::refusal::Refusal;
use super::snapshot::ServiceEntry;
use super::worker::Shared;

/// Preflights of one address a second. Each is answered from memory, and browsers of a whole company may send them
/// from one address: only what no page does is too much.
pub const PREFLIGHTS_PER_SECOND: u32 = 1000;
/// How many of them may come at once.
pub const PREFLIGHTS_BURST: u32 = 5000;

/// Lets a head through that has no more fields than heads may have. The guard of HTTP/1 has counted them before;
/// over HTTP/2 nobody has, whatever the size of the head. All cookies are one field: browsers send each by itself
/// there, and they go on as one (RFC 9113 §8.2.3).
///
/// # Errors
/// `FieldsTooMany`.
pub fn fields(shared: &Shared, headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.len() <= shared.settings.headers {
        return Ok(());
    }
    let crumbs = headers.get_all(COOKIE).iter().count();
    let fields = headers.len() - crumbs.saturating_sub(1);
    if fields <= shared.settings.headers { Ok(()) } else { Err(Refusal::FieldsTooMany) }
}

/// Seconds until a cell is free, at least one.
fn seconds_of<P: governor::clock::Reference>(not_until: &NotUntil<P>, now: P) -> u64 {
    not_until.wait_time_from(now).as_secs().saturating_add(1)
}

/// Lets a principal's request through to a service, if it is not one too many.
///
/// # Errors
/// `RateLimited`, with the seconds to wait.
pub fn admit(entry: &ServiceEntry, principal: &Principal) -> Result<(), Refusal> {
    let limits = &entry.service.limits;
    entry.limiter.check_key(principal).map_err(|not_until| Refusal::RateLimited {
        retry_after_seconds: seconds_of(&not_until, DefaultClock::default().now()),
        quota: limits.burst,
        window_seconds: u64::from(limits.burst.div_ceil(limits.requests_per_second.max(1))),
    })
}

/// Lets a request to the control host through, if its address does not send too many.
///
/// # Errors
/// `RateLimited`, with the seconds to wait.
pub fn control_request(shared: &Shared, address: IpAddr) -> Result<(), Refusal> {
    shared.control_requests.check_key(&address).map_err(|not_until| of_address(shared, &not_until))
}

/// Lets through the code of a browser, by which nobody is known before it is looked for, if its address does not
/// send too many. Others' refusals at the same address are no reason why somebody could not end their sign-in.
///
/// # Errors
/// `RateLimited`, with the seconds to wait.
pub fn unasked(shared: &Shared, address: IpAddr) -> Result<(), Refusal> {
    shared.unasked.check_key(&address).map_err(|not_until| of_address(shared, &not_until))
}

/// Lets a preflight through, if its address does not send too many. They take no part in what else is counted by
/// address: a page of another origin is no reason why nobody at its address could sign in.
///
/// # Errors
/// `RateLimited`, with the seconds to wait.
pub fn preflight(shared: &Shared, address: IpAddr) -> Result<(), Refusal> {
    shared.preflights.check_key(&address).map_err(|not_until| Refusal::RateLimited {
        retry_after_seconds: seconds_of(&not_until, DefaultClock::default().now()),
        quota: PREFLIGHTS_BURST,
        window_seconds: u64::from(PREFLIGHTS_BURST.div_ceil(PREFLIGHTS_PER_SECOND)),
    })
}

fn of_address(shared: &Shared, not_until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Refusal {
    let settings = &shared.settings;
    Refusal::RateLimited {
        retry_after_seconds: seconds_of(not_until, DefaultClock::default().now()),
        quota: settings.anonymous_burst,
        window_seconds: u64::from(settings.anonymous_burst.div_ceil(settings.anonymous_per_second.max(1))),
    }
}

/// Counts a refusal of someone who is not identified; too many become another refusal.
#[must_use]
pub fn anonymous(shared: &Shared, address: IpAddr, refusal: Refusal) -> Refusal {
    match shared.anonymous.check_key(&address) {
        Ok(()) => refusal,
        Err(not_until) => of_address(shared, &not_until),
    }
}
