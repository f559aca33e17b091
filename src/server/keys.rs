//! The signing keys as the rooms want them: the desk signs and publishes, the data path signs
//! assertions and verifies.

use std::sync::Arc;

use crate::control::Keys;
use crate::control::signing_key::{CurrentKey, KeyRing, KeySettings};
use crate::credential::token::SigningKey;
use crate::gateway::snapshot::TokenKeys;
use crate::identity::token::KeySet;

/// The ring in force and how it changes.
pub struct KeyBox {
    ring: KeyRing,
    settings: KeySettings,
}

impl KeyBox {
    /// Holds the ring.
    #[must_use]
    pub const fn new(ring: KeyRing, settings: KeySettings) -> Self {
        Self { ring, settings }
    }

    /// The ring in force.
    #[must_use]
    pub const fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// How keys follow each other.
    #[must_use]
    pub const fn settings(&self) -> &KeySettings {
        &self.settings
    }

    /// Takes another ring.
    pub fn replace(&mut self, ring: KeyRing) {
        self.ring = ring;
    }
}

/// The ring for desk and data path; `version` counts rings.
#[must_use]
pub fn keys_of(ring: &KeyRing, version: u64) -> (Arc<Keys>, Arc<TokenKeys>) {
    let CurrentKey { kid, pkcs8, public_point } = &ring.current;
    let signing = Arc::new(SigningKey::new(kid.to_string(), pkcs8, public_point.clone()));
    let public = Arc::new(KeySet::from_json(&ring.jwks()));
    let desk = Keys { signing: Arc::clone(&signing), public: Arc::clone(&public) };
    (Arc::new(desk), Arc::new(TokenKeys { signing, public, version }))
}
