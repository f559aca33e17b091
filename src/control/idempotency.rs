//! Doing once what is asked twice (`Idempotency-Key`): a key belongs to one principal, one route and
//! one body, for a day.
//!
//! What happens: the key is taken in a transaction of its own → the operation → its answer is kept.
//! What was refused did nothing, so its key is given back. After a crash in between, the key stays
//! taken without an answer: whoever repeats is told to look, because nobody knows.

use sha2::{Digest, Sha256};

use crate::model::{Principal, Timestamp, Ttl};
use crate::store::{KeptAnswer, StoreError};

use super::desk::Desk;

/// How long an answer is kept.
const KEPT: Ttl = Ttl::hours(24);

/// A key of one principal for one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    hash: [u8; 32],
    body: [u8; 32],
}

/// What becomes of a request with a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is the first: do it, then [`keep`] or [`release`].
    First,
    /// It was done: this was answered.
    Repeated {
        /// The status.
        status: u16,
        /// The body, JSON.
        answer: String,
    },
    /// The first is at work, or was when its node died.
    AtWork,
    /// The key was used for another body.
    OtherBody,
}

impl Key {
    /// The key `text` of `principal` for this route and body.
    #[must_use]
    pub fn of(principal: &Principal, route: &str, text: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for part in [principal.to_string().as_str(), route, text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self { hash: hash.finalize().into(), body: Sha256::digest(body).into() }
    }
}

/// Takes the key, or tells what it was taken for.
///
/// # Errors
/// When the database is away.
pub async fn take(desk: &Desk, key: Key, now: Timestamp) -> Result<Turn, StoreError> {
    let mut tx = desk.store.begin().await?;
    let first = tx.idempotency_take(&key.hash, &key.body, now).await?;
    tx.commit().await?;
    if first {
        return Ok(Turn::First);
    }
    Ok(match desk.store.idempotency_fetch(&key.hash).await? {
        Some(KeptAnswer { body_hash, .. }) if body_hash != key.body => Turn::OtherBody,
        Some(KeptAnswer { answer: Some((status, answer)), .. }) => Turn::Repeated { status, answer },
        // None: it was given back just now, and is free for the next try.
        Some(KeptAnswer { answer: None, .. }) | None => Turn::AtWork,
    })
}

/// Keeps the answer.
///
/// # Errors
/// When the database is away.
pub async fn keep(desk: &Desk, key: Key, status: u16, answer: &str) -> Result<(), StoreError> {
    let mut tx = desk.store.begin().await?;
    tx.idempotency_keep(&key.hash, status, answer).await?;
    tx.commit().await
}

/// Gives the key back: nothing was done.
///
/// # Errors
/// When the database is away.
pub async fn release(desk: &Desk, key: Key) -> Result<(), StoreError> {
    let mut tx = desk.store.begin().await?;
    tx.idempotency_release(&key.hash).await?;
    tx.commit().await
}

/// Forgets what is over.
///
/// # Errors
/// When the database is away.
pub async fn sweep(desk: &Desk, now: Timestamp) -> Result<u64, StoreError> {
    let mut tx = desk.store.begin().await?;
    let gone = tx.idempotency_sweep(now.minus(KEPT)).await?;
    tx.commit().await?;
    Ok(gone)
}
