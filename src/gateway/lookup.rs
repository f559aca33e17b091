//! A look into the store for what this node's directory does not know: a session, a cookie or a
//! grant that another node made a moment ago. Bounded in number and time, and one for all who ask the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::identity::directory::{CookieEntry, CookieHash, Directory};
use crate::model::{Clock, GrantId, Principal, SessionId, Timestamp};
use crate::store::{Store, StoreError, Use};

/// Looks that may be under way at once.
const LOOKS_MAX: usize = 32;
/// Proofs that may be used up at once: apart, so that no flood of them keeps a look waiting.
const PROOFS_MAX: usize = 32;
/// How long one may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1500);

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Sought {
    Session(SessionId),
    Cookie(CookieHash),
    /// Active grants; whoever asks at about the same time gets the same.
    Grants(Principal),
    Grant(GrantId),
    SessionUse(SessionId),
}

impl Sought {
    const fn what(&self) -> &'static str {
        match self {
            Self::Session(_) => "session",
            Self::Cookie(_) => "cookie",
            Self::Grants(_) => "grants",
            Self::Grant(_) => "grant",
            Self::SessionUse(_) => "use of a session",
        }
    }
}

/// What is known after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// The directory knows what the store does.
    Settled,
    /// The store did not say in time: what the directory does not know may be there all the same.
    InDoubt,
}

type Waiting = Mutex<HashMap<Sought, Vec<oneshot::Sender<Looked>>>>;

/// The way from the data path into the store.
#[derive(Clone)]
pub struct Lookup {
    runtime: Handle,
    tasks: TaskTracker,
    store: Store,
    directory: Arc<Directory>,
    clock: Arc<dyn Clock>,
    waiting: Arc<Waiting>,
    permits: Arc<Semaphore>,
    proofs: Arc<Semaphore>,
}

impl Lookup {
    /// Looks run on `runtime`, tracked by `tasks`, and enter what they find into `directory`.
    #[must_use]
    pub fn new(
        runtime: Handle,
        tasks: TaskTracker,
        store: Store,
        directory: Arc<Directory>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            runtime,
            tasks,
            store,
            directory,
            clock,
            waiting: Arc::default(),
            permits: Arc::new(Semaphore::new(LOOKS_MAX)),
            proofs: Arc::new(Semaphore::new(PROOFS_MAX)),
        }
    }

    /// Looks for a session; afterwards the directory knows it, if there is one.
    pub async fn session(&self, id: SessionId) -> Looked {
        self.look(Sought::Session(id)).await
    }

    /// Looks for a cookie and its session.
    pub async fn cookie(&self, hash: CookieHash) -> Looked {
        self.look(Sought::Cookie(hash)).await
    }

    /// Looks for the active grants of a principal.
    pub async fn grants(&self, principal: &Principal) -> Looked {
        self.look(Sought::Grants(principal.clone())).await
    }

    /// Looks for one grant; afterwards the directory knows it, or that it is over.
    pub async fn grant(&self, id: GrantId) -> Looked {
        self.look(Sought::Grant(id)).await
    }

    /// Looks when a session was last used at any node; afterwards the directory knows.
    pub async fn session_use(&self, id: SessionId) -> Looked {
        self.look(Sought::SessionUse(id)).await
    }

    /// Writes that a session was used. Nobody waits for it: what is lost, or finds no room, is written one
    /// step later.
    pub fn session_used(&self, id: SessionId, at: Timestamp) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let this = self.clone();
        self.tasks.spawn_on(
            async move {
                let _permit = permit;
                match tokio::time::timeout(LOOK_TIMEOUT, this.store.session_use_set(id, at)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, session = %id, "the use of a session was not written"),
                    Err(_) => tracing::warn!(session = %id, "writing the use of a session took too long"),
                }
            },
            &self.runtime,
        );
    }

    /// Uses something that is good once; `None` when that could not be settled in time.
    ///
    /// INVARIANT: who asks waits for their turn themselves, and the task that asks the store ends when they
    /// stop waiting: nothing piles up behind a database that hangs, and nothing is used up for nobody.
    pub async fn use_once(&self, hash: [u8; 32], remember_until: Timestamp) -> Option<bool> {
        let until = Instant::now() + LOOK_TIMEOUT;
        let permit = tokio::time::timeout_at(until, Arc::clone(&self.proofs).acquire_owned()).await.ok()?.ok()?;
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        self.tasks.spawn_on(
            async move {
                let _permit = permit;
                match tokio::time::timeout_at(until, this.store.use_once(&hash, remember_until)).await {
                    // Who asked may have gone.
                    Ok(Ok(used)) => drop(sender.send(used == Use::First)),
                    Ok(Err(error)) => tracing::warn!(%error, "a proof could not be used up"),
                    Err(_) => tracing::warn!("using up a proof took too long"),
                }
            },
            &self.runtime,
        );
        tokio::time::timeout_at(until, receiver).await.ok()?.ok()
    }

    async fn look(&self, sought: Sought) -> Looked {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let asking = waiting.entry(sought.clone()).or_default();
            asking.push(sender);
            asking.len() == 1
        };
        if first {
            let this = self.clone();
            self.tasks.spawn_on(
                async move {
                    let looked = tokio::time::timeout(LOOK_TIMEOUT, this.fetch(&sought)).await.unwrap_or_else(|_| {
                        tracing::warn!("a look into the store took too long");
                        Looked::InDoubt
                    });
                    let asked = this.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&sought);
                    // Those who asked see in the directory what was found; some of them may have gone.
                    for sender in asked.into_iter().flatten() {
                        let _ = sender.send(looked);
                    }
                },
                &self.runtime,
            );
        }
        tokio::time::timeout(LOOK_TIMEOUT, receiver).await.ok().and_then(Result::ok).unwrap_or(Looked::InDoubt)
    }

    async fn fetch(&self, sought: &Sought) -> Looked {
        let Ok(_permit) = self.permits.acquire().await else {
            return Looked::InDoubt;
        };
        let found = match sought {
            Sought::Session(id) => self.fetch_session(*id).await,
            Sought::Cookie(hash) => self.fetch_cookie(hash).await,
            Sought::Grants(principal) => self
                .store
                .grant_list_active_of(principal, self.clock.now())
                .await
                .map(|found| found.iter().for_each(|grant| self.directory.grant_enter(grant))),
            Sought::SessionUse(id) => self.store.session_use_fetch(*id).await.map(|at| {
                if let (Some(at), Some(known)) = (at, self.directory.session(*id)) {
                    known.used.learn(at);
                }
            }),
            Sought::Grant(id) => self.store.grant_fetch(*id).await.map(|found| {
                if let Some(grant) = found {
                    self.directory.grant_enter(&grant);
                }
            }),
        };
        match found {
            Ok(()) => Looked::Settled,
            Err(error) => {
                tracing::warn!(%error, sought = sought.what(), "a look into the store failed");
                Looked::InDoubt
            }
        }
    }

    async fn fetch_cookie(&self, hash: &CookieHash) -> Result<(), StoreError> {
        let Some(cookie) = self.store.session_cookie_fetch(hash).await? else { return Ok(()) };
        if self.directory.session(cookie.session).is_none() {
            self.fetch_session(cookie.session).await?;
        }
        self.directory.cookie_insert(*hash, CookieEntry { session: cookie.session, host: cookie.host.into() });
        Ok(())
    }

    async fn fetch_session(&self, id: SessionId) -> Result<(), StoreError> {
        if let Some(stored) = self.store.session_fetch(id).await? {
            self.directory.insert(stored.session);
        }
        Ok(())
    }
}
