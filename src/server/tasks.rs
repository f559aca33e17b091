//! What runs beside requests: the revocation feed, key rotation, checks at providers, tidying up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::audit::erase;
use crate::control::desk::ACCESS_TTL_MAX;
use crate::control::{Desk, access, idempotency, lock, recheck, review, session, signing_key};
use crate::gateway::worker::Shared;
use crate::identity::directory::{Bar, Directory};
use crate::model::{GrantId, Principal, SessionEnd, SessionId, Timestamp, Ttl, UserRef};
use crate::store::{Revocation, RevocationKind, SESSION_PAGE_MAX, Store, StoreError};

use super::keys::KeyBox;
use super::reload::Reloader;

/// How often the feed is read.
const FEED_EVERY: Duration = Duration::from_millis(500);
/// Entries that are read at a time.
const FEED_PAGE: u32 = 500;
/// Grants that are read at a time where they are read whole.
const GRANT_PAGE: u32 = 200;
/// How long one read of the feed may take.
const FEED_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to read whole what the feed tells changes of.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often providers and keys are looked after.
const TEND_EVERY: Duration = Duration::from_secs(5);
/// How often requests and grants are looked after.
const ACCESS_EVERY: Duration = Duration::from_millis(500);
/// How often what is over is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How often erasures of people are looked after.
const ERASURES_EVERY: Duration = Duration::from_secs(5);
/// How long entries of the feed are kept: a node that was away longer sees the gap and reads anew.
const FEED_KEPT: Ttl = Ttl::hours(24);
/// How long notices are kept after they were taken or given up.
const NOTICES_KEPT: Ttl = Ttl::hours(30 * 24);

/// The revocation feed as far as this node has read it.
///
/// INVARIANT: nothing is confirmed while an entry is missing. Numbers have no gaps, so one that does not
/// follow the last, or a newest one that is never read, tells of entries that went before this node read
/// them; it then reads whole what they may have told of.
pub struct Feed {
    read: i64,
    /// Entries went unread, and what they told of has not been read whole yet.
    torn: bool,
    keys_changed: bool,
}

impl Feed {
    /// Begins at the newest entry, with the locks and grants of now.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn begin(store: &Store, directory: &Directory, now: Timestamp) -> Result<Self, StoreError> {
        let mut feed = Self { read: 0, torn: true, keys_changed: false };
        feed.read_whole(store, directory, now).await?;
        directory.confirm(now);
        Ok(feed)
    }

    /// Reads to the end and obeys.
    ///
    /// # Errors
    /// When the database is away; what was read until then is obeyed.
    pub async fn follow(
        &mut self,
        store: &Store,
        directory: &Directory,
        delay: &Histogram,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // What an operation of this node left in doubt no entry tells of.
        let doubted = directory.takes_doubt();
        self.torn |= doubted;
        if !self.torn {
            self.read_on(store, directory, delay, now).await?;
        }
        if self.torn {
            tracing::warn!(
                read = self.read,
                doubted,
                "the revocation feed has a gap, or locks are in doubt: all is read anew"
            );
            self.read_whole(store, directory, now).await?;
            // One of them may have told of keys.
            self.keys_changed = true;
            self.read_on(store, directory, delay, now).await?;
        }
        // Torn once more, it is read whole at the next look.
        if !self.torn {
            directory.confirm(now);
        }
        Ok(())
    }

    /// Obeys entry by entry, to the end or to where one is missing.
    async fn read_on(
        &mut self,
        store: &Store,
        directory: &Directory,
        delay: &Histogram,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // ORDER: the newest number first, so that an entry up to it that is not there then is gone. A
        // number that is behind is that of a database that was put back: others have those numbers now.
        let latest = store.revocation_latest().await?;
        self.torn = latest < self.read;
        while !self.torn {
            let page = store.revocation_since(self.read, FEED_PAGE).await?;
            let whole = page.len() < usize::try_from(FEED_PAGE).unwrap_or(usize::MAX);
            for entry in &page {
                if entry.number != self.read + 1 {
                    self.torn = true;
                    return Ok(());
                }
                self.obey(store, directory, entry).await?;
                delay.observe(now.since(entry.time).duration().as_secs_f64());
                self.read = entry.number;
            }
            if whole {
                self.torn = self.read < latest;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads whole what entries tell changes of; of sessions those that are known here, since others
    /// are looked up when they are first used.
    async fn read_whole(&mut self, store: &Store, directory: &Directory, now: Timestamp) -> Result<(), StoreError> {
        // ORDER: the number first, then the rest, so that what changes in between is read twice and
        // not never.
        let latest = store.revocation_latest().await?;
        read_locks(store, directory).await?;
        read_grants(store, directory, now).await?;
        read_sessions(store, directory, now).await?;
        for token in store.revoked_token_list(now).await? {
            directory.token_revoke(&token.jti, token.expires_at);
        }
        for pseudonym in store.pseudonyms_retired().await? {
            store.pseudonym_retire(pseudonym)?;
        }
        (self.read, self.torn) = (latest, false);
        Ok(())
    }

    async fn obey(&mut self, store: &Store, directory: &Directory, entry: &Revocation) -> Result<(), StoreError> {
        match entry.kind {
            RevocationKind::SessionEnded | RevocationKind::SessionChanged => {
                // One that this node has not heard of too: a view of before may have been read already, and
                // would be entered as live after this.
                if let Ok(id) = SessionId::parse(&entry.subject)
                    && let Some(stored) = store.session_fetch(id).await?
                {
                    directory.insert(stored.session);
                }
            }
            RevocationKind::LockSet => {
                if let Some(principal) = Principal::parse(&entry.subject) {
                    directory.lock(&principal);
                }
            }
            RevocationKind::LockCleared => {
                if let Some(principal) = Principal::parse(&entry.subject) {
                    // Somebody may have barred them again at this node, which obeys that already.
                    lock::lift(store, directory, &principal).await?;
                }
            }
            RevocationKind::GrantChanged => {
                if let Ok(id) = GrantId::parse(&entry.subject)
                    && let Some(grant) = store.grant_fetch(id).await?
                {
                    directory.grant_enter(&grant);
                }
            }
            RevocationKind::KeysChanged => self.keys_changed = true,
            RevocationKind::PersonErased => {
                if let Ok(pseudonym) = UserRef::parse(&entry.subject) {
                    store.pseudonym_retire(pseudonym)?;
                }
            }
            RevocationKind::TokenRevoked => directory.token_revoke(&entry.subject, entry.time.plus(ACCESS_TTL_MAX)),
        }
        Ok(())
    }
}

/// Reads who is barred, and lets go of who is not.
async fn read_locks(store: &Store, directory: &Directory) -> Result<(), StoreError> {
    // ORDER: what is known first, so that a bar that an operation of this node sets meanwhile stays.
    let mut known: HashMap<Principal, Bar> = directory.bars().into_iter().collect();
    for lock in store.lock_list().await? {
        if known.remove(&lock.principal).is_none() {
            directory.lock(&lock.principal);
        }
    }
    known.iter().for_each(|(principal, bar)| directory.unlock_if(principal, *bar));
    Ok(())
}

/// Reads all active grants, and of those that are known here what became of them.
async fn read_grants(store: &Store, directory: &Directory, now: Timestamp) -> Result<(), StoreError> {
    let mut known: HashMap<GrantId, Principal> = directory.grants_known().into_iter().collect();
    let mut after = None;
    loop {
        let page = store.grant_list_active(after, GRANT_PAGE, now).await?;
        for grant in &page {
            known.remove(&grant.id);
            directory.grant_enter(grant);
        }
        after = page.last().map(|grant| grant.id);
        if page.len() < usize::try_from(GRANT_PAGE).unwrap_or(usize::MAX) {
            break;
        }
    }
    for (id, principal) in known {
        match store.grant_fetch(id).await? {
            Some(grant) => directory.grant_enter(&grant),
            // A database that was put back has never heard of it.
            None => directory.grant_leave(&principal, id),
        }
    }
    Ok(())
}

/// Reads what became of the sessions that are known here.
async fn read_sessions(store: &Store, directory: &Directory, now: Timestamp) -> Result<(), StoreError> {
    let mut known: HashSet<SessionId> = directory.sessions_not_ended().into_iter().collect();
    let mut before = None;
    // Page by page, since there may be many, and most of them live.
    while !known.is_empty() {
        let page = store.session_list(None, before, SESSION_PAGE_MAX, now).await?;
        before = page.last().map(|stored| stored.session.id);
        let last = i64::try_from(page.len()).unwrap_or(i64::MAX) < SESSION_PAGE_MAX;
        for stored in page {
            if known.remove(&stored.session.id) {
                directory.insert(stored.session);
            }
        }
        if last {
            break;
        }
    }
    for id in known {
        match store.session_fetch(id).await? {
            Some(stored) => directory.insert(stored.session),
            None => directory.end(id, SessionEnd::Revoked, now),
        }
    }
    Ok(())
}

/// Starts everything that runs beside requests, until `draining` or `stopping`.
pub fn spawn_all(
    tasks: &TaskTracker,
    feed: Feed,
    keys: KeyBox,
    shared: &Arc<Shared>,
    desk: &Arc<Desk>,
    reloader: &Arc<Reloader>,
) {
    tasks.spawn(follow_feed(feed, keys, Arc::clone(shared), Arc::clone(desk), Arc::clone(reloader)));
    tasks.spawn(tend_providers(Arc::clone(shared), Arc::clone(desk)));
    tasks.spawn(sweep(Arc::clone(shared), Arc::clone(desk)));
    tasks.spawn(tend_access(Arc::clone(shared), Arc::clone(desk)));
    tasks.spawn(tend_erasures(Arc::clone(shared), Arc::clone(desk)));
}

/// Waits, unless it is over.
async fn pause(length: Duration, over: &CancellationToken) -> Going {
    if tokio::time::timeout(length, over.cancelled()).await.is_err() { Going::On } else { Going::Over }
}

#[derive(PartialEq, Eq)]
enum Going {
    On,
    Over,
}

/// The feed must go on while exchanges drain: their sessions can still be revoked.
async fn follow_feed(mut feed: Feed, mut keys: KeyBox, shared: Arc<Shared>, desk: Arc<Desk>, reloader: Arc<Reloader>) {
    while pause(FEED_EVERY, &shared.stopping).await == Going::On {
        let now = shared.clock.now();
        let limit = if feed.torn { WHOLE_TIMEOUT } else { FEED_TIMEOUT };
        let followed = feed.follow(&desk.store, &shared.directory, &shared.metrics.revocation_delay, now);
        match tokio::time::timeout(limit, followed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the revocation feed could not be read"),
            Err(_) => tracing::warn!("the revocation feed was not read in time"),
        }
        let confirmed = shared.directory.confirmed_at().seconds();
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit a double for ever")]
        shared.metrics.revocations_confirmed.set(confirmed as f64);
        let due = keys.ring().changes_at.is_over(now);
        // What is due by a clock that may be ahead would retire a key that all nodes sign with.
        if (!due && !feed.keys_changed) || desk.clock_guard.may_be_ahead() {
            continue;
        }
        let loaded = signing_key::load_or_create(&desk.store, &desk.sealer, now, &*desk.entropy, keys.settings()).await;
        match loaded {
            Ok(loaded) => {
                for alert in &loaded.alerts {
                    tracing::warn!(%alert, "a signing key needs attention");
                }
                keys.replace(loaded.ring);
                reloader.replace_keys(keys.ring());
                feed.keys_changed = false;
            }
            Err(error) => tracing::warn!(%error, "the signing keys could not be renewed; the old ones go on"),
        }
    }
}

async fn tend_providers(shared: Arc<Shared>, desk: Arc<Desk>) {
    loop {
        tokio::select! {
            () = desk.providers.wanted() => {}
            () = tokio::time::sleep(TEND_EVERY) => {}
            () = shared.draining.cancelled() => return,
        }
        let now = shared.clock.now();
        desk.providers.tend(now).await;
        if let Err(error) = recheck::recheck_due(&desk, now).await {
            tracing::warn!(%error, "sessions could not be checked at their providers");
        }
    }
}

/// Requests that time out, grants that begin and end.
async fn tend_access(shared: Arc<Shared>, desk: Arc<Desk>) {
    while pause(ACCESS_EVERY, &shared.draining).await == Going::On {
        let Ok(node) = desk.store.node() else { continue };
        let tended = async {
            let now = shared.clock.now();
            access::exchange_uses(&desk, now).await?;
            access::sweep::round(&desk, node, now).await
        };
        match tokio::time::timeout(FEED_TIMEOUT, tended).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "requests and grants could not be tended"),
            Err(_) => tracing::warn!("requests and grants were not tended in time"),
        }
    }
}

/// Erasures that a crash broke off, and what rules held back until now.
async fn tend_erasures(shared: Arc<Shared>, desk: Arc<Desk>) {
    while pause(ERASURES_EVERY, &shared.draining).await == Going::On {
        let Ok(node) = desk.store.node() else { continue };
        if let Err(error) = erase::sweep::round(&desk, node, shared.clock.now()).await {
            tracing::warn!(%error, "erasures could not be gone on with");
        }
    }
}

async fn sweep(shared: Arc<Shared>, desk: Arc<Desk>) {
    while pause(SWEEP_EVERY, &shared.draining).await == Going::On {
        let now = shared.clock.now();
        shared.directory.sweep(now);
        shared.anonymous.retain_recent();
        shared.unasked.retain_recent();
        shared.preflights.retain_recent();
        shared.control_requests.retain_recent();
        shared.snapshot.load().sweep();
        if let Err(error) = tidy(&desk, now).await {
            tracing::warn!(%error, "what is over could not be tidied up");
        }
    }
}

/// Forgets what is over, and ends what is idle, in the database; nothing while the clock may be ahead.
///
/// # Errors
/// When the database is away.
pub async fn tidy(desk: &Desk, now: Timestamp) -> Result<(), StoreError> {
    // What is over by a clock that may be ahead is over at this node. The other nodes still count on what
    // was used once, on sessions, and on entries of the feed that they have not read.
    if desk.clock_guard.may_be_ahead() {
        return Ok(());
    }
    // The caller may have asked for the time while it was ahead.
    let now = now.min(desk.clock.now());
    desk.directory.tokens_sweep(now);
    let mut tx = desk.store.begin().await?;
    tx.revocation_prune(now.minus(FEED_KEPT)).await?;
    tx.token_sweep(now).await?;
    tx.notice_prune(now.minus(NOTICES_KEPT)).await?;
    tx.commit().await?;
    recheck::sweep(desk, now).await?;
    idempotency::sweep(desk, now).await?;
    session::idle::round(desk, now).await?;
    session::sweep(desk, now).await?;
    review::sweep::round(desk, desk.store.node()?, now).await
}
