//! People in the record appear by pseudonym: `usr_…`, the same for one principal in the whole
//! installation.
//!
//! HMAC-SHA-256 (RFC 2104) under a secret of the installation, cut to sixteen bytes: nothing is
//! looked up on the way of a request, and who has only the record can't try names.
//!
//! The pseudonym of a person who was erased is retired: it is given to nobody any more, and should
//! the same person come again, they get the next one of their line. Nothing that is kept ties the two
//! together. INVARIANT: what is retired stays so; a node that starts reads all of them before it
//! seals anything (`control/record.rs`), one that runs hears of them by the revocation feed.
//!
//! Whoever has the secret, which takes the database and the key-encryption key, and a name to try can
//! still compute whose pseudonym it was: `deploy/runbooks/erasure.md` says so to those who erase.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;
use lru::LruCache;

use crate::model::{Principal, Secret, UserRef};

/// How often one person can be erased and come again. The line ends there, so that nothing here goes
/// on for ever.
const GENERATIONS_MAX: u32 = 1000;
/// Principals whose pseudonyms are remembered: each request needs that of its caller twice.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Gives principals their pseudonyms.
pub struct Pseudonyms {
    key: hmac::Key,
    given: Mutex<Given>,
}

struct Given {
    retired: HashSet<UserRef>,
    remembered: LruCache<Principal, UserRef>,
}

impl Pseudonyms {
    /// Pseudonyms under this secret; 32 bytes are right.
    #[must_use]
    pub fn new(secret: &Secret<Vec<u8>>) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose()),
            given: Mutex::new(Given { retired: HashSet::new(), remembered: LruCache::new(REMEMBERED) }),
        }
    }

    /// The pseudonym of `principal`.
    #[must_use]
    pub fn of(&self, principal: &Principal) -> UserRef {
        // ORDER: held until it is remembered, so that what is retired meanwhile is not.
        let mut given = self.given();
        if let Some(known) = given.remembered.get(principal) {
            return *known;
        }
        let pseudonym = self.next(principal, &given.retired);
        given.remembered.put(principal.clone(), pseudonym);
        pseudonym
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        // A panic while it was held left nothing half done: each change is one call.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, principal: &Principal, retired: &HashSet<UserRef>) -> UserRef {
        let first = self.derived(principal, 0);
        if !retired.contains(&first) {
            return first;
        }
        let mut line = (1..GENERATIONS_MAX).map(|generation| self.derived(principal, generation));
        line.find(|next| !retired.contains(next)).unwrap_or(first)
    }

    /// Gives this pseudonym to nobody any more.
    pub fn retire(&self, pseudonyms: impl IntoIterator<Item = UserRef>) {
        let mut given = self.given();
        given.retired.extend(pseudonyms);
        given.remembered.clear();
    }

    fn derived(&self, principal: &Principal, generation: u32) -> UserRef {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(principal.kind().name().as_bytes());
        context.update(&[0]);
        context.update(principal.id().as_bytes());
        if generation > 0 {
            // No id has a NUL, so no two lines meet.
            context.update(&[0]);
            context.update(&generation.to_be_bytes());
        }
        let tag = context.sign();
        let mut bytes = [0u8; 16];
        for (target, source) in bytes.iter_mut().zip(tag.as_ref()) {
            *target = *source;
        }
        UserRef::from_bytes(bytes)
    }
}
