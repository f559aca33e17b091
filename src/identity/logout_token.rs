//! What a provider says when somebody signed out there (OIDC Back-Channel Logout 1.0 §2.4–2.6).
//!
//! INVARIANT: what comes out of here was signed by the provider for us, a short while ago, and is no
//! ID token: it has the logout event and no nonce. That it is used once is the caller's to see, by
//! its `jti`.

use serde_json::{Map, Value};

use super::provider::{Provider, ProviderError};
use super::token::{self, KeySet, TokenError};
use crate::model::{Timestamp, Ttl};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// How old a logout token may be. Its `jti` is remembered for longer.
const AGE_MAX: Ttl = Ttl::minutes(5);
/// How far ahead of ours a provider's clock may be.
const AHEAD_MAX: Ttl = Ttl::minutes(1);
/// The longest `jti`, `sub` or `sid`, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// Whose sessions are to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedOut {
    /// Those of one of the provider's sessions.
    Sid {
        /// The provider's name of it.
        sid: String,
        /// Whose it is. Of a sign-in that came without a `sid` nobody can tell that it is not of this
        /// session, so those of this subject end too.
        subject: Option<String>,
    },
    /// All of a person's.
    Subject(String),
}

/// A logout token that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogoutToken {
    /// Whose sessions.
    pub who: LoggedOut,
    /// Its id, which may be used once.
    pub jti: String,
    /// Until when its `jti` has to be remembered: afterwards it is too old to be taken.
    pub remember_until: Timestamp,
}

impl Provider {
    /// Reads a logout token of this provider.
    ///
    /// # Errors
    /// When its keys can't be had, or the token does not hold.
    pub async fn logout_token(&self, token: &str, now: Timestamp) -> Result<LogoutToken, ProviderError> {
        self.verified(token, now, |keys| verify(token, keys, self.issuer(), self.client_id(), now)).await
    }
}

/// Reads a logout token that `issuer` made for `client_id`.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(
    token: &str,
    keys: &KeySet,
    issuer: &str,
    client_id: &str,
    now: Timestamp,
) -> Result<LogoutToken, TokenError> {
    let claims = token::signed_claims(token, keys, &["logout+jwt", "jwt", ""])?;
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err(TokenError::Claim("iss"));
    }
    let ours = match claims.get("aud") {
        Some(Value::String(one)) => one == client_id,
        Some(Value::Array(list)) => matches!(list.as_slice(), [Value::String(one)] if one == client_id),
        _ => false,
    };
    if !ours {
        return Err(TokenError::Claim("aud"));
    }
    let issued_at = token::time_claim(&claims, "iat")?.ok_or(TokenError::Claim("iat"))?;
    if issued_at > now.plus(AHEAD_MAX) {
        return Err(TokenError::NotYet);
    }
    // Required by §2.4, and left out by providers that are in use; its age bounds it too.
    let ends = token::time_claim(&claims, "exp")?.unwrap_or_else(|| issued_at.plus(AGE_MAX));
    if ends.is_over(now) || issued_at.plus(AGE_MAX).is_over(now) {
        return Err(TokenError::Expired);
    }
    if !claims.get("events").and_then(|events| events.get(EVENT)).is_some_and(Value::is_object) {
        return Err(TokenError::Claim("events"));
    }
    // §2.4: so that no ID token passes for one.
    if claims.contains_key("nonce") {
        return Err(TokenError::Claim("nonce"));
    }
    let jti = text(&claims, "jti")?.ok_or(TokenError::Claim("jti"))?;
    let who = match (text(&claims, "sid")?, text(&claims, "sub")?) {
        (Some(sid), subject) => LoggedOut::Sid { sid, subject },
        (None, Some(subject)) => LoggedOut::Subject(subject),
        (None, None) => return Err(TokenError::Claim("sid")),
    };
    Ok(LogoutToken { who, jti, remember_until: issued_at.plus(AGE_MAX).plus(AHEAD_MAX) })
}

/// A claim that is a short text if it is there at all.
fn text(claims: &Map<String, Value>, name: &'static str) -> Result<Option<String>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= TEXT_BYTES_MAX => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Claim(name)),
    }
}
