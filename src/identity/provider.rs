//! The OpenID Connect providers that vouch for people (OIDC Core 1.0, RFC 9700, RFC 9207).
//!
//! A provider may be away when the gateway starts: what is to be known of it is asked for at its
//! first use. INVARIANTS: a provider's local name is half of every identity that it vouches for, so
//! a name keeps the first issuer that it had, and no issuer has two names; the network is asked only
//! through `outbound/`, and never by [`Providers::verify_bearer`], which the data path calls.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::groups::GroupMap;
use super::provider_claims;
use super::provider_metadata::Known;
use super::token::{self, Expected, TokenError, Verified};
use super::workload::WorkloadKeys;
use crate::model::{Clock, Secret, Timestamp};
use crate::outbound::{Client, ClientSettings, OutboundError};
use crate::store::{Store, StoreError};

pub use super::provider_claims::Identity;
pub use super::provider_exchange::{ANEW, FlowSecrets, Rechecked};

/// What an ID token says and an access token does not (OIDC Core §2, §3.1.3.6, §3.3.2.11).
const ID_TOKEN_CLAIMS: [&str; 3] = ["nonce", "at_hash", "c_hash"];

/// One `[[identity.provider]]`.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// Its local name.
    pub name: String,
    /// Its issuer, exactly as its tokens say.
    pub issuer: String,
    /// Our client id there.
    pub client_id: String,
    /// Our secret there; none for a public client.
    pub client_secret: Option<Arc<Secret<String>>>,
    /// Scopes to ask for; `openid` is always among them.
    pub scopes: Vec<String>,
    /// The claim that says the groups.
    pub groups_claim: String,
    /// Claim value → local group.
    pub groups: Option<BTreeMap<String, String>>,
    /// Audiences for which its tokens are taken as bearer tokens.
    pub bearer_audiences: Vec<String>,
    /// Its keys in a file, where it can't be reached.
    pub jwks_file: Option<PathBuf>,
    /// A PEM file of authorities for connections to it, beside the public ones.
    pub ca: Option<PathBuf>,
    /// Whether it may be on this machine.
    pub allow_loopback: bool,
}

/// Why the providers of a configuration can't be used.
#[derive(Debug)]
pub enum ProvidersError {
    /// Two providers have one name.
    NameTwice { name: String },
    /// Two providers have one issuer: a person would be two principals.
    IssuerTwice { issuer: String, first: String, second: String },
    /// A name that has vouched for people under another issuer.
    IssuerChanged { name: String, first: String, now: String },
    /// A file of a provider can't be read.
    File { name: String, path: PathBuf, why: String },
    /// The client for a provider could not be made.
    Client { name: String, source: OutboundError },
    /// The first issuers could not be looked up.
    Store(StoreError),
}

impl fmt::Display for ProvidersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTwice { name } => write!(f, "two providers are named `{name}`: give one of them another name"),
            Self::IssuerTwice { issuer, first, second } => write!(
                f,
                "the providers `{first}` and `{second}` have the same issuer `{issuer}`, which would make one person two principals: remove one of them"
            ),
            Self::IssuerChanged { name, first, now } => write!(
                f,
                "the provider `{name}` has vouched for people as `{first}` and can't become `{now}`, which could then vouch for the same people: give the new issuer a new name"
            ),
            Self::File { name, path, why } => {
                write!(f, "the provider `{name}` names the file `{}`, which can't be used: {why}", path.display())
            }
            Self::Client { name, source } => write!(f, "the provider `{name}` can't be used: {source}"),
            Self::Store(error) => write!(f, "the first issuers of the providers could not be looked up: {error}"),
        }
    }
}

impl std::error::Error for ProvidersError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client { source, .. } => Some(source),
            Self::Store(error) => Some(error),
            Self::NameTwice { .. } | Self::IssuerTwice { .. } | Self::IssuerChanged { .. } | Self::File { .. } => None,
        }
    }
}

/// Why a provider did not vouch for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderError {
    /// It could not be asked, or its answer was none. `why` is for operators.
    Unreachable { provider: Arc<str>, why: String },
    /// It was asked a moment ago and is asked again only in a while.
    AskedJustNow { provider: Arc<str> },
    /// It said no, with this OAuth error code.
    Refused { provider: Arc<str>, error: String },
    /// What it says of itself can't be true or can't be used.
    Metadata { provider: Arc<str>, why: String },
    /// Its token does not hold.
    Token { provider: Arc<str>, source: TokenError },
    /// The answer to a sign-in came from another provider than was asked (RFC 9207).
    MixUp { provider: Arc<str> },
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { provider, why } => write!(f, "the provider `{provider}` can't be reached: {why}"),
            Self::AskedJustNow { provider } => {
                write!(f, "the provider `{provider}` could not be reached a moment ago; try again in a few seconds")
            }
            Self::Refused { provider, error } => write!(f, "the provider `{provider}` refused: `{error}`"),
            Self::Metadata { provider, why } => {
                write!(f, "the provider `{provider}` describes itself in a way that can't be used: {why}")
            }
            Self::Token { provider, source } => {
                write!(f, "a token of the provider `{provider}` is not taken: {source}")
            }
            Self::MixUp { provider } => {
                write!(f, "the answer to a sign-in at `{provider}` names another issuer, or none where it has to")
            }
        }
    }
}

impl std::error::Error for ProviderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Token { source, .. } => Some(source),
            Self::Unreachable { .. }
            | Self::AskedJustNow { .. }
            | Self::Refused { .. }
            | Self::Metadata { .. }
            | Self::MixUp { .. } => None,
        }
    }
}

/// One provider and what is known of it.
#[derive(Debug)]
pub struct Provider {
    pub(in crate::identity) name: Arc<str>,
    pub(in crate::identity) settings: ProviderSettings,
    pub(in crate::identity) groups: GroupMap,
    pub(in crate::identity) redirect_uri: String,
    pub(in crate::identity) client: Client,
    pub(in crate::identity) known: Known,
}

impl Provider {
    fn new(settings: ProviderSettings, origin: &str, clock: Arc<dyn Clock>) -> Result<Self, ProvidersError> {
        let name = settings.name.clone();
        let file = |path: &PathBuf, why: &dyn fmt::Display| ProvidersError::File {
            name: settings.name.clone(),
            path: path.clone(),
            why: why.to_string(),
        };
        let mut authorities = Vec::new();
        if let Some(path) = &settings.ca {
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| file(path, &e))? {
                authorities.push(certificate.map_err(|e| file(path, &e))?);
            }
            if authorities.is_empty() {
                return Err(file(path, &"it has no certificate in it"));
            }
        }
        let client = Client::new(ClientSettings { authorities, allow_loopback: settings.allow_loopback }, clock)
            .map_err(|source| ProvidersError::Client { name: name.clone(), source })?;
        let known = match &settings.jwks_file {
            None => Known::default(),
            Some(path) => {
                let text = std::fs::read(path).map_err(|e| file(path, &e))?;
                Known::with_keys(&text).map_err(|why| file(path, &why))?
            }
        };
        Ok(Self {
            name: name.clone().into(),
            groups: GroupMap::new(name, settings.groups.clone()),
            redirect_uri: format!("{origin}/signin/callback"),
            client,
            known,
            settings,
        })
    }

    /// Its local name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    /// Our client id there.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.settings.client_id
    }

    pub(in crate::identity) fn token_error(&self, source: TokenError) -> ProviderError {
        ProviderError::Token { provider: Arc::clone(&self.name), source }
    }

    pub(in crate::identity) fn unreachable(&self, why: impl fmt::Display) -> ProviderError {
        ProviderError::Unreachable { provider: Arc::clone(&self.name), why: why.to_string() }
    }
}

/// Somebody who came with a provider's own token.
#[derive(Debug)]
pub struct Bearer {
    /// Who that is.
    pub identity: Identity,
    /// All claims: `cnf` among them, for who has to check the binding.
    pub claims: Map<String, Value>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// All providers of an installation.
#[derive(Debug)]
pub struct Providers {
    list: Vec<Arc<Provider>>,
    /// Rung when the data path met a key that is not known.
    wanted: Notify,
    workloads: WorkloadKeys,
}

impl Providers {
    /// The providers of a configuration; `origin` is ours, `https://control.host[:port]`. Asks nobody.
    ///
    /// # Errors
    /// When two are the same, or a file can't be used.
    pub fn new(settings: Vec<ProviderSettings>, origin: &str, clock: &Arc<dyn Clock>) -> Result<Self, ProvidersError> {
        let mut list: Vec<Arc<Provider>> = Vec::with_capacity(settings.len());
        for one in settings {
            if list.iter().any(|other| other.settings.name == one.name) {
                return Err(ProvidersError::NameTwice { name: one.name });
            }
            if let Some(other) = list.iter().find(|other| other.settings.issuer == one.issuer) {
                let (first, second) = (other.settings.name.clone(), one.name);
                return Err(ProvidersError::IssuerTwice { issuer: one.issuer, first, second });
            }
            list.push(Arc::new(Provider::new(one, origin, Arc::clone(clock))?));
        }
        Ok(Self { list, wanted: Notify::new(), workloads: WorkloadKeys::new(Arc::clone(clock)) })
    }

    /// The keys of issuers that vouch for pipelines and machines.
    #[must_use]
    pub const fn workloads(&self) -> &WorkloadKeys {
        &self.workloads
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.list.iter()
    }

    /// The provider of that local name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Provider>> {
        self.list.iter().find(|provider| *provider.name == *name)
    }

    /// The provider of that issuer.
    #[must_use]
    pub fn of_issuer(&self, issuer: &str) -> Option<&Arc<Provider>> {
        self.list.iter().find(|provider| provider.settings.issuer == issuer)
    }

    /// Writes down the issuer of each name that is new, and compares the others (ATTACKS A70).
    ///
    /// # Errors
    /// When a name has had another issuer before, or the database is away.
    pub async fn hold_issuers(&self, store: &Store, now: Timestamp) -> Result<(), ProvidersError> {
        for provider in &self.list {
            let (name, issuer) = (&provider.settings.name, &provider.settings.issuer);
            let first = store.provider_issuer_hold(name, issuer, now).await.map_err(ProvidersError::Store)?;
            if first != *issuer {
                return Err(ProvidersError::IssuerChanged { name: name.clone(), first, now: issuer.clone() });
            }
        }
        Ok(())
    }

    /// Takes a provider's own token as a bearer token, if that provider is configured for it. Asks
    /// no network: a key that is not known yet, or not by this name, is fetched by [`Providers::tend`], and until then the
    /// token is refused.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn verify_bearer(&self, token: &str, now: Timestamp) -> Result<Bearer, TokenError> {
        let (_, issuer) = token::claimed(token).ok_or(TokenError::Malformed)?;
        let provider = self
            .of_issuer(&issuer)
            .filter(|provider| !provider.settings.bearer_audiences.is_empty())
            .ok_or(TokenError::Claim("iss"))?;
        let Some(keys) = provider.known.keys_at_hand(now) else {
            self.want(provider);
            return Err(TokenError::UnknownKey);
        };
        let audiences: Vec<&str> = provider.settings.bearer_audiences.iter().map(String::as_str).collect();
        let expected = Expected { issuer: &issuer, audiences: &audiences, types: &["at+jwt", "jwt", ""] };
        let verified = token::verify(token, &keys, &expected, now).inspect_err(|error| {
            if error.is_of_keys() {
                self.want(provider);
            }
        })?;
        // A logout token (OIDC Back-Channel Logout §2.4) or a security event is no credential.
        if verified.claims.contains_key("events") {
            return Err(TokenError::Claim("events"));
        }
        // INVARIANT: an ID token says to a client who signed in, and is no credential (OIDC Core §2, RFC 9068 §5):
        // applications show it to browsers and logs. Made for our own client it differs from an access token by
        // these alone, where the provider marks neither by `typ`.
        if verified.audience == provider.settings.client_id
            && let Some(claim) = ID_TOKEN_CLAIMS.into_iter().find(|claim| verified.claims.contains_key(*claim))
        {
            return Err(TokenError::Claim(claim));
        }
        provider.bearer(verified, now)
    }

    fn want(&self, provider: &Provider) {
        provider.known.want();
        self.wanted.notify_one();
    }

    /// Waits until [`Providers::tend`] has something to do for the data path.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Fetches keys that are wanted or old, of providers whose tokens are taken as bearer tokens. A
    /// task of the server calls it every few seconds and when [`Providers::wanted`] returns.
    pub async fn tend(&self, now: Timestamp) {
        for provider in self.list.clone() {
            if provider.settings.bearer_audiences.is_empty() {
                continue;
            }
            if let Err(error) = provider.tend(now).await {
                tracing::warn!(provider = %provider.name, %error, "the keys of a provider could not be fetched");
            }
        }
    }
}

impl Provider {
    fn bearer(&self, verified: Verified, now: Timestamp) -> Result<Bearer, TokenError> {
        let identity =
            provider_claims::identity(&self.name, &verified.claims, &self.settings.groups_claim, &self.groups, now)
                .ok_or(TokenError::Claim("sub"))?;
        Ok(Bearer { identity, expires_at: verified.expires_at, claims: verified.claims })
    }
}
