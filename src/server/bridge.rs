//! Where the data path meets identity and control: small adapters, so that the corridor need not
//! know how a provider or a code is kept.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::control::Desk;
use crate::control::browser::{self, Redeemed};
use crate::gateway::bearer::{BearerIdentity, BearerIssuers};
use crate::gateway::browser::CodeDesk;
use crate::identity::provider::Providers;
use crate::model::{Principal, Thumbprint, Timestamp};

/// Providers whose tokens are bearer tokens.
pub struct ProviderTokens {
    providers: Arc<Providers>,
}

impl ProviderTokens {
    /// Over these providers.
    #[must_use]
    pub const fn new(providers: Arc<Providers>) -> Self {
        Self { providers }
    }
}

impl BearerIssuers for ProviderTokens {
    fn identify(&self, token: &str, now: Timestamp) -> Option<BearerIdentity> {
        let bearer = self.providers.verify_bearer(token, now).ok()?;
        let bound_to = match bearer.claims.get("cnf") {
            None => None,
            // A binding that can't be read, or is of another kind, is one that can't be kept.
            Some(cnf) => Some(Thumbprint::parse(cnf.get("x5t#S256")?.as_str()?)?),
        };
        let identity = bearer.identity;
        Some(BearerIdentity {
            principal: Principal::user(&identity.provider, &identity.subject)?,
            email: identity.email,
            email_verified: identity.email_verified,
            name: identity.name,
            groups: identity.groups,
            bound_to,
            expires_at: bearer.expires_at,
        })
    }
}

/// Redeems the codes of browsers on the control runtime.
pub struct Browsers {
    desk: Arc<Desk>,
    runtime: Handle,
    tasks: TaskTracker,
}

impl Browsers {
    /// Over this desk.
    #[must_use]
    pub const fn new(desk: Arc<Desk>, runtime: Handle, tasks: TaskTracker) -> Self {
        Self { desk, runtime, tasks }
    }
}

impl CodeDesk for Browsers {
    fn redeem(&self, code: String, host: String, flow: String, now: Timestamp) -> oneshot::Receiver<Option<Redeemed>> {
        let (sender, receiver) = oneshot::channel();
        let desk = Arc::clone(&self.desk);
        self.tasks.spawn_on(
            async move {
                let redeemed = match browser::redeem(&desk, &code, &host, &flow, now).await {
                    Ok(redeemed) => Some(redeemed),
                    Err(error) => {
                        tracing::info!(%error, "a browser's code was not taken");
                        None
                    }
                };
                // The browser may have gone.
                let _ = sender.send(redeemed);
            },
            &self.runtime,
        );
        receiver
    }
}
