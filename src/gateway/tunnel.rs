//! After a 101: bytes both ways, until one side ends, nothing moves for too long, or the permit
//! ends. Nothing of the content is looked at.

use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use std::cell::Cell;

use super::body::{BodyError, Permit, Progress};

/// Bytes that are carried at a time.
const BUFFER_BYTES: usize = 16 * 1024;
/// How long both sides may take to change protocol after the 101.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

type Side = TokioIo<Upgraded>;

/// Carries bytes between client and upstream until it is over; `down` counts what went to the
/// client, `up` what went to the upstream.
pub async fn run(
    client: OnUpgrade,
    upstream: OnUpgrade,
    permit: Permit,
    idle: Duration,
    down: &Progress,
    up: &Progress,
) {
    let upgraded = async { tokio::try_join!(client, upstream) };
    let Ok(Ok((client, upstream))) = tokio::time::timeout(UPGRADE_TIMEOUT, upgraded).await else {
        down.failed.set(Some(BodyError::Peer));
        return;
    };
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (upstream_read, upstream_write) = tokio::io::split(TokioIo::new(upstream));
    let moved = Cell::new(Instant::now());
    let both = async {
        tokio::join!(
            carry(client_read, upstream_write, up, &moved, &permit, From::Client),
            carry(upstream_read, client_write, down, &moved, &permit, From::Upstream)
        )
    };
    tokio::select! {
        _ = both => down.finished.set(true),
        () = permit.streams.cancelled() => down.failed.set(Some(BodyError::Cut)),
        () = tokio::time::sleep(permit.remaining()) => down.failed.set(Some(BodyError::Cut)),
        () = stillness(&moved, idle) => down.failed.set(Some(BodyError::Idle)),
    }
}

/// Who sends what is carried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Client,
    Upstream,
}

/// One direction. Its end is passed on, and the other direction may go on.
async fn carry(
    mut from: ReadHalf<Side>,
    mut to: WriteHalf<Side>,
    progress: &Progress,
    moved: &Cell<Instant>,
    permit: &Permit,
    sender: From,
) {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    while let Ok(count) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            break;
        }
        progress.bytes.set(progress.bytes.get().saturating_add(count as u64));
        moved.set(Instant::now());
        permit.used();
        if sender == From::Client {
            permit.client_sent();
        }
    }
    // The peer may be gone already; then there is nobody to tell.
    let _ = to.shutdown().await;
}

/// Resolves when nothing has moved for `idle`.
async fn stillness(moved: &Cell<Instant>, idle: Duration) {
    loop {
        let until = moved.get() + idle;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}
