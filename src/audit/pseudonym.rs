//! People in the record appear by pseudonym: `usr_…`, the same for one principal in the whole
//! installation.
//!
//! HMAC-SHA-256 (RFC 2104) under a secret of the installation, cut to sixteen bytes: nothing is
//! looked up on the way of a request, and who has only the record can't try names. Whoever has
//! the secret can, so forgetting a person for good means giving that one a random pseudonym of
//! their own before the fact; that is for a later issue, and nothing here stands in its way.

use aws_lc_rs::hmac;

use crate::model::{Principal, Secret, UserRef};

/// Gives principals their pseudonyms.
pub struct Pseudonyms {
    key: hmac::Key,
}

impl Pseudonyms {
    /// Pseudonyms under this secret; 32 bytes are right.
    #[must_use]
    pub fn new(secret: &Secret<Vec<u8>>) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()) }
    }

    /// The pseudonym of `principal`.
    #[must_use]
    pub fn of(&self, principal: &Principal) -> UserRef {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(principal.kind().name().as_bytes());
        context.update(&[0]);
        context.update(principal.id().as_bytes());
        let tag = context.sign();
        let mut bytes = [0u8; 16];
        for (target, source) in bytes.iter_mut().zip(tag.as_ref()) {
            *target = *source;
        }
        UserRef::from_bytes(bytes)
    }
}
