//! Tokens as credentials at a service host: which one was shown, whether it holds, and to what it is
//! bound.
//!
//! INVARIANT: what is remembered of a token is only what its signature vouches for; what can change
//! while it lasts is asked by `authenticate.rs` on each request.

use std::rc::Rc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::identity::acting::{self, Acting};
use crate::identity::token::{Expected, Verified, claimed, verify};
use crate::model::{GrantId, Principal, SessionId, Thumbprint, Timestamp, Ttl};
use crate::policy::ClientCertificate;

use super::proof::{Presented, Scheme};
use super::refusal::Refusal;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::Worker;

/// Where a token comes when `Authorization` is the upstream's.
pub const TOKEN_HEADER: HeaderName = HeaderName::from_static("doorward-token");

/// How long a provider's token is taken as verified before it is verified again.
const PROVIDER_TOKEN_REUSE: Ttl = Ttl::minutes(1);

/// A person as a provider's bearer token names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BearerIdentity {
    /// Who.
    pub principal: Principal,
    /// The e-mail that the provider told.
    pub email: Option<String>,
    /// Whether it is verified.
    pub email_verified: bool,
    /// The name.
    pub name: Option<String>,
    /// Groups under the provider's map.
    pub groups: Vec<String>,
    /// The certificate that the token is bound to.
    pub bound_to: Option<Thumbprint>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// Providers whose tokens may be used as bearer tokens. It never waits: an unknown key is a
/// refusal now and a fetch in the background.
pub trait BearerIssuers: Send + Sync {
    /// Whose token it is; `None` when no provider made it for us, or it does not hold.
    fn identify(&self, token: &str, now: Timestamp) -> Option<BearerIdentity>;
}

/// A token that was verified, with what is asked of it at each use.
#[derive(Debug)]
pub struct VerifiedToken {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Who.
    pub principal: Principal,
    /// The session that it belongs to; none for a provider's.
    pub session: Option<SessionId>,
    /// Actions that it is good for; none for all.
    pub scope: Option<Vec<String>>,
    /// The certificate that it is bound to (RFC 8705 §3.1).
    pub bound_to: Option<Thumbprint>,
    /// The key that has to prove itself with each use (RFC 9449 §6.1).
    pub bound_key: Option<Thumbprint>,
    /// Its own id, of ours only: by it a token can be withdrawn.
    pub id: Option<String>,
    /// The grant that it was made under and ends with.
    pub grant: Option<GrantId>,
    /// Who acts by it for its subject, who acts now first.
    pub acting: Vec<Acting>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The keys of ours that verified it.
    keys_version: u64,
    /// When a provider's is to be verified again: its keys come and go, which no version here counts.
    verify_again: Option<Timestamp>,
    /// What a provider's token says of the person.
    pub(super) identity: Option<BearerIdentity>,
}

/// The token that was shown, if one was. `Authorization` is the door's unless the service passes
/// it on; what is in it and is no bearer token is a credential that does not hold.
pub(super) fn presented_token(headers: &HeaderMap, pass_authorization: bool) -> Result<Option<Presented<'_>>, Refusal> {
    let one = |name: &HeaderName| -> Result<Option<&str>, Refusal> {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => {
                value.to_str().map(Some).map_err(|_| Refusal::BadCredential("a credential that is no text"))
            }
            (Some(_), Some(_)) => Err(Refusal::BadCredential("two credentials of one kind")),
        }
    };
    let own = one(&TOKEN_HEADER)?.map(str::trim);
    if pass_authorization {
        return Ok(own.map(|text| Presented { text, scheme: Scheme::Own }));
    }
    let bearer = match one(&AUTHORIZATION)? {
        None => None,
        Some(value) => match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some((token.trim(), Scheme::Bearer)),
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("dpop") => Some((token.trim(), Scheme::Dpop)),
            _ => return Err(Refusal::BadCredential("an `Authorization` that is no token")),
        },
    };
    match (own, bearer) {
        (Some(own), Some((token, _))) if own != token => Err(Refusal::BadCredential("two different tokens")),
        (_, Some((text, scheme))) => Ok(Some(Presented { text, scheme })),
        (Some(text), None) => Ok(Some(Presented { text, scheme: Scheme::Own })),
        (None, None) => Ok(None),
    }
}

/// A token of ours for this service, or of a provider; verified once and remembered by its hash.
pub(super) fn verified_token(
    worker: &Worker,
    snapshot: &Snapshot,
    routed: &Routed,
    text: &str,
    now: Timestamp,
) -> Result<Rc<VerifiedToken>, Refusal> {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let key = (hash, routed.entry.service.name.clone());
    if let Some(known) = worker.tokens.borrow_mut().get(&key)
        && known.keys_version == snapshot.keys.version
        && !known.expires_at.is_over(now)
        && !known.verify_again.is_some_and(|at| at.is_over(now))
    {
        return Ok(Rc::clone(known));
    }
    let bad = Refusal::BadCredential("a token that does not hold");
    let (_, issuer) = claimed(text).ok_or_else(|| bad.clone())?;
    let made = if issuer == worker.shared.settings.origin {
        let audience: &str = &routed.entry.audience;
        let expected = Expected { issuer: &worker.shared.settings.origin, audiences: &[audience], types: &["at+jwt"] };
        let verified = verify(text, &snapshot.keys.public, &expected, now).map_err(|_| bad.clone())?;
        own_token(hash, snapshot.keys.version, verified).ok_or(bad)?
    } else {
        let identity = worker.shared.bearer.identify(text, now).ok_or(bad)?;
        VerifiedToken {
            hash,
            principal: identity.principal.clone(),
            session: None,
            scope: None,
            bound_to: identity.bound_to,
            bound_key: None,
            id: None,
            grant: None,
            acting: Vec::new(),
            expires_at: identity.expires_at,
            keys_version: snapshot.keys.version,
            verify_again: Some(now.plus(PROVIDER_TOKEN_REUSE)),
            identity: Some(identity),
        }
    };
    let made = Rc::new(made);
    worker.tokens.borrow_mut().put(key, Rc::clone(&made));
    Ok(made)
}

/// What a token of ours says (RFC 9068 §2.2, and `sid`, `principal` of ours).
fn own_token(hash: [u8; 32], keys_version: u64, verified: Verified) -> Option<VerifiedToken> {
    let text = |name: &str| verified.claims.get(name).and_then(Value::as_str);
    let (mut bound_to, mut bound_key) = (None, None);
    if let Some(cnf) = verified.claims.get("cnf") {
        // A confirmation that we don't know is one that we can't check.
        for (name, value) in cnf.as_object().filter(|cnf| !cnf.is_empty())? {
            let thumbprint = Some(Thumbprint::parse(value.as_str()?)?);
            match name.as_str() {
                "x5t#S256" => bound_to = thumbprint,
                "jkt" => bound_key = thumbprint,
                _ => return None,
            }
        }
    }
    let scope = match verified.claims.get("scope") {
        None => None,
        Some(scope) => Some(scope.as_str()?.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect()),
    };
    let grant = match verified.claims.get("grant") {
        None => None,
        Some(id) => Some(GrantId::parse(id.as_str()?).ok()?),
    };
    Some(VerifiedToken {
        hash,
        principal: Principal::parse(text("principal")?)?,
        session: Some(SessionId::parse(text("sid")?).ok()?),
        scope,
        bound_to,
        bound_key,
        id: Some(text("jti")?.to_owned()),
        grant,
        acting: acting::read(&verified.claims)?,
        expires_at: verified.expires_at,
        keys_version,
        verify_again: None,
        identity: None,
    })
}

/// A bound token is good on a connection with its certificate only; an unbound one not where a
/// certificate is demanded, unless the service takes it.
pub(super) fn bound_here(
    token: &VerifiedToken,
    shown: Option<Thumbprint>,
    demanded: ClientCertificate,
    unbound_bearer: bool,
) -> Result<(), Refusal> {
    match (token.bound_to, shown) {
        (Some(bound), Some(shown)) if bound == shown => Ok(()),
        (Some(_), _) => Err(Refusal::BadCredential("a token that is bound to another certificate")),
        // A key has proved itself with this very request.
        (None, None) if token.bound_key.is_some() => Ok(()),
        (None, Some(_)) if token.session.is_some() && !unbound_bearer => {
            Err(Refusal::BadCredential("an unbound token over a certificate"))
        }
        (None, _) if demanded == ClientCertificate::Required && !unbound_bearer => {
            Err(Refusal::BadCredential("an unbound token where a certificate is demanded"))
        }
        (None, _) => Ok(()),
    }
}
