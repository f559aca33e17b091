//! What the claims of a verified token say about a person (OIDC Core §5.1).
//!
//! INVARIANT: identity is (provider, subject). E-mail and name are for people to read; an e-mail
//! counts as verified only where `email_verified` is the JSON value `true` (ATTACKS A39).

use std::sync::Arc;

use serde_json::{Map, Value};

use super::groups::GroupMap;
use crate::model::text::forges;
use crate::model::{Principal, Secret, Timestamp};

/// The longest e-mail address (RFC 5321 §4.5.3.1.3, less the angle brackets).
const EMAIL_BYTES_MAX: usize = 254;
/// The longest name that is kept, in characters.
const NAME_CHARACTERS_MAX: usize = 200;
/// Methods of authentication that are kept.
const AMR_MAX: usize = 16;
/// The longest of them, in bytes.
const AMR_BYTES_MAX: usize = 64;

/// A person as a provider vouched for them just now.
#[derive(Debug)]
pub struct Identity {
    /// The local name of the provider.
    pub provider: Arc<str>,
    /// `sub`, exactly.
    pub subject: String,
    /// Whom that makes.
    pub principal: Principal,
    /// The e-mail, if it can be one.
    pub email: Option<String>,
    /// Whether `email_verified` is JSON `true`.
    pub email_verified: bool,
    /// The name that people read.
    pub name: Option<String>,
    /// The groups, in this installation's words (`identity/groups.rs`).
    pub groups: Vec<String>,
    /// `amr` (RFC 8176).
    pub amr: Vec<String>,
    /// `auth_time`: never later than the moment of asking.
    pub authenticated_at: Option<Timestamp>,
    /// `sid`: the provider's name of its own session, for back-channel logout.
    pub sid: Option<String>,
    /// The provider's refresh token, for the re-check.
    pub refresh_token: Option<Secret<String>>,
}

/// Reads a person out of verified claims. `None` when the subject can't be one.
#[must_use]
pub(in crate::identity) fn identity(
    provider: &Arc<str>,
    claims: &Map<String, Value>,
    groups_claim: &str,
    groups: &GroupMap,
    now: Timestamp,
) -> Option<Identity> {
    let subject = claims.get("sub").and_then(Value::as_str)?;
    // OIDC Core §2: at most 255 ASCII characters.
    let principal = (subject.len() <= 255).then(|| Principal::user(provider, subject))??;
    let (email, email_verified) = email(claims);
    let auth_time = claims.get("auth_time").and_then(Value::as_i64).map(Timestamp::from_seconds);
    Some(Identity {
        provider: Arc::clone(provider),
        subject: subject.to_owned(),
        principal,
        email,
        email_verified,
        name: name(claims),
        groups: claims.get(groups_claim).map(|claim| groups.local(claim)).unwrap_or_default(),
        amr: amr(claims),
        authenticated_at: auth_time.filter(|at| at.millis() > 0).map(|at| at.min(now)),
        sid: claims.get("sid").and_then(Value::as_str).filter(|sid| sid.len() <= 255).map(str::to_owned),
        refresh_token: None,
    })
}

/// The e-mail if it can be one: one `@` with something on both sides, no spaces and nothing that
/// forges. Case and alphabet stay as they are: two spellings are two addresses.
fn email(claims: &Map<String, Value>) -> (Option<String>, bool) {
    let email = claims.get("email").and_then(Value::as_str).filter(|email| {
        let parts: Vec<&str> = email.split('@').collect();
        let shape = matches!(parts.as_slice(), [local, domain] if !local.is_empty() && !domain.is_empty());
        shape && email.len() <= EMAIL_BYTES_MAX && !email.chars().any(|c| forges(c) || c.is_whitespace())
    });
    let verified = email.is_some() && claims.get("email_verified") == Some(&Value::Bool(true));
    (email.map(str::to_owned), verified)
}

fn name(claims: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| claims.get(key).and_then(Value::as_str).filter(|name| !name.trim().is_empty());
    let name = text("name").or_else(|| text("preferred_username"))?;
    // A name with line breaks or direction marks in it could forge a line of a page or a log.
    Some(name.chars().filter(|c| !forges(*c)).take(NAME_CHARACTERS_MAX).collect())
}

fn amr(claims: &Map<String, Value>) -> Vec<String> {
    let listed = claims.get("amr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    listed
        .iter()
        .filter_map(Value::as_str)
        .filter(|method| !method.is_empty() && method.len() <= AMR_BYTES_MAX && method.is_ascii())
        .take(AMR_MAX)
        .map(str::to_owned)
        .collect()
}
