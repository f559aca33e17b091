//! What a reload swaps whole: policies, TLS, keys, and per service what is built from them once.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::DefaultClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use http::{HeaderName, HeaderValue};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::credential::token::SigningKey;
use crate::identity::token::KeySet;
use crate::model::{Principal, Secret, ServiceName, Ttl};
use crate::policy::{ClientCertificate, InjectionScheme, PolicySet, SecretSource, Service, Upstream, UpstreamTls};

use super::handshake::TlsSide;
use super::hygiene::Injected;
use super::metrics::{Metrics, ServiceMetrics};

/// Requests of one key, as governor counts them.
pub type Limiter<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, NoOpMiddleware>;

/// Why a reload was refused.
#[derive(Debug)]
pub struct SnapshotError {
    /// Which service, if it was about one.
    pub service: Option<ServiceName>,
    /// What was wrong and what to do.
    pub message: String,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "service `{service}`: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// How the upstreams of a service are reached: all that connections to them are made from.
///
/// INVARIANT: one that a reload did not change stays the same `Arc`. By that it is seen that the connections
/// which lie idle, and what is known of upstreams that rest, are good still.
pub struct UpstreamSide {
    /// The snapshot that it came with: of two of one service the one of the later is in force.
    pub generation: u64,
    /// How connections are secured.
    pub tls: Arc<ClientConfig>,
    /// What it was made from.
    pub settings: UpstreamSettings,
}

/// What the files say of how upstreams are reached.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Where requests go.
    pub upstreams: Vec<Upstream>,
    /// How they are recognised, and we by them.
    pub tls: UpstreamTls,
    /// Whether they are checked.
    pub are_checked: bool,
    /// How long a connection may take to come about.
    pub connect: Ttl,
    /// Connections of one thread to one of them.
    pub connections_max: u32,
    /// SHA-256 of each file that `tls` names: their content may change under the same name.
    files: Vec<[u8; 32]>,
}

impl UpstreamSettings {
    fn of(service: &Service) -> Result<Self, String> {
        let tls = &service.upstream_tls;
        let hash = |path: &std::path::PathBuf| -> Result<[u8; 32], String> {
            let bytes = std::fs::read(path).map_err(|e| format!("reading `{}`: {e}", path.display()))?;
            Ok(Sha256::digest(Zeroizing::new(bytes).as_slice()).into())
        };
        Ok(Self {
            upstreams: service.upstreams.clone(),
            tls: tls.clone(),
            are_checked: service.health.is_some(),
            connect: service.timeouts.connect,
            connections_max: service.limits.connections_per_upstream,
            files: [&tls.ca, &tls.certificate, &tls.key].into_iter().flatten().map(hash).collect::<Result<_, _>>()?,
        })
    }
}

/// One service with all that is built once per reload.
pub struct ServiceEntry {
    /// The service as its folder says.
    pub service: Arc<Service>,
    /// Requests per principal.
    pub limiter: Arc<Limiter<Principal>>,
    /// How its upstreams are reached.
    pub upstreams: Arc<UpstreamSide>,
    /// Header fields that its upstream gets from us, secret values resolved.
    pub inject: Vec<(HeaderName, HeaderValue)>,
    /// Their names, which a client may not use; none where there are none.
    pub injected: Option<Injected>,
    /// Its counters.
    pub metrics: ServiceMetrics,
    /// The audience of its tokens and assertions: its name.
    pub audience: Arc<str>,
    /// `Service::"…"`, for the record.
    pub resource: Arc<str>,
}

/// The keys that sign and verify our tokens.
#[derive(Debug)]
pub struct TokenKeys {
    /// Signs.
    pub signing: Arc<SigningKey>,
    /// Verifies: current, next and old.
    pub public: Arc<KeySet>,
    /// Counts changes: remembered tokens are keyed by it.
    pub version: u64,
}

/// Everything that a request is judged by, of one moment.
pub struct Snapshot {
    /// Counts swaps; remembered decisions are keyed by it.
    pub generation: u64,
    /// The policies in force.
    pub policies: Arc<PolicySet>,
    /// TLS.
    pub tls: Arc<TlsSide>,
    /// Counts changes of client authorities.
    pub trust_epoch: u64,
    /// Keys of tokens.
    pub keys: Arc<TokenKeys>,
    services: HashMap<ServiceName, Arc<ServiceEntry>>,
    /// Those whose upstreams are checked.
    checked: Arc<[Arc<ServiceEntry>]>,
}

impl Snapshot {
    /// Builds what services need from the policies. Limiters of services whose limits did not
    /// change are kept from `before`, so that a reload forgives nobody, and so is how upstreams are reached.
    ///
    /// # Errors
    /// When a certificate, key or secret of a service can't be used.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a reload swaps")]
    pub fn new(
        generation: u64,
        policies: Arc<PolicySet>,
        tls: Arc<TlsSide>,
        trust_epoch: u64,
        keys: Arc<TokenKeys>,
        metrics: &Metrics,
        before: Option<&Self>,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SnapshotError> {
        let mut services = HashMap::new();
        for service in policies.services() {
            let wrong = |message: String| SnapshotError { service: Some(service.name.clone()), message };
            let same_limits = |entry: &&Arc<ServiceEntry>| {
                let limits = &entry.service.limits;
                limits.requests_per_second == service.limits.requests_per_second && limits.burst == service.limits.burst
            };
            let known = before.and_then(|before| before.services.get(&service.name));
            let limiter = match known.filter(same_limits) {
                Some(entry) => Arc::clone(&entry.limiter),
                None => Arc::new(limiter(service.limits.requests_per_second, service.limits.burst)),
            };
            let inject = injections(service, environment).map_err(wrong)?;
            let entry = ServiceEntry {
                limiter,
                upstreams: upstream_side(service, known, generation, tls.time()).map_err(wrong)?,
                injected: Injected::of(inject.iter().map(|(name, _)| name)),
                inject,
                metrics: metrics.service(&service.name),
                audience: service.name.as_str().into(),
                resource: format!("Service::\"{}\"", service.name).into(),
                service: Arc::clone(service),
            };
            services.insert(service.name.clone(), Arc::new(entry));
        }
        let checked = services.values().filter(|entry| entry.service.health.is_some()).cloned().collect();
        Ok(Self { generation, policies, tls, trust_epoch, keys, services, checked })
    }

    /// The same but for the keys.
    #[must_use]
    pub fn with_keys(&self, generation: u64, keys: Arc<TokenKeys>) -> Self {
        Self {
            generation,
            policies: Arc::clone(&self.policies),
            tls: Arc::clone(&self.tls),
            trust_epoch: self.trust_epoch,
            keys,
            services: self.services.clone(),
            checked: Arc::clone(&self.checked),
        }
    }

    /// Forgets principals whose allowance is whole again: limits remember those alone who use them.
    pub fn sweep(&self) {
        for entry in self.services.values() {
            entry.limiter.retain_recent();
        }
    }

    /// The services whose upstreams are checked.
    pub fn checked(&self) -> impl Iterator<Item = &Arc<ServiceEntry>> {
        self.checked.iter()
    }

    /// Whether the upstreams of this service are reached so.
    #[must_use]
    pub fn reaches(&self, service: &ServiceName, side: &Arc<UpstreamSide>) -> bool {
        self.services.get(service).is_some_and(|entry| Arc::ptr_eq(&entry.upstreams, side))
    }

    /// The service at this host.
    #[must_use]
    pub fn service_at(&self, host: &str) -> Option<&Arc<ServiceEntry>> {
        self.policies.service_for_host(host).and_then(|service| self.services.get(&service.name))
    }

    /// Whether the service at this host demands a client certificate in the handshake.
    #[must_use]
    pub fn demands_certificate(&self, host: &str) -> Option<ClientCertificate> {
        self.policies.service_for_host(host).map(|service| service.client_certificate)
    }
}

/// Whether everything that a service names outside its own file can be used: certificates, keys, secrets.
///
/// # Errors
/// What can't, and what to do.
pub fn usable(service: &Service, environment: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    // Only whether it can be made is asked, which no clock has a part in.
    upstream_tls(service, Arc::new(DefaultTimeProvider))?;
    injections(service, environment)?;
    Ok(())
}

/// A limiter of so many requests a second with such a burst.
#[must_use]
pub fn limiter<K: std::hash::Hash + Eq + Clone>(per_second: u32, burst: u32) -> Limiter<K> {
    let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
    let burst = NonZeroU32::new(burst).unwrap_or(per_second);
    RateLimiter::dashmap_with_clock(Quota::per_second(per_second).allow_burst(burst), DefaultClock::default())
}

/// How a service's upstreams are reached: as they were, where nothing changed.
fn upstream_side(
    service: &Service,
    known: Option<&Arc<ServiceEntry>>,
    generation: u64,
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<UpstreamSide>, String> {
    // ORDER: the files are hashed before they are used, so that what changes in between is seen by the next reload.
    let settings = UpstreamSettings::of(service)?;
    match known.filter(|entry| entry.upstreams.settings == settings) {
        Some(entry) => Ok(Arc::clone(&entry.upstreams)),
        None => Ok(Arc::new(UpstreamSide { generation, tls: upstream_tls(service, time)?, settings })),
    }
}

/// How connections to a service's upstreams are secured, their certificates judged by this clock. What each is
/// offered to speak is its own (`connect.rs`).
///
/// INVARIANT: no handshake is resumed: a resumed one does not look at the upstream's certificate again, and its
/// end would go unseen.
///
/// # Errors
/// When a certificate or key can't be used.
pub fn upstream_tls(service: &Service, time: Arc<dyn TimeProvider>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    match &service.upstream_tls.ca {
        None if service.upstreams.iter().any(|upstream| upstream.tls) => {
            roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        }
        None => {}
        Some(path) => {
            let unread = |e: &dyn fmt::Display| format!("reading the upstream authority `{}`: {e}", path.display());
            for der in CertificateDer::pem_file_iter(path).map_err(|e| unread(&e))? {
                roots.add(der.map_err(|e| unread(&e))?).map_err(|e| unread(&e))?;
            }
        }
    }
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let mut config = match (&service.upstream_tls.certificate, &service.upstream_tls.key) {
        (Some(certificate), Some(key)) => {
            let unread = |path: &std::path::Path, e: &dyn fmt::Display| format!("reading `{}`: {e}", path.display());
            let chain = CertificateDer::pem_file_iter(certificate)
                .map_err(|e| unread(certificate, &e))?
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| unread(certificate, &e))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unread(key, &e))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("`{}` and its key can't be used: {e}", certificate.display()))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("`upstream_tls` needs both `certificate` and `key`, or neither".to_owned()),
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn injections(
    service: &Service,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut made = Vec::new();
    for injection in &service.inject {
        let secret: Secret<String> = match &injection.secret {
            SecretSource::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| {
                    format!(
                        "reading the secret for `{}` from `{}`: {e}; check the path and the rights of the user that runs doorward",
                        injection.header,
                        path.display()
                    )
                })?;
                Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            SecretSource::Env(name) => Secret::new(environment(name).ok_or_else(|| {
                format!(
                    "the secret for `{}` is to come from the variable `{name}`, which is not set; set it in the environment of the process",
                    injection.header
                )
            })?),
        };
        let text = Zeroizing::new(match &injection.scheme {
            InjectionScheme::Plain => secret.expose().clone(),
            InjectionScheme::Bearer => format!("Bearer {}", secret.expose()),
            InjectionScheme::Basic { user } => {
                let pair = Zeroizing::new(format!("{user}:{}", secret.expose()));
                format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))
            }
        });
        let name = HeaderName::from_bytes(injection.header.as_bytes())
            .map_err(|_| format!("`{}` is not the name of a header", injection.header))?;
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| format!("the secret for `{}` has characters that a header can't carry", injection.header))?;
        value.set_sensitive(true);
        made.push((name, value));
    }
    Ok(made)
}
