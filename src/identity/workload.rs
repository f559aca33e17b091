//! Keys of the issuers that vouch for pipelines and machines, and their tokens read with them.
//!
//! Such an issuer has less to say of itself than one that people sign in at (GitHub's document names
//! no `authorization_endpoint`), so only `issuer` and `jwks_uri` are read (OpenID Connect Discovery
//! 1.0 §4). INVARIANTS: keys are fetched when a token needs them, one question at a time, and at
//! most once in 30 s for each issuer (ATTACKS A36); old keys are used while the issuer is away, but
//! not longer than a day; a token's own `jku`, `x5u` and `jwk` are nothing to us.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::token::{self, Expected, KeySet, TokenError};
use crate::model::{Clock, Timestamp, Ttl};
use crate::outbound::{Client, ClientSettings};

/// How long keys are good for without asking again.
const FRESH: Ttl = Ttl::hours(1);
/// How long they are used while the issuer is away.
const STALE_MAX: Ttl = Ttl::hours(24);
/// How often an issuer is asked at most.
const ASK_FLOOR: Ttl = Ttl::seconds(30);
/// The largest file with keys that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Issuers whose keys are kept.
const ISSUERS_MAX: usize = 256;
/// How long a token of others may last in all: one for ever would be a password.
const TOKEN_LIFE_MAX: Ttl = Ttl::hours(24);

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssuerSettings {
    /// Its `iss`, exactly.
    pub issuer: String,
    /// A file with its keys.
    pub jwks_file: Option<PathBuf>,
    /// A PEM file of authorities beside the public ones.
    pub ca: Option<PathBuf>,
    /// Whether it may be on this machine.
    pub allow_loopback: bool,
}

/// A token of an issuer whose signature, audience and times hold.
#[derive(Debug, Clone)]
pub struct ForeignToken {
    /// All its claims.
    pub claims: Map<String, Value>,
    /// Its id; where it has none, nothing tells it from itself but its bytes.
    pub jti: Option<String>,
    /// When it was made.
    pub issued_at: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Why a token of others is not taken.
#[derive(Debug)]
pub enum ForeignError {
    /// Its issuer's keys can't be had. The text is for operators.
    Keys(String),
    /// It does not hold.
    Token(TokenError),
}

impl fmt::Display for ForeignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(why) => write!(f, "the issuer's keys can't be had: {why}"),
            Self::Token(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ForeignError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Token(error) => Some(error),
            Self::Keys(_) => None,
        }
    }
}

/// Keys, and when they were fetched.
type Keys = (KeySet, Timestamp);

struct Known {
    settings: IssuerSettings,
    keys: ArcSwapOption<Keys>,
    asked_at: AtomicI64,
    gate: Semaphore,
}

/// What is known of all issuers. What was fetched survives reloads of the policies.
pub struct WorkloadKeys {
    known: Mutex<HashMap<IssuerSettings, Arc<Known>>>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for WorkloadKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkloadKeys")
    }
}

impl WorkloadKeys {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { known: Mutex::default(), clock }
    }

    /// Reads a token of `issuer` for `audience`.
    ///
    /// # Errors
    /// When the keys can't be had, or the token does not hold.
    pub async fn verify(
        &self,
        token: &str,
        issuer: &IssuerSettings,
        audience: &str,
        now: Timestamp,
    ) -> Result<ForeignToken, ForeignError> {
        let (kid, _) = token::claimed(token).ok_or(ForeignError::Token(TokenError::Malformed))?;
        let known = self.of(issuer);
        let named = |keys: &Arc<Keys>| kid.as_deref().is_none_or(|kid| keys.0.has(kid));
        let keys = known.keys(named, &self.clock, now).await.map_err(ForeignError::Keys)?;
        let read = |keys: &Keys| verify_with(token, &keys.0, &issuer.issuer, audience, now);
        let outcome = match read(&keys) {
            // As `provider_metadata.rs` has it: a key may have changed without its name.
            Err(error) if error.is_of_keys() => {
                let other = |held: &Arc<Keys>| !Arc::ptr_eq(held, &keys);
                let newer = known.keys(other, &self.clock, now).await.map_err(ForeignError::Keys)?;
                if Arc::ptr_eq(&newer, &keys) { Err(error) } else { read(&newer) }
            }
            outcome => outcome,
        };
        outcome.map_err(ForeignError::Token)
    }

    /// Forgets keys that came from files: a reload reads those again, and a key that was taken out is
    /// good for nothing from then on.
    pub fn forget_files(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|settings, _| settings.jwks_file.is_none());
    }

    fn of(&self, settings: &IssuerSettings) -> Arc<Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(settings) {
            return Arc::clone(known);
        }
        if known.len() >= ISSUERS_MAX {
            known.clear();
        }
        let fresh = Arc::new(Known {
            settings: settings.clone(),
            keys: ArcSwapOption::empty(),
            asked_at: AtomicI64::new(i64::MIN),
            gate: Semaphore::new(1),
        });
        known.insert(settings.clone(), Arc::clone(&fresh));
        fresh
    }
}

/// Reads a token with keys that are at hand.
///
/// # Errors
/// The first thing that does not hold.
pub fn verify_with(
    text: &str,
    keys: &KeySet,
    issuer: &str,
    audience: &str,
    now: Timestamp,
) -> Result<ForeignToken, TokenError> {
    let expected = Expected { issuer, audiences: &[audience], types: &["jwt", ""] };
    let verified = token::verify(text, keys, &expected, now)?;
    // A logout token (OIDC Back-Channel Logout §2.4) or a security event is no credential.
    if verified.claims.contains_key("events") || verified.claims.contains_key("nonce") {
        return Err(TokenError::Claim("events"));
    }
    let issued_at = lasts(verified.issued_at, verified.expires_at)?;
    let jti = verified.claims.get("jti").and_then(Value::as_str).filter(|jti| !jti.is_empty()).map(str::to_owned);
    Ok(ForeignToken { jti, issued_at: Some(issued_at), expires_at: verified.expires_at, claims: verified.claims })
}

/// Whether the times of a token are such as [`verify_with`] takes, whoever signed it.
///
/// # Errors
/// What is wrong with them.
pub fn times(claims: &Map<String, Value>, now: Timestamp) -> Result<(), TokenError> {
    let (issued_at, expires_at) = token::times_hold(claims, now)?;
    lasts(issued_at, expires_at).map(drop)
}

/// When a token was made that lasts no longer than one of others may.
fn lasts(issued_at: Option<Timestamp>, expires_at: Timestamp) -> Result<Timestamp, TokenError> {
    let issued_at = issued_at.ok_or(TokenError::Claim("iat"))?;
    if expires_at > issued_at.plus(TOKEN_LIFE_MAX) { Err(TokenError::Claim("exp")) } else { Ok(issued_at) }
}

/// Reads a JWK set.
///
/// # Errors
/// When it is none.
pub fn key_set(json: &[u8]) -> Result<KeySet, String> {
    let value: Value = serde_json::from_slice(json).map_err(|error| format!("its key set is no JSON: {error}"))?;
    if !value.get("keys").is_some_and(Value::is_array) {
        return Err("its key set has no list of `keys`".to_owned());
    }
    Ok(KeySet::from_json(&value))
}

impl Known {
    /// The keys from memory if they are fresh and will do, else fetched, as often as may be.
    async fn keys(
        &self,
        will_do: impl Fn(&Arc<Keys>) -> bool + Send,
        clock: &Arc<dyn Clock>,
        now: Timestamp,
    ) -> Result<Arc<Keys>, String> {
        let within = |age: Ttl| {
            let keys = self.keys.load_full();
            keys.filter(|keys| keys.1 <= now && !keys.1.plus(age).is_over(now))
        };
        let fits = || within(FRESH).filter(&will_do);
        if let Some(keys) = fits() {
            return Ok(keys);
        }
        let _one = self.gate.acquire().await.map_err(|error| error.to_string())?;
        if let Some(keys) = fits() {
            return Ok(keys);
        }
        let asked_at = Timestamp::from_millis(self.asked_at.load(Ordering::Acquire));
        let floor = asked_at.plus(ASK_FLOOR);
        if asked_at <= now && !floor.is_over(now) {
            return within(STALE_MAX).ok_or_else(|| "it was asked a moment ago, without success".to_owned());
        }
        self.asked_at.store(now.millis(), Ordering::Release);
        match self.fetch(clock).await {
            Ok(keys) => {
                let keys = Arc::new((keys, now));
                self.keys.store(Some(Arc::clone(&keys)));
                Ok(keys)
            }
            Err(why) => match within(STALE_MAX) {
                Some(keys) => {
                    tracing::warn!(issuer = self.settings.issuer, why, "old keys of an issuer are used");
                    Ok(keys)
                }
                None => Err(why),
            },
        }
    }

    async fn fetch(&self, clock: &Arc<dyn Clock>) -> Result<KeySet, String> {
        if let Some(path) = &self.settings.jwks_file {
            return key_set(&read(path).await?);
        }
        let mut authorities = Vec::new();
        if let Some(path) = &self.settings.ca {
            let pem = read(path).await?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                authorities.push(certificate.map_err(|error| format!("`{}`: {error}", path.display()))?);
            }
        }
        let settings = ClientSettings { authorities, allow_loopback: self.settings.allow_loopback };
        let client = Client::new(settings, Arc::clone(clock)).map_err(|error| error.to_string())?;
        let issuer = &self.settings.issuer;
        let url = format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer));
        let document: Value = serde_json::from_slice(&document(&client, &url).await?)
            .map_err(|error| format!("its discovery document can't be read: {error}"))?;
        // OIDC Discovery §4.3: exactly, slash and case included (ATTACKS A38).
        if document.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err("its discovery document is of another issuer".to_owned());
        }
        let jwks_uri = document.get("jwks_uri").and_then(Value::as_str);
        let jwks_uri = jwks_uri.ok_or_else(|| "its discovery document names no `jwks_uri`".to_owned())?;
        key_set(&self::document(&client, jwks_uri).await?)
    }
}

async fn document(client: &Client, url: &str) -> Result<Vec<u8>, String> {
    let answer = client.get(url, None).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("`{url}` answered {}", answer.status()));
    }
    Ok(answer.into_body())
}

async fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    let wrong = |error: &dyn fmt::Display| format!("reading `{}`: {error}", path.display());
    let length = tokio::fs::metadata(path).await.map_err(|error| wrong(&error))?.len();
    if length > FILE_BYTES_MAX {
        return Err(wrong(&"it is larger than 256 KiB"));
    }
    tokio::fs::read(path).await.map_err(|error| wrong(&error))
}
