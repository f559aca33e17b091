//! What is open under a certificate ends when its authority is no longer trusted.
//!
//! Requests ask each time (`authenticate.rs`). A stream or tunnel that is open asks nothing, so it is
//! told: a reload that changes the authorities rings, and who has something open verifies its chain
//! again.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use super::handshake::Channel;
use super::worker::Shared;

/// Resolves when the client's chain no longer holds under the authorities in force. One that shows no
/// certificate, or whose certificate is an opening (it has judges of its own), is never told.
pub async fn lost(shared: Arc<Shared>, channel: Rc<Channel>) {
    if channel.certificate.is_none() || channel.opening.is_some() {
        return std::future::pending().await;
    }
    loop {
        // ORDER: it listens before it looks, so that no change falls between.
        let mut changed = pin!(shared.authorities_changed.notified());
        changed.as_mut().enable();
        let snapshot = shared.snapshot.load_full();
        if !channel.still_trusted(&snapshot.tls.trust, snapshot.trust_epoch, shared.clock.now()) {
            return;
        }
        drop(snapshot);
        changed.await;
    }
}
