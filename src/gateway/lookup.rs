//! A look into the store for what this node's directory does not know: a session, a cookie or a
//! grant that another node made a moment ago. Bounded in number and time, and one for all who ask the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::TaskTracker;

use crate::identity::directory::{CookieEntry, CookieHash, Directory};
use crate::model::{Clock, GrantId, Principal, SessionId, Timestamp};
use crate::store::{Store, Use};

/// Looks that may be under way at once.
const LOOKS_MAX: usize = 32;
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

type Waiting = Mutex<HashMap<Sought, Vec<oneshot::Sender<()>>>>;

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
        }
    }

    /// Looks for a session; afterwards the directory knows it, if there is one.
    pub async fn session(&self, id: SessionId) {
        self.look(Sought::Session(id)).await;
    }

    /// Looks for a cookie and its session.
    pub async fn cookie(&self, hash: CookieHash) {
        self.look(Sought::Cookie(hash)).await;
    }

    /// Looks for the active grants of a principal.
    pub async fn grants(&self, principal: &Principal) {
        self.look(Sought::Grants(principal.clone())).await;
    }

    /// Looks for one grant; afterwards the directory knows it, or that it is over.
    pub async fn grant(&self, id: GrantId) {
        self.look(Sought::Grant(id)).await;
    }

    /// Looks when a session was last used at any node; afterwards the directory knows.
    pub async fn session_use(&self, id: SessionId) {
        self.look(Sought::SessionUse(id)).await;
    }

    /// Writes that a session was used. Nobody waits for it: what is lost is written one step later.
    pub fn session_used(&self, id: SessionId, at: Timestamp) {
        let this = self.clone();
        self.tasks.spawn_on(
            async move {
                let Ok(_permit) = this.permits.acquire().await else { return };
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
    pub async fn use_once(&self, hash: [u8; 32], remember_until: Timestamp) -> Option<bool> {
        let (sender, receiver) = oneshot::channel();
        let this = self.clone();
        self.tasks.spawn_on(
            async move {
                let Ok(_permit) = this.permits.acquire().await else { return };
                match tokio::time::timeout(LOOK_TIMEOUT, this.store.use_once(&hash, remember_until)).await {
                    // Who asked may have gone.
                    Ok(Ok(used)) => drop(sender.send(used == Use::First)),
                    Ok(Err(error)) => tracing::warn!(%error, "a proof could not be used up"),
                    Err(_) => tracing::warn!("using up a proof took too long"),
                }
            },
            &self.runtime,
        );
        tokio::time::timeout(LOOK_TIMEOUT, receiver).await.ok()?.ok()
    }

    async fn look(&self, sought: Sought) {
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
                    if tokio::time::timeout(LOOK_TIMEOUT, this.fetch(&sought)).await.is_err() {
                        tracing::warn!("a look into the store took too long");
                    }
                    let mut waiting = this.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    // Those who asked see in the directory what was found.
                    waiting.remove(&sought);
                },
                &self.runtime,
            );
        }
        // The sender goes when the look is over, which is all that has to be known.
        let _ = tokio::time::timeout(LOOK_TIMEOUT, receiver).await;
    }

    async fn fetch(&self, sought: &Sought) {
        let Ok(_permit) = self.permits.acquire().await else {
            return;
        };
        match sought {
            Sought::Session(id) => self.fetch_session(*id).await,
            Sought::Cookie(hash) => match self.store.session_cookie_fetch(hash).await {
                Ok(Some(cookie)) => {
                    if self.directory.session(cookie.session).is_none() {
                        self.fetch_session(cookie.session).await;
                    }
                    self.directory
                        .cookie_insert(*hash, CookieEntry { session: cookie.session, host: cookie.host.into() });
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "a cookie could not be looked up"),
            },
            Sought::Grants(principal) => match self.store.grant_list_active_of(principal, self.clock.now()).await {
                Ok(found) => found.iter().for_each(|grant| self.directory.grant_enter(grant)),
                Err(error) => tracing::warn!(%error, "grants could not be looked up"),
            },
            Sought::SessionUse(id) => match self.store.session_use_fetch(*id).await {
                Ok(Some(at)) => {
                    if let Some(known) = self.directory.session(*id) {
                        known.used.learn(at);
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, session = %id, "the use of a session could not be looked up"),
            },
            Sought::Grant(id) => match self.store.grant_fetch(*id).await {
                Ok(Some(grant)) => self.directory.grant_enter(&grant),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, grant = %id, "a grant could not be looked up"),
            },
        }
    }

    async fn fetch_session(&self, id: SessionId) {
        match self.store.session_fetch(id).await {
            Ok(Some(stored)) => self.directory.insert(stored.session),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, session = %id, "a session could not be looked up"),
        }
    }
}
