//! Doing once what is asked twice (`Idempotency-Key`): a key belongs to one principal, one route and
//! one body, for a day.
//!
//! What happens: the key is taken in a transaction of its own → the operation, whose transaction also
//! writes that it was done → its answer is kept. What was refused did nothing, so its key is given back,
//! and so is that of one that failed without having been done. Where it was done and the answer got lost
//! (a crash, a caller who left, an error afterwards), whoever repeats is told so and does it no second
//! time. One that was begun and never done can be begun again after a while.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::model::{Principal, Timestamp, Ttl};
use crate::store::{KeptAnswer, StoreError, TakenKey};

use super::desk::Desk;

/// How long an answer is kept.
const KEPT: Ttl = Ttl::hours(24);
/// After how long one that was begun and not done is taken for abandoned: no operation takes as long, and
/// one that did would find that its key is another's and do nothing.
const ABANDONED: Ttl = Ttl::minutes(2);

/// How often, and after what pause, an answer is looked for that should be there by now.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A key of one principal for one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    hash: [u8; 32],
    body: [u8; 32],
}

/// What becomes of a request with a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is the first: do it within the key, then [`keep`], [`release`] or [`release_undone`].
    First(TakenKey),
    /// It was done: this was answered.
    Repeated {
        /// The status.
        status: u16,
        /// The body, JSON.
        answer: String,
    },
    /// The first is at work, or was when its node died a moment ago.
    AtWork,
    /// It was done, and what was answered is not known.
    Done,
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
    let first = tx.idempotency_take(&key.hash, &key.body, now.minus(ABANDONED), now).await?;
    tx.commit().await?;
    if let Some(taken) = first {
        return Ok(Turn::First(taken));
    }
    for _ in 0..LOOKS {
        match desk.store.idempotency_fetch(&key.hash).await? {
            Some(KeptAnswer { body_hash, .. }) if body_hash != key.body => return Ok(Turn::OtherBody),
            Some(KeptAnswer { answer: Some((status, answer)), .. }) => return Ok(Turn::Repeated { status, answer }),
            // Between the operation and its answer there is a moment.
            Some(KeptAnswer { answer: None, done: true, .. }) => tokio::time::sleep(LOOK_AGAIN).await,
            // None: it was given back just now, and is free for the next try.
            Some(KeptAnswer { answer: None, .. }) | None => return Ok(Turn::AtWork),
        }
    }
    Ok(Turn::Done)
}

/// Keeps the answer.
///
/// # Errors
/// When the database is away.
pub async fn keep(desk: &Desk, key: TakenKey, status: u16, answer: &str) -> Result<(), StoreError> {
    let mut tx = desk.store.begin().await?;
    tx.idempotency_keep(key, status, answer).await?;
    tx.commit().await
}

/// Gives the key back: nothing was done.
///
/// # Errors
/// When the database is away.
pub async fn release(desk: &Desk, key: TakenKey) -> Result<(), StoreError> {
    let mut tx = desk.store.begin().await?;
    tx.idempotency_release(key).await?;
    tx.commit().await
}

/// Gives the key back unless something was done: of an operation that failed it can't be told otherwise.
///
/// # Errors
/// When the database is away.
pub async fn release_undone(desk: &Desk, key: TakenKey) -> Result<(), StoreError> {
    let mut tx = desk.store.begin().await?;
    tx.idempotency_release_undone(key).await?;
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
