//! Who is told of an event beside the fixed addresses: the people whom it waits for.
//!
//! INVARIANT: who that is is asked when it is told and never kept: who may not answer any more gets no
//! mail, and what was sent already is remembered by a hash that only says whether it was this address.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use crate::model::EventId;
use crate::store::{Recorded, StoreError};

/// People who are told of one event at most.
pub const AUDIENCE_MAX: usize = 100;
/// The only type that has an audience of its own.
pub const AUDIENCE_TYPE: &str = "request.created";

/// Finds the e-mail addresses of those whom an event waits for; given by the server, since this room
/// knows no policies.
pub type Audience = Arc<dyn Fn(Recorded) -> BoxFuture<'static, Result<Vec<String>, StoreError>> + Send + Sync>;

/// Nobody.
#[must_use]
pub fn nobody() -> Audience {
    Arc::new(|_: Recorded| -> BoxFuture<'static, Result<Vec<String>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    })
}

/// What is kept of an address that was told of an event.
#[must_use]
pub fn mark_of(event: EventId, address: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(event.bytes());
    hash.update(address.to_ascii_lowercase().as_bytes());
    BASE64URL_NOPAD.encode(&hash.finalize())
}
