//! Proofs of possession at a service host (RFC 9449 §7): a token that is bound to a key is good only
//! with a proof of that key for this very request, and never as a bearer token.
//!
//! It has a nonce of ours, which comes with every answer to a proof (§9), so that it was made a moment ago.
//!
//! A proof is good once, on all nodes together: who uses it is settled by a row in the database, so
//! this is the one credential that waits for it, and refuses where it can't be asked.

use http::{HeaderMap, HeaderName};

use crate::identity::dpop::{self, Purpose};
use crate::model::{Principal, Timestamp};

use super::bearer::VerifiedToken;
use super::limit;
use super::refusal::Refusal;
use super::route::Routed;
use super::worker::Worker;

/// RFC 9449 §4.1.
pub(super) const DPOP_HEADER: HeaderName = HeaderName::from_static("dpop");

/// Where the nonce for the next proof comes (RFC 9449 §8.2).
pub(super) const NONCE_HEADER: HeaderName = HeaderName::from_static("dpop-nonce");

/// How a token was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `Authorization: Bearer`
    Bearer,
    /// `Authorization: DPoP`
    Dpop,
    /// `Doorward-Token`
    Own,
}

/// A token as it was shown.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The token.
    pub text: &'a str,
    /// How.
    pub scheme: Scheme,
}

/// Whether a token comes with a proof at each use: its principal is let through by their rate in [`check`].
#[must_use]
pub const fn is_proven(token: &VerifiedToken) -> bool {
    token.bound_key.is_some()
}

/// Checks the proof that comes with a token, or that none has to. `named` is whom it proved, where more of
/// them is a refusal.
///
/// # Errors
/// `BadProof` when it is missing, does not hold, or was used before; also for a proof beside a token
/// that is bound to no key, since its holder believes it to be. `RateLimited` for one too many of a
/// principal, `Unsettled` where it can't be said whether it was used before.
pub async fn check(
    worker: &Worker,
    routed: &Routed,
    headers: &HeaderMap,
    token: &VerifiedToken,
    shown: Presented<'_>,
    now: Timestamp,
    named: &mut Option<Principal>,
) -> Result<(), Refusal> {
    let Some(key) = token.bound_key else {
        return if shown.scheme == Scheme::Dpop {
            Err(Refusal::BadProof("a token that is bound to no key"))
        } else {
            Ok(())
        };
    };
    if shown.scheme == Scheme::Bearer {
        return Err(Refusal::BadProof("a token that is bound to a key, shown as a bearer token"));
    }
    if routed.entry.service.pass_authorization {
        return Err(Refusal::BadProof("the `DPoP` of this service is its upstream's"));
    }
    let mut proofs = headers.get_all(&DPOP_HEADER).iter();
    let text = match (proofs.next(), proofs.next()) {
        (Some(one), None) => one.to_str().map_err(|_| Refusal::BadProof("a proof that is no text"))?,
        (None, _) => return Err(Refusal::BadProof("a token that is bound to a key, without a proof")),
        (Some(_), Some(_)) => return Err(Refusal::BadProof("two proofs")),
    };
    let purpose = Purpose {
        method: routed.canonical.method.as_str(),
        host: &routed.canonical.host,
        port: worker.shared.settings.public_port,
        path: &routed.canonical.path,
        token: Some(shown.text),
        nonces: &worker.shared.nonces,
    };
    let proof = dpop::verify(text, &purpose, now).map_err(|error| match error {
        dpop::NONCE_WANTED => Refusal::NonceWanted,
        dpop::ProofError(what) => Refusal::BadProof(what),
    })?;
    if proof.key != key {
        return Err(Refusal::BadProof("a proof of another key"));
    }
    // ORDER: a proof is used up by writing into the database, so who proved themselves is counted before.
    if let Err(refusal) = limit::admit(&routed.entry, &token.principal) {
        *named = Some(token.principal.clone());
        return Err(refusal);
    }
    match Box::pin(worker.shared.lookup.use_once(proof.once, proof.remember_until)).await {
        Some(true) => Ok(()),
        Some(false) => Err(Refusal::BadProof("a proof that was used before")),
        None => Err(Refusal::Unsettled),
    }
}
