//! What every control operation stands on, built once by the server.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};

use crate::audit::keep::settings::KeepRule;
use crate::credential::authority::Authority;
use crate::credential::seal::Sealer;
use crate::credential::token::SigningKey;
use crate::identity::directory::Directory;
use crate::identity::provider::Providers;
use crate::identity::token::KeySet;
use crate::model::{Clock, EntitlementName, Entropy, EventId, PrincipalKind, Secret, Session, Timestamp, Ttl};
use crate::policy::{Facts, PolicySet, Subject};
use crate::store::{Recorder, Store};

use super::clock_guard::ClockGuard;
use super::signing_key::KeyRing;

/// The longest that an access token lasts, whatever the settings say.
pub const ACCESS_TTL_MAX: Ttl = Ttl::minutes(15);

/// The keys that tokens of ours are signed and checked with.
pub struct Keys {
    /// Signs.
    pub signing: Arc<SigningKey>,
    /// The current, the next and those old ones whose tokens may still be out.
    pub public: Arc<KeySet>,
}

impl Keys {
    /// The keys of a ring, ready for use.
    #[must_use]
    pub fn of(ring: &KeyRing) -> Self {
        let current = &ring.current;
        let signing = SigningKey::new(current.kid.to_string(), &current.pkcs8, current.public_point.clone());
        Self { signing: Arc::new(signing), public: Arc::new(KeySet::from_json(&ring.jwks())) }
    }
}

/// Lengths, names and choices of the control plane.
#[derive(Debug, Clone)]
pub struct DeskSettings {
    /// `https://control.host[:port]`: our origin and the issuer of our tokens.
    pub origin: String,
    /// What services' short host names end in.
    pub domain: String,
    /// The port that people reach us at.
    pub public_port: u16,
    /// How long a session lasts.
    pub lifetime: Ttl,
    /// How long a session lasts unused: a refresh token is good no longer than this.
    pub idle: Option<Ttl>,
    /// How long a session's certificate lasts.
    pub certificate_ttl: Ttl,
    /// How often a session is checked at its provider.
    pub recheck: Ttl,
    /// Whether devices without a browser may sign in (RFC 8628).
    pub device_code: bool,
    /// How long a device's code and the code that its owner types are good.
    pub device_code_ttl: Ttl,
    /// How long an access token lasts; at most [`ACCESS_TTL_MAX`].
    pub access_ttl: Ttl,
    /// How long a refresh token lasts.
    pub refresh_ttl: Ttl,
    /// Whether a provider is the development one, which signs in whoever asks.
    pub development: bool,
    /// What an erasure of a person must not take from the record, and for how long.
    pub keep: Vec<KeepRule>,
}

impl DeskSettings {
    /// The control host's name, without scheme and port.
    #[must_use]
    pub fn host(&self) -> &str {
        let authority = self.origin.strip_prefix("https://").unwrap_or(&self.origin);
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// The port of the control host.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.origin.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443)
    }

    /// Where a service's host is reached.
    #[must_use]
    pub fn url_of(&self, host: &str) -> String {
        if self.public_port == 443 { format!("https://{host}") } else { format!("https://{host}:{}", self.public_port) }
    }
}

/// Everything that control operations need.
pub struct Desk {
    /// The database.
    pub store: Store,
    /// The record, for events without state.
    pub recorder: Recorder,
    /// What this node obeys.
    pub directory: Arc<Directory>,
    /// The policies in force.
    pub policies: Arc<ArcSwap<PolicySet>>,
    /// The keys in force.
    pub keys: Arc<ArcSwap<Keys>>,
    /// The authority that certificates come from.
    pub authority: Arc<ArcSwap<Authority>>,
    /// Who vouches for people.
    pub providers: Arc<Providers>,
    /// Seals what is kept of others' secrets.
    pub sealer: Arc<Sealer>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The same, asked whether something new may be granted by it.
    pub clock_guard: Arc<ClockGuard>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Choices.
    pub settings: DeskSettings,
}

/// Something that is told once to its holder and kept as a hash.
pub struct Token {
    text: Secret<String>,
    hash: [u8; 32],
}

impl Token {
    /// The text, for the one line where it leaves.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// What is kept.
    #[must_use]
    pub const fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

/// SHA-256 of what a holder shows.
#[must_use]
pub fn hash_of(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The id of an event that may be written several times of one thing and is on record once: made of
/// what it is about, with its time at the beginning as every event's id has it.
#[must_use]
pub fn event_id_of(about: &[&[u8]], time: Timestamp) -> EventId {
    let mut hash = Sha256::new();
    for part in about {
        hash.update(part);
        hash.update(b"\0");
    }
    let digest: [u8; 32] = hash.finalize().into();
    let millis = u64::try_from(time.millis()).unwrap_or(0).to_be_bytes();
    let mut bytes = [0u8; 16];
    for (target, source) in bytes.iter_mut().zip(millis.iter().skip(2).chain(&digest)) {
        *target = *source;
    }
    // Version and variant of a UUIDv7 (RFC 9562 §5.7).
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = (*version & 0x0f) | 0x70;
    *variant = (*variant & 0x3f) | 0x80;
    EventId::from_bytes(bytes)
}

impl Desk {
    /// 256 random bits in base64url: a code or token that nobody has yet.
    #[must_use]
    pub fn token(&self) -> Token {
        let text = data_encoding::BASE64URL_NOPAD.encode(&self.entropy.bytes_32());
        Token { hash: hash_of(&text), text: Secret::new(text) }
    }

    /// An id for an event of `now`.
    #[must_use]
    pub fn event_id(&self, now: Timestamp) -> EventId {
        EventId::fresh(now, &*self.entropy)
    }

    /// The person of a session as policies judge them at `now`: with the entitlements of their
    /// active grants. A workload has none but by a token that was made under one, which is for services.
    #[must_use]
    pub fn subject_now(&self, policies: &PolicySet, session: &Session, now: Timestamp) -> Subject {
        if session.principal.kind() == PrincipalKind::Workload {
            return self.subject(policies, session, &[]);
        }
        self.subject(policies, session, &self.directory.entitlements(&session.principal, now))
    }

    /// The person of a session as policies judge them, with the entitlements that are active.
    #[must_use]
    pub fn subject(&self, policies: &PolicySet, session: &Session, active: &[EntitlementName]) -> Subject {
        policies.subject(&Facts {
            principal: &session.principal,
            email: session.email.as_deref(),
            email_verified: session.email_verified,
            name: session.name.as_deref(),
            groups: &session.groups,
            entitlements: active,
            claims: (!session.claims.is_empty()).then(|| serde_json::json!(session.claims)).as_ref(),
            breakglass: None,
        })
    }
}
