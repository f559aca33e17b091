//! What is known of a provider: its discovery document (OIDC Discovery 1.0 §4) and its keys.
//!
//! INVARIANTS: both are asked for only when they are needed, one question at a time; after a failure
//! the next try has to wait, so that a provider that is down is not beaten; an unknown key, or a
//! signature that does not hold, leads to at most one fetch in 30 s (ATTACKS A36, F5); what is old is
//! used while the provider is away, but not longer than a day.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwapOption;
use http::StatusCode;
use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType,
    CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, ProviderMetadata};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use super::provider::{Provider, ProviderError};
use super::token::{self, KeySet, TokenError};
use crate::model::{Timestamp, Ttl};

/// How long a discovery document and a key set are good for without asking again.
const FRESH: Ttl = Ttl::hours(1);
/// How long they are used while the provider is away.
const STALE_MAX: Ttl = Ttl::hours(24);
/// How long after a failed try the next one waits.
const RETRY_FLOOR: Ttl = Ttl::seconds(5);
/// How often the keys are fetched at most, once there are any.
const KEYS_FLOOR: Ttl = Ttl::seconds(30);

/// What is read of a discovery document beside what OIDC Discovery names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::identity) struct Extra {
    /// RFC 9207 §3: it names itself in every answer.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for Extra {}

pub(in crate::identity) type Metadata = ProviderMetadata<
    Extra,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

/// Something that was fetched, and when.
#[derive(Debug)]
struct Fetched<T> {
    value: Arc<T>,
    at: Timestamp,
}

impl<T> Fetched<T> {
    /// How old it is; something from the future, after the clock was set back, is old.
    fn is_within(&self, age: Ttl, now: Timestamp) -> bool {
        self.at <= now && !self.at.plus(age).is_over(now)
    }
}

/// When something was last tried.
#[derive(Debug)]
struct Tried(AtomicI64);

impl Default for Tried {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Tried {
    /// Whether it may be tried again at `now`. A try in the future, after the clock was set back,
    /// does not count.
    fn may_again(&self, floor: Ttl, now: Timestamp) -> bool {
        let last = Timestamp::from_millis(self.0.load(Ordering::Acquire));
        last > now || last.plus(floor).is_over(now)
    }

    fn mark(&self, now: Timestamp) {
        self.0.store(now.millis(), Ordering::Release);
    }
}

/// The memory of one provider.
#[derive(Debug)]
pub(in crate::identity) struct Known {
    metadata: ArcSwapOption<Fetched<Metadata>>,
    metadata_tried: Tried,
    keys: ArcSwapOption<Fetched<KeySet>>,
    keys_tried: Tried,
    keys_wanted: AtomicBool,
    /// Keys from a file are good for as long as the file says nothing else.
    keys_from_file: bool,
    /// One question at a time: who waits here finds the answer there.
    gate: Semaphore,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            metadata: ArcSwapOption::empty(),
            metadata_tried: Tried::default(),
            keys: ArcSwapOption::empty(),
            keys_tried: Tried::default(),
            keys_wanted: AtomicBool::new(false),
            keys_from_file: false,
            gate: Semaphore::new(1),
        }
    }
}

impl Known {
    /// A memory with the keys of a file, which are never fetched.
    pub(in crate::identity) fn with_keys(json: &[u8]) -> Result<Self, String> {
        let keys = key_set(json)?;
        let known = Self { keys_from_file: true, ..Self::default() };
        known.keys.store(Some(Arc::new(Fetched { value: Arc::new(keys), at: Timestamp::default() })));
        Ok(known)
    }

    /// The keys, if there are any that may still be used.
    pub(in crate::identity) fn keys_at_hand(&self, now: Timestamp) -> Option<Arc<KeySet>> {
        let keys = self.keys.load();
        let keys = keys.as_ref()?;
        (self.keys_from_file || keys.is_within(STALE_MAX, now)).then(|| Arc::clone(&keys.value))
    }

    /// The data path met a key that is not known.
    pub(in crate::identity) fn want(&self) {
        self.keys_wanted.store(true, Ordering::Release);
    }

    fn keys_are_fresh(&self, now: Timestamp) -> bool {
        self.keys_from_file || self.keys.load().as_ref().is_some_and(|keys| keys.is_within(FRESH, now))
    }
}

fn key_set(json: &[u8]) -> Result<KeySet, String> {
    let value: Value = serde_json::from_slice(json).map_err(|error| format!("its key set is no JSON: {error}"))?;
    if !value.get("keys").is_some_and(Value::is_array) {
        return Err("its key set has no list of `keys`".to_owned());
    }
    Ok(KeySet::from_json(&value))
}

impl Provider {
    fn metadata_error(&self, why: impl Into<String>) -> ProviderError {
        ProviderError::Metadata { provider: Arc::clone(&self.name), why: why.into() }
    }

    /// The discovery document, from memory or from the provider.
    pub(in crate::identity) async fn metadata(&self, now: Timestamp) -> Result<Arc<Metadata>, ProviderError> {
        let at_hand = |age: Ttl| {
            let known = self.known.metadata.load();
            known.as_ref().filter(|known| known.is_within(age, now)).map(|known| Arc::clone(&known.value))
        };
        if let Some(metadata) = at_hand(FRESH) {
            return Ok(metadata);
        }
        let _one = self.known.gate.acquire().await.map_err(|error| self.unreachable(error))?;
        if let Some(metadata) = at_hand(FRESH) {
            return Ok(metadata);
        }
        if !self.known.metadata_tried.may_again(RETRY_FLOOR, now) {
            return at_hand(STALE_MAX).ok_or_else(|| ProviderError::AskedJustNow { provider: Arc::clone(&self.name) });
        }
        self.known.metadata_tried.mark(now);
        match self.discover().await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                self.known.metadata.store(Some(Arc::new(Fetched { value: Arc::clone(&metadata), at: now })));
                Ok(metadata)
            }
            Err(error) => match at_hand(STALE_MAX) {
                Some(metadata) => {
                    tracing::warn!(provider = %self.name, %error, "an old discovery document of a provider is used");
                    Ok(metadata)
                }
                None => Err(error),
            },
        }
    }

    /// Where the discovery document is (OIDC Discovery §4).
    pub(in crate::identity) fn discovery_url(&self) -> String {
        let issuer = self.issuer();
        format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
    }

    async fn discover(&self) -> Result<Metadata, ProviderError> {
        let issuer = self.issuer();
        let body = self.document(&self.discovery_url()).await?;
        let metadata: Metadata = serde_json::from_slice(&body)
            .map_err(|error| self.metadata_error(format!("its discovery document can't be read: {error}")))?;
        // OIDC Discovery §4.3: exactly, slash and case included (ATTACKS A38).
        if metadata.issuer().as_str() != issuer {
            return Err(self.metadata_error(format!(
                "it says that its issuer is `{}`, and the configuration says `{issuer}`: write it as the provider does",
                metadata.issuer().as_str().escape_debug()
            )));
        }
        let authorize = metadata.authorization_endpoint().url();
        if !self.is_for_browsers(authorize) {
            return Err(self.metadata_error(format!("its `authorization_endpoint` `{authorize}` is not https")));
        }
        Ok(metadata)
    }

    /// Whether a person's browser may be sent there.
    fn is_for_browsers(&self, url: &Url) -> bool {
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        let scheme = match url.scheme() {
            "https" => true,
            "http" => self.settings.allow_loopback,
            _ => false,
        };
        plain && scheme && url.host().is_some()
    }

    async fn document(&self, url: &str) -> Result<Vec<u8>, ProviderError> {
        let answer = self.client.get(url, None).await.map_err(|error| self.unreachable(error))?;
        if answer.status() != StatusCode::OK {
            return Err(self.unreachable(format!("`{url}` answered {}", answer.status())));
        }
        Ok(answer.into_body())
    }

    /// Reads a token by `read` with this provider's keys. A provider may change a key that has no name, or
    /// one that keeps its name, so a signature that does not hold is tried once more with newer keys.
    pub(in crate::identity) async fn verified<T>(
        &self,
        token: &str,
        now: Timestamp,
        read: impl Fn(&KeySet) -> Result<T, TokenError> + Send,
    ) -> Result<T, ProviderError> {
        let (kid, _) = token::claimed(token).ok_or_else(|| self.token_error(TokenError::Malformed))?;
        let keys = self.keys(kid.as_deref(), now).await?;
        let outcome = match read(&keys) {
            Err(error) if error.is_of_keys() => {
                let newer = self.keys_that(|held| !Arc::ptr_eq(held, &keys), now).await?;
                if Arc::ptr_eq(&newer, &keys) { Err(error) } else { read(&newer) }
            }
            outcome => outcome,
        };
        outcome.map_err(|error| self.token_error(error))
    }

    /// The keys for a token that names `kid`: from memory, or fetched where that may help.
    pub(in crate::identity) async fn keys(
        &self,
        kid: Option<&str>,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, ProviderError> {
        self.keys_that(|keys| kid.is_none_or(|kid| keys.has(kid)), now).await
    }

    /// The keys from memory if they are fresh and will do, else fetched, as often as may be.
    async fn keys_that(
        &self,
        will_do: impl Fn(&Arc<KeySet>) -> bool + Send,
        now: Timestamp,
    ) -> Result<Arc<KeySet>, ProviderError> {
        let known = &self.known;
        let fits = || known.keys_at_hand(now).filter(|keys| known.keys_are_fresh(now) && will_do(keys));
        if let Some(keys) = fits() {
            return Ok(keys);
        }
        let metadata = if known.keys_from_file { None } else { Some(self.metadata(now).await?) };
        let _one = known.gate.acquire().await.map_err(|error| self.unreachable(error))?;
        if let Some(keys) = fits() {
            return Ok(keys);
        }
        let at_hand = known.keys_at_hand(now);
        let floor = if at_hand.is_some() { KEYS_FLOOR } else { RETRY_FLOOR };
        if !known.keys_tried.may_again(floor, now) {
            return at_hand.ok_or_else(|| ProviderError::AskedJustNow { provider: Arc::clone(&self.name) });
        }
        known.keys_tried.mark(now);
        match self.fetch_keys(metadata.as_deref()).await {
            Ok(keys) => {
                let keys = Arc::new(keys);
                known.keys.store(Some(Arc::new(Fetched { value: Arc::clone(&keys), at: now })));
                Ok(keys)
            }
            Err(error) => match at_hand {
                Some(keys) => {
                    tracing::warn!(provider = %self.name, %error, "old keys of a provider are used");
                    Ok(keys)
                }
                None => Err(error),
            },
        }
    }

    async fn fetch_keys(&self, metadata: Option<&Metadata>) -> Result<KeySet, ProviderError> {
        let json = match (metadata, &self.settings.jwks_file) {
            (Some(metadata), _) => self.document(metadata.jwks_uri().as_str()).await?,
            (None, Some(path)) => tokio::fs::read(path).await.map_err(|error| self.unreachable(error))?,
            (None, None) => Vec::new(),
        };
        key_set(&json).map_err(|why| self.metadata_error(why))
    }

    /// Fetches the keys if the data path wants them or they are old.
    pub(in crate::identity) async fn tend(&self, now: Timestamp) -> Result<(), ProviderError> {
        let known = &self.known;
        let wanted = known.keys_wanted.load(Ordering::Acquire);
        let floor = if known.keys_at_hand(now).is_some() { KEYS_FLOOR } else { RETRY_FLOOR };
        if (known.keys_are_fresh(now) && !wanted) || !known.keys_tried.may_again(floor, now) {
            return Ok(());
        }
        known.keys_wanted.store(false, Ordering::Release);
        // A name that no key has leads past what is in memory.
        self.keys(wanted.then_some(""), now).await.map(|_| ())
    }
}
