//! What one data-path thread has: its view of what all share, and what it remembers by itself.
//!
//! Everything remembered here is bounded and keyed by all that it was concluded from; nothing of it
//! outlives the moment at which any of that changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use lru::LruCache;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::directory::Directory;
use crate::identity::dpop_nonce::Nonces;
use crate::model::{
    CheckedUpstream, Clock, EntitlementName, Entropy, GrantId, Principal, ServiceName, SessionId, Thumbprint, Timestamp,
};
use crate::policy::{Subject, Upstream, Verdict};
use crate::store::Recorder;

use super::authorize::DecisionKey;
use super::bearer::{BearerIssuers, VerifiedToken};
use super::browser::CodeDesk;
use super::connect::Connector;
use super::connection::ControlConnection;
use super::guard::PaceLimits;
use super::lookup::Lookup;
use super::membership::Rests;
use super::metrics::Metrics;
use super::settings::Settings;
use super::snapshot::{Limiter, ServiceEntry, Snapshot, UpstreamSide};
use super::untaken::Untaken;
use super::upstream::Pool;

/// Tokens that one thread remembers as verified.
const TOKENS_MAX: NonZeroUsize = NonZeroUsize::new(8192).unwrap();
/// Subjects whose entities one thread keeps built.
const SUBJECTS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Decisions that one thread remembers.
const DECISIONS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Assertions that one thread keeps.
const ASSERTIONS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// SHA-256 of a token, and the service that it was shown to.
pub type TokenKey = ([u8; 32], ServiceName);

/// A verdict, and which grants it rests on.
pub type Decided = (Rc<Verdict>, Rc<Rests>);

/// What all data-path threads share.
pub struct Shared {
    /// Settings that hold for the life of the process.
    pub settings: Settings,
    /// What a reload swaps.
    pub snapshot: ArcSwap<Snapshot>,
    /// Sessions, cookies and locks as this node knows them.
    pub directory: Arc<Directory>,
    /// Where events go.
    pub recorder: Recorder,
    /// Looks into the store for what the directory does not know.
    pub lookup: Lookup,
    /// Providers whose tokens may be used as bearer tokens.
    pub bearer: Arc<dyn BearerIssuers>,
    /// Redeems the codes of browsers that come back from signing in.
    pub codes: Arc<dyn CodeDesk>,
    /// Where connections to the control host go.
    pub control: mpsc::Sender<ControlConnection>,
    /// Nonces of proofs of possession.
    pub nonces: Nonces,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub entropy: Arc<dyn Entropy>,
    /// Counters.
    pub metrics: Metrics,
    /// Refusals per address before anyone is identified.
    pub anonymous: Limiter<IpAddr>,
    /// Codes of browsers per address.
    pub unasked: Limiter<IpAddr>,
    /// Preflights of browsers per address.
    pub preflights: Limiter<IpAddr>,
    /// Requests to the control host per address: signing in costs more than it looks.
    pub control_requests: Limiter<IpAddr>,
    /// Started without a database: nobody passes but by break-glass.
    pub emergency: AtomicBool,
    /// Connections that are open on all threads.
    pub connections: AtomicUsize,
    /// The same per address.
    pub by_address: papaya::HashMap<IpAddr, Arc<AtomicUsize>>,
    /// Rings when a reload changed the authorities of client certificates.
    pub authorities_changed: Notify,
    /// No new connections, and each ends after its exchange.
    pub draining: CancellationToken,
    /// Everything ends now.
    pub stopping: CancellationToken,
}

/// A connection that is counted until this is dropped.
pub struct Counted {
    shared: Arc<Shared>,
    address: IpAddr,
    of_address: Arc<AtomicUsize>,
}

impl Shared {
    /// Counts a connection in, unless there are too many.
    #[must_use]
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Counted> {
        let of_address =
            Arc::clone(self.by_address.pin().get_or_insert_with(address, || Arc::new(AtomicUsize::new(0))));
        let counted = Counted { shared: Arc::clone(self), address, of_address };
        let all = self.connections.fetch_add(1, Ordering::AcqRel);
        let theirs = counted.of_address.fetch_add(1, Ordering::AcqRel);
        self.metrics.connections.inc();
        (all < self.settings.connections && theirs < self.settings.connections_per_address).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::AcqRel);
        self.shared.metrics.connections.dec();
        if self.of_address.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Someone may be counting in on the same counter: then it stays one moment uncounted.
            self.shared.by_address.pin().remove_if(&self.address, |_, count| count.load(Ordering::Acquire) == 0).ok();
        }
    }
}

/// By what a caller is known again, so that what was made of them once need not be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallerKey {
    /// A session, as it is in this version.
    Session(SessionId, i64),
    /// SHA-256 of a provider's token: it always says the same of the same person.
    Token([u8; 32]),
    /// A machine's certificate.
    Certificate(Thumbprint),
}

/// A built subject and what it was built from.
pub struct BuiltSubject {
    /// The snapshot that it was built under.
    pub generation: u64,
    /// Its Cedar entities.
    pub subject: Rc<Subject>,
}

/// An assertion that may be used again.
pub struct MadeAssertion {
    /// The snapshot that it was made under.
    pub generation: u64,
    /// The grants that it names.
    pub grants: Vec<GrantId>,
    /// Until when it is sent.
    pub until: Timestamp,
    /// The header's value.
    pub value: HeaderValue,
}

/// Pools by service, and from what each was made.
type Pools = HashMap<ServiceName, (Arc<UpstreamSide>, Rc<Pool>)>;

/// Pools that only requests of earlier snapshots still use, and from what each was made.
type EarlierPools = Vec<(Arc<UpstreamSide>, Weak<Pool>)>;

/// One thread of the data path.
pub struct Worker {
    /// What all share.
    pub shared: Arc<Shared>,
    /// What serves clients: connections, streams, tunnels. The end waits for these.
    pub tasks: TaskTracker,
    /// What waits for no client: idle connections to upstreams among it. The end drops these.
    pub beside: TaskTracker,
    /// Answers that have more to come.
    pub untaken: Rc<Untaken>,
    /// Connections to upstreams.
    pools: RefCell<Pools>,
    earlier_pools: RefCell<EarlierPools>,
    /// Tokens by SHA-256 and audience.
    pub tokens: RefCell<LruCache<TokenKey, Rc<VerifiedToken>>>,
    /// Subjects by caller and the entitlements that they hold.
    pub subjects: RefCell<LruCache<(CallerKey, Vec<EntitlementName>), BuiltSubject>>,
    /// Decisions by everything they were made from.
    pub decisions: RefCell<LruCache<DecisionKey, Decided>>,
    /// When grants of a principal were last looked for.
    pub looked: RefCell<LruCache<Principal, Timestamp>>,
    /// When a token's grant was last looked for.
    pub sought: RefCell<LruCache<GrantId, Timestamp>>,
    /// Assertions by caller and service.
    pub assertions: RefCell<LruCache<(CallerKey, ServiceName), MadeAssertion>>,
}

impl Worker {
    /// A thread with nothing remembered.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let taking = PaceLimits { bytes_per_second: shared.settings.body_rate_min, ..PaceLimits::default() };
        Self {
            shared,
            tasks: TaskTracker::new(),
            beside: TaskTracker::new(),
            untaken: Rc::new(Untaken::new(taking)),
            pools: RefCell::default(),
            earlier_pools: RefCell::default(),
            tokens: RefCell::new(LruCache::new(TOKENS_MAX)),
            subjects: RefCell::new(LruCache::new(SUBJECTS_MAX)),
            decisions: RefCell::new(LruCache::new(DECISIONS_MAX)),
            looked: RefCell::new(LruCache::new(SUBJECTS_MAX)),
            sought: RefCell::new(LruCache::new(SUBJECTS_MAX)),
            assertions: RefCell::new(LruCache::new(ASSERTIONS_MAX)),
        }
    }

    /// The present.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// The pool of a service. A reload that changed how its upstreams are reached starts a new one;
    /// exchanges under way keep the old one until they end.
    ///
    /// INVARIANT: a pool is replaced by a later one alone. A request that came before the reload may get here after
    /// one that came after it: it shares a pool with its like, which goes with the last of them.
    #[must_use]
    pub fn pool(&self, entry: &ServiceEntry) -> Rc<Pool> {
        let (name, side) = (&entry.service.name, &entry.upstreams);
        let mut pools = self.pools.borrow_mut();
        match pools.get(name) {
            Some((of, pool)) if Arc::ptr_eq(of, side) => return Rc::clone(pool),
            Some((of, _)) if of.generation > side.generation => return self.earlier_pool(entry),
            Some(_) | None => {}
        }
        let settings = &side.settings;
        let board = &self.shared.directory.upstreams;
        let checked = |upstream: &Upstream| settings.are_checked.then(|| board.of(name, &upstream.to_string()));
        let pool = self.empty_pool(entry, checked);
        if let Some((of, before)) = pools.insert(name.clone(), (Arc::clone(side), Rc::clone(&pool))) {
            let mut earlier = self.earlier_pools.borrow_mut();
            earlier.push((of, Rc::downgrade(&before)));
            drop(before);
            earlier.retain(|(_, pool)| pool.strong_count() > 0);
        }
        pool
    }

    /// The pool of requests that came before a reload, when the one of those that came after it is there already.
    /// What its upstreams' checks say is asked no more: the board knows those alone that are in force.
    fn earlier_pool(&self, entry: &ServiceEntry) -> Rc<Pool> {
        let side = &entry.upstreams;
        let mut earlier = self.earlier_pools.borrow_mut();
        earlier.retain(|(_, pool)| pool.strong_count() > 0);
        let known = earlier.iter().find(|(of, _)| Arc::ptr_eq(of, side)).and_then(|(_, pool)| pool.upgrade());
        known.unwrap_or_else(|| {
            let pool = self.empty_pool(entry, |_| None);
            earlier.push((Arc::clone(side), Rc::downgrade(&pool)));
            pool
        })
    }

    fn empty_pool(
        &self,
        entry: &ServiceEntry,
        checked: impl Fn(&Upstream) -> Option<Arc<CheckedUpstream>>,
    ) -> Rc<Pool> {
        let (side, settings) = (&entry.upstreams, &entry.upstreams.settings);
        let server_name = settings.tls.server_name.clone();
        let (tasks, stopping) = (self.beside.clone(), self.shared.stopping.clone());
        Rc::new(Pool::new(
            entry.service.name.clone(),
            settings.upstreams.iter().map(|upstream| (upstream.clone(), checked(upstream))).collect(),
            Connector::new(Arc::clone(&side.tls), server_name, tasks, stopping),
            settings.connect.duration(),
            settings.connections_max,
        ))
    }

    /// Forgets what can't be of use any more: what was made of sessions that have ended or changed, under
    /// earlier policies, and of tokens that are over.
    fn forget(&self) {
        let (generation, now) = (self.shared.snapshot.load().generation, self.now());
        let is_over = |caller: &CallerKey| match caller {
            CallerKey::Session(id, version) => {
                let known = self.shared.directory.session(*id);
                known.is_none_or(|live| live.session.version != *version || !live.session.is_live(now))
            }
            CallerKey::Token(_) | CallerKey::Certificate(_) => false,
        };
        self.tokens.borrow_mut().retain(|_, token| !token.expires_at.is_over(now));
        self.subjects.borrow_mut().retain(|(caller, _), built| built.generation == generation && !is_over(caller));
        self.decisions.borrow_mut().retain(|key, _| key.generation == generation && !is_over(&key.caller));
        self.assertions.borrow_mut().retain(|(caller, _), made| !made.until.is_over(now) && !is_over(caller));
    }

    /// Tidies up every now and then until the end.
    pub async fn sweep(self: Rc<Self>) {
        const EVERY: Duration = Duration::from_secs(10);
        let draining = self.shared.draining.clone();
        while tokio::time::timeout(EVERY, draining.cancelled()).await.is_err() {
            let snapshot = self.shared.snapshot.load_full();
            // A service that nobody asks for any more, removed or changed, has no use for its connections.
            self.pools.borrow_mut().retain(|name, (side, pool)| {
                pool.sweep();
                snapshot.reaches(name, side)
            });
            self.earlier_pools.borrow_mut().retain(|(_, pool)| pool.strong_count() > 0);
            self.forget();
        }
        // Idle connections to upstreams would keep their tasks, and so this thread, waiting.
        for (_, pool) in self.pools.borrow().values() {
            pool.close_idle();
        }
    }
}
