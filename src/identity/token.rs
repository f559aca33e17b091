//! Reading signed tokens, ours and anybody's (RFC 7515, 7519, 8725).
//!
//! There is one function that reads a token, [`verify`]. It takes the allowed algorithms from the
//! key and never from the token, looks keys up in the set it was given and nowhere else, refuses
//! every `crit`, and checks times itself against the `now` of the operation, since the library
//! would read the clock.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, DecodingKey, Header};
use serde_json::{Map, Value};

use crate::model::{Timestamp, Ttl};

/// The longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Keys that one set may have at most.
const KEYS_MAX: usize = 64;

/// Why a token was not taken. The caller tells its holder nothing of this: all bad credentials
/// look alike from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// Not three parts of base64url, over-long, or not JSON within.
    Malformed,
    /// The header asks for what is not supported (`crit`, `b64`, `zip`, another `typ`).
    Header(&'static str),
    /// No key of the set fits; `kid` was named or not.
    UnknownKey,
    /// The signature does not hold under the key.
    Signature,
    /// A claim is missing, of the wrong kind or has the wrong value.
    Claim(&'static str),
    /// It is over.
    Expired,
    /// It has not begun.
    NotYet,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the token is not a signed JWT"),
            Self::Header(what) => write!(f, "the token's header is not acceptable: {what}"),
            Self::UnknownKey => f.write_str("the token is signed by a key that its issuer does not publish"),
            Self::Signature => f.write_str("the token's signature does not hold"),
            Self::Claim(name) => {
                write!(f, "the token's `{name}` is missing or not what it must be")
            }
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYet => f.write_str("the token is not valid yet"),
        }
    }
}

impl std::error::Error for TokenError {}

impl TokenError {
    /// Whether newer keys of the issuer may help.
    #[must_use]
    pub const fn is_of_keys(&self) -> bool {
        match self {
            Self::UnknownKey | Self::Signature => true,
            Self::Malformed | Self::Header(_) | Self::Claim(_) | Self::Expired | Self::NotYet => false,
        }
    }
}

struct PublicKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

/// The public keys of one issuer.
pub struct KeySet {
    keys: Vec<PublicKey>,
    /// The set as JSON, for publishing ours.
    json: Value,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl KeySet {
    /// Reads a JWK set. Keys of unknown kinds, for encryption, symmetric ones and those whose
    /// `alg` doesn't fit are left out, as RFC 7517 §5 asks; also those that share a name, since which of
    /// them is meant can't be told.
    #[must_use]
    pub fn from_json(set: &Value) -> Self {
        let listed = set.get("keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let kid = |jwk: &Value| jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
        let listed: Vec<&Value> = listed.iter().take(KEYS_MAX).collect();
        let alone = |jwk: &&&Value| {
            kid(jwk).is_none_or(|name| listed.iter().filter(|other| kid(other).as_ref() == Some(&name)).count() == 1)
        };
        let keys = listed.iter().filter(alone).filter_map(|jwk| Self::public_key(jwk)).collect();
        Self { keys, json: set.clone() }
    }

    fn public_key(jwk: &Value) -> Option<PublicKey> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|u| u != "sig") {
            return None;
        }
        if jwk.get("key_ops").is_some_and(|ops| !ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify")))
        {
            return None;
        }
        let possible: &[Algorithm] = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => &[Algorithm::ES256],
            ("EC", Some("P-384")) => &[Algorithm::ES384],
            ("OKP", Some("Ed25519")) => &[Algorithm::EdDSA],
            ("RSA", _) => &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
            _ => return None,
        };
        let algorithms: Vec<Algorithm> = match text("alg") {
            Some(name) => {
                let named: Algorithm = name.parse().ok()?;
                possible.iter().copied().filter(|a| *a == named).collect()
            }
            None => possible.to_vec(),
        };
        let parsed: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk.clone()).ok()?;
        let decoding = DecodingKey::from_jwk(&parsed).ok()?;
        (!algorithms.is_empty()).then(|| PublicKey { kid: text("kid").map(str::to_owned), algorithms, decoding })
    }

    /// The set as JSON.
    #[must_use]
    pub const fn json(&self) -> &Value {
        &self.json
    }

    /// How many keys can be used.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key of that name is in the set.
    #[must_use]
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The keys that a token with this header may have been signed by: the named one, or without a
    /// name the only one there is.
    fn candidates(&self, header: &Header) -> Vec<&PublicKey> {
        let fits = |key: &&PublicKey| key.algorithms.contains(&header.alg);
        match header.kid.as_deref() {
            Some(kid) => self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).filter(fits).collect(),
            None if self.keys.len() == 1 => self.keys.iter().filter(fits).collect(),
            None => Vec::new(),
        }
    }
}

/// What a token must say to be taken.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Exactly this `iss`.
    pub issuer: &'a str,
    /// Its `aud` is one of these, and has nothing else.
    pub audiences: &'a [&'a str],
    /// Media types of the header's `typ` that are taken, lower-case, without `application/`;
    /// `""` stands for none.
    pub types: &'a [&'a str],
}

/// The claims of a token whose signature, issuer, audience and times hold.
#[derive(Debug, Clone)]
pub struct Verified {
    /// All claims.
    pub claims: Map<String, Value>,
    /// `sub`.
    pub subject: String,
    /// `aud`, the one that matched.
    pub audience: String,
    /// `iat`, where given.
    pub issued_at: Option<Timestamp>,
    /// `exp`.
    pub expires_at: Timestamp,
}

/// The `kid` and `iss` that an unverified token claims, to choose whose keys to try. Nothing else
/// may be concluded from it.
#[must_use]
pub fn claimed(token: &str) -> Option<(Option<String>, String)> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let header = jsonwebtoken::decode_header(token).ok()?;
    let payload = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    Some((header.kid, claims.get("iss")?.as_str()?.to_owned()))
}

/// Reads a token: signature by a key of `keys`, then header, issuer, audience and times.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>, now: Timestamp) -> Result<Verified, TokenError> {
    claims_hold(signed_claims(token, keys, expected.types)?, expected, now)
}

/// The claims of a token of one of these `types` whose signature holds. Nothing is said of the
/// claims: for kinds of tokens that lack what [`verify`] asks for.
///
/// # Errors
/// When form, header or signature do not hold.
pub(in crate::identity) fn signed_claims(
    token: &str,
    keys: &KeySet,
    types: &[&str],
) -> Result<Map<String, Value>, TokenError> {
    serde_json::from_slice(&signed_payload(token, keys, types)?).map_err(|_| TokenError::Malformed)
}

/// What a token of one of these `types` carries, if its signature holds under a key of `keys`: the one
/// reader of signatures (RFC 7515 §5.2), whatever is signed.
///
/// # Errors
/// When form, header or signature do not hold.
pub fn signed_payload(token: &str, keys: &KeySet, types: &[&str]) -> Result<Vec<u8>, TokenError> {
    if token.len() > TOKEN_BYTES_MAX || token.bytes().filter(|b| *b == b'.').count() != 2 {
        return Err(TokenError::Malformed);
    }
    header_is_plain(token, types)?;
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    let candidates = keys.candidates(&header);
    if candidates.is_empty() {
        return Err(TokenError::UnknownKey);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (_, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
    // INVARIANT: each candidate's own algorithms have the header's. Claims are not for the library, which
    // would read the clock and takes an absent one for a good one: `claims_hold` below.
    let holds = |key: &&PublicKey| {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.decoding, header.alg).is_ok_and(|holds| holds)
    };
    if !candidates.iter().any(holds) {
        return Err(TokenError::Signature);
    }
    BASE64URL_NOPAD.decode(payload.as_bytes()).map_err(|_| TokenError::Malformed)
}

/// Looks at the header's JSON itself, since the library drops what it does not know.
fn header_is_plain(token: &str, types: &[&str]) -> Result<(), TokenError> {
    let encoded = token.split('.').next().unwrap_or_default();
    let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| TokenError::Malformed)?;
    let header: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)?;
    if header.contains_key("crit")
        || header.contains_key("b64")
        || header.contains_key("zip")
        || header.contains_key("enc")
    {
        return Err(TokenError::Header("it has `crit`, `b64`, `zip` or `enc`"));
    }
    let typ = match header.get("typ") {
        None => String::new(),
        Some(Value::String(typ)) => typ.to_ascii_lowercase(),
        Some(_) => return Err(TokenError::Header("its `typ` is no text")),
    };
    let typ = typ.strip_prefix("application/").unwrap_or(&typ);
    if types.contains(&typ) { Ok(()) } else { Err(TokenError::Header("its `typ` is of another kind of token")) }
}

/// A time claim: whole or fractional seconds (RFC 7519 §2), within what a calendar can hold.
pub(in crate::identity) fn time_claim(
    claims: &Map<String, Value>,
    name: &'static str,
) -> Result<Option<Timestamp>, TokenError> {
    const SECONDS_MAX: f64 = 253_402_300_799.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            #[expect(clippy::cast_possible_truncation, reason = "held between 0 and the year 9999 by the guard")]
            Some(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => {
                Ok(Some(Timestamp::from_seconds(seconds as i64)))
            }
            _ => Err(TokenError::Claim(name)),
        },
        Some(_) => Err(TokenError::Claim(name)),
    }
}

fn claims_hold(claims: Map<String, Value>, expected: &Expected<'_>, now: Timestamp) -> Result<Verified, TokenError> {
    let text = |name: &'static str| claims.get(name).and_then(Value::as_str).ok_or(TokenError::Claim(name));
    if text("iss")? != expected.issuer {
        return Err(TokenError::Claim("iss"));
    }
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => one.as_str(),
        // An audience beside ours would make a token good at two doors.
        Some(Value::Array(list)) => match list.as_slice() {
            [Value::String(one)] => one.as_str(),
            _ => return Err(TokenError::Claim("aud")),
        },
        _ => return Err(TokenError::Claim("aud")),
    };
    if !expected.audiences.contains(&audience) {
        return Err(TokenError::Claim("aud"));
    }
    let subject = text("sub")?;
    if subject.is_empty() {
        return Err(TokenError::Claim("sub"));
    }
    let (issued_at, expires_at) = times_hold(&claims, now)?;
    let (subject, audience) = (subject.to_owned(), audience.to_owned());
    Ok(Verified { subject, audience, issued_at, expires_at, claims })
}

/// When a token was made, where it says so, and when it ends, if it is good at `now`.
///
/// # Errors
/// When it is over or has not begun, or says no end.
pub(in crate::identity) fn times_hold(
    claims: &Map<String, Value>,
    now: Timestamp,
) -> Result<(Option<Timestamp>, Timestamp), TokenError> {
    let expires_at = time_claim(claims, "exp")?.ok_or(TokenError::Claim("exp"))?;
    let issued_at = time_claim(claims, "iat")?;
    if expires_at.is_over(now) {
        return Err(TokenError::Expired);
    }
    if time_claim(claims, "nbf")?.is_some_and(|at| at > now) {
        return Err(TokenError::NotYet);
    }
    // A minute of grace for a clock ahead of ours; a token from next week was not made honestly.
    if issued_at.is_some_and(|at| at > now.plus(Ttl::minutes(1))) {
        return Err(TokenError::NotYet);
    }
    Ok((issued_at, expires_at))
}
