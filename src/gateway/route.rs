//! Which service a request is for, and which of its routes.

use std::sync::Arc;

use http::Request;

use crate::policy::Matched;

use super::canonical::{Canonical, PathRules, canonical, host_of};
use super::handshake::Channel;
use super::refusal::Refusal;
use super::snapshot::{ServiceEntry, Snapshot};

/// A request in its one form, with the service that it is for. Only [`route`] makes one.
#[expect(clippy::manual_non_exhaustive, reason = "the field is the proof: only this file can make one")]
pub struct Routed {
    /// The request as policy, record and upstream see it.
    pub canonical: Canonical,
    /// The service.
    pub entry: Arc<ServiceEntry>,
    /// The route and its parameters; none where no route matches, which is told only to those who
    /// have said who they are.
    pub matched: Option<Matched>,
    _proof: (),
}

/// The service at the request's host, if the connection was made for the same one; the canonical
/// form under the service's rules; and the route.
///
/// # Errors
/// When the request can be read in two ways, or SNI and Host name different services.
pub fn route<B>(snapshot: &Snapshot, channel: &Channel, request: &Request<B>) -> Result<Routed, Refusal> {
    let (host, _) = host_of(request).map_err(Refusal::Ambiguous)?;
    let entry = snapshot.service_at(&host).ok_or(Refusal::Misdirected)?;
    let asked = snapshot.service_at(&channel.name).ok_or(Refusal::Misdirected)?;
    if entry.service.name != asked.service.name {
        return Err(Refusal::Misdirected);
    }
    let rules = PathRules { encoded_slash: entry.service.encoded_slash };
    let canonical = canonical(request, rules).map_err(Refusal::Ambiguous)?;
    let matched = entry.service.route(canonical.method.as_str(), &canonical.path);
    Ok(Routed { canonical, entry: Arc::clone(entry), matched, _proof: () })
}
