//! What active grants make of a caller, asked anew on every request.
//!
//! INVARIANTS: a grant counts while it is in force at this moment, for the actions and parameters that
//! were approved, and while its holder may still ask for it: with the session and device that they have
//! now, and as of its activation, so that a rule about the hour or a fresh sign-in lets a night's work end.
//! For other actions it gives nothing. From what is forbidden to holders it bars for as long as it is held,
//! whatever it counts for and whether or not it may still be asked for. A stream that is permitted only because of grants ends with the last of them that permits it: at its
//! end, also one that was moved meanwhile, and at once when it is ended early. A token that was made under
//! a grant is good while that one is in force, and so is what is open by it, whatever else permits it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::select_all;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::identity::directory::{Directory, LiveGrant, Uses};
use crate::model::{
    ActionName, EntitlementName, GrantId, Principal, PrincipalKind, ServiceName, SessionKind, Timestamp, Ttl,
};
use crate::policy::{Ambient, DeviceContext, EntitlementAction, RequestContext, Service, SessionContext};

use super::authenticate::Caller;
use super::body::{Permit, PermitRests};
use super::handshake::Channel;
use super::refusal::Refusal;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::Worker;

/// How long a watch sleeps at most: the clock may have been set meanwhile.
const WATCH_MAX: Duration = Duration::from_millis(500);

/// How often one grant of a token is looked for, by one thread.
const LOOK_EVERY: Ttl = Ttl::millis(500);

/// Which entitlements a permission rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rests {
    /// On none: the policies permit it without.
    OnNothing,
    /// Each of these is enough.
    OnAny(Vec<EntitlementName>),
    /// All of these together.
    OnAll(Vec<EntitlementName>),
}

impl Rests {
    /// The entitlements.
    #[must_use]
    pub fn names(&self) -> &[EntitlementName] {
        match self {
            Self::OnNothing => &[],
            Self::OnAny(names) | Self::OnAll(names) => names,
        }
    }

    /// Finds out by asking the policies again with fewer. Only where something is permitted.
    #[must_use]
    pub fn of(service: &Service, caller: &Caller, action: &ActionName, context: &RequestContext<'_>) -> Self {
        let held = caller.subject.entitlements();
        if held.is_empty() || service.decide(&caller.base, action, context).allow {
            return Self::OnNothing;
        }
        let enough =
            |name: &&EntitlementName| service.decide(&caller.base.with_entitlement(name), action, context).allow;
        let any: Vec<EntitlementName> = held.iter().filter(enough).cloned().collect();
        if any.is_empty() {
            // What only bars helps nobody.
            Self::OnAll(held.iter().filter(|name| !service.only_bars(name, action)).cloned().collect())
        } else {
            Self::OnAny(any)
        }
    }
}

/// What the grants of a caller make of them for one request.
#[derive(Default)]
pub struct Counted {
    /// The grants that count.
    pub grants: Vec<LiveGrant>,
    /// The entitlements of them, each once.
    pub names: Vec<EntitlementName>,
    /// Entitlements that are held and don't count for this, and may bar from it.
    pub barring: Vec<EntitlementName>,
}

/// The grants of the caller that count for this request, and what the others may bar from. All jobs
/// of one trust rule are one principal, and what was approved for one of them is not for the next: of a
/// workload only the grant counts that its token was made under, which a job gets for its own run alone
/// (`control/oauth/run.rs`).
#[must_use]
pub fn counting(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    routed: &Routed,
    caller: &Caller,
    now: Timestamp,
) -> Counted {
    let Some(matched) = &routed.matched else { return Counted::default() };
    let base = &caller.base;
    let mut grants = worker.shared.directory.grants(base.principal(), now);
    if base.principal().kind() == PrincipalKind::Workload {
        grants.retain(|grant| caller.under.as_ref().is_some_and(|under| under.id == grant.id));
    }
    let service = &routed.entry.service;
    let address = channel.peer.ip().to_canonical();
    let (action, mut barring) = (&matched.action, Vec::new());
    grants.retain(|grant| {
        let is_for =
            grant.counts_for(&service.name, action, &matched.params) || service.only_bars(&grant.entitlement, action);
        let counts = is_for && may_still_ask(snapshot, caller, grant, address);
        if !counts && service.bars(&grant.entitlement, action) {
            barring.push(grant.entitlement.clone());
        }
        counts
    });
    let mut names: Vec<EntitlementName> = grants.iter().map(|grant| grant.entitlement.clone()).collect();
    for each in [&mut names, &mut barring] {
        each.sort_unstable();
        each.dedup();
    }
    barring.retain(|name| names.binary_search(name).is_err());
    Counted { grants, names, barring }
}

fn may_still_ask(snapshot: &Snapshot, caller: &Caller, grant: &LiveGrant, address: IpAddr) -> bool {
    let session = caller.session.as_ref().map(|live| &live.session);
    let ambient = Ambient {
        address,
        now: grant.active_at,
        // One that began after the grant did is as fresh as can be.
        session: session.map(SessionContext::of),
        device: session.and_then(DeviceContext::of),
        token_scope: None,
    };
    let policies = &snapshot.policies;
    policies.entitlement_decide(&caller.base, EntitlementAction::Request, &grant.entitlement, &ambient).allow
}

/// The grant that a permission rests on: of several the one that ends last.
#[must_use]
pub fn deciding<'a>(caller: &'a Caller, rests: &Rests) -> Option<&'a LiveGrant> {
    let counted = caller.grants.iter().filter(|grant| rests.names().contains(&grant.entitlement));
    counted.max_by_key(|grant| grant.expires_at)
}

/// The grant that a token was made under, if it is in force. One that this node has not heard of, since
/// another gave it a moment ago, is looked for.
///
/// # Errors
/// When it is over or is not known.
pub async fn under(worker: &Worker, principal: &Principal, id: GrantId, now: Timestamp) -> Result<LiveGrant, Refusal> {
    let directory = &worker.shared.directory;
    let known = match directory.grant(principal, id) {
        Some(known) if known.is_unused(now) && is_to_be_looked_for(worker, id, now) => {
            worker.shared.lookup.grant(id).await;
            directory.grant(principal, id)
        }
        None if !directory.has_ended(id) && is_to_be_looked_for(worker, id, now) => {
            worker.shared.lookup.grant(id).await;
            directory.grant(principal, id)
        }
        known => known,
    };
    known.filter(|grant| grant.is_live(now)).ok_or(Refusal::GrantOver(id))
}

fn is_to_be_looked_for(worker: &Worker, id: GrantId, now: Timestamp) -> bool {
    let mut sought = worker.sought.borrow_mut();
    if sought.get(&id).is_some_and(|at| !at.plus(LOOK_EVERY).is_over(now)) {
        return false;
    }
    sought.put(id, now);
    true
}

/// Notes that the grants which this rests on are used, and where that is to be noted as it goes on.
fn used(caller: &Caller, rests: &Rests, now: Timestamp) -> Vec<Arc<Uses>> {
    let counted = caller.grants.iter().filter(|grant| rests.names().contains(&grant.entitlement));
    let uses: Vec<Arc<Uses>> = counted.chain(&caller.under).filter_map(LiveGrant::uses).cloned().collect();
    uses.iter().for_each(|uses| uses.note(now));
    uses
}

/// The permit of what is open for this caller; where it rests on grants, or its token was made under
/// one, it is watched until it is dropped.
#[must_use]
pub fn permit(worker: &Worker, caller: &Caller, routed: &Routed, rests: &Rests, now: Timestamp) -> Permit {
    let clock = Arc::clone(&worker.shared.clock);
    let browsers = caller.session.as_ref().filter(|live| live.session.kind == SessionKind::Browser);
    let session = browsers.map(|live| Arc::clone(&live.used));
    let uses = used(caller, rests, now);
    let (streams, acting) = acting_streams(worker, caller);
    let mut kept = PermitRests { granted: None, uses, session, watched: Vec::from_iter(acting) };
    let mut permit = Permit { streams, ends_at: caller.ends_at, clock, rests: None };
    let is_bound = caller.under.is_some() || !rests.names().is_empty();
    let (Some(matched), true) = (&routed.matched, is_bound) else {
        if kept.session.is_some() || !kept.watched.is_empty() || !kept.uses.is_empty() {
            permit.rests = Some(Arc::new(kept));
        }
        return permit;
    };
    let watch = Watch {
        directory: Arc::clone(&worker.shared.directory),
        principal: caller.principal.clone(),
        service: routed.entry.service.name.clone(),
        action: matched.action.clone(),
        params: matched.params.clone(),
        rests: rests.clone(),
        under: caller.under.as_ref().map(|grant| grant.id),
        until: Arc::default(),
    };
    let (until, clock) = (Arc::clone(&watch.until), Arc::clone(&worker.shared.clock));
    let streams = permit.streams.child_token();
    // What was permitted a moment ago: the grant that permitted it says until when.
    let end = deciding(caller, rests).map_or(now, |grant| grant.expires_at);
    until.store(watch.end(now).map_or(end, |(end, _)| end).millis(), Ordering::Release);
    let gone = CancellationToken::new();
    let (cut, dropped) = (streams.clone(), gone.clone());
    worker.beside.spawn_local(async move {
        tokio::select! {
            () = watch.run(&*clock) => cut.cancel(),
            () = dropped.cancelled() => {}
        }
    });
    kept.granted = Some(until);
    kept.watched.push(gone.drop_guard());
    Permit { streams, rests: Some(Arc::new(kept)), ..permit }
}

/// What cuts the streams of a caller: those of their session, and where somebody acts for them, of each
/// such session too, for as long as what comes with it is kept.
fn acting_streams(worker: &Worker, caller: &Caller) -> (CancellationToken, Option<DropGuard>) {
    if caller.acting.is_empty() {
        return (caller.streams.clone(), None);
    }
    let (streams, gone) = (caller.streams.child_token(), CancellationToken::new());
    let (cut, dropped) = (streams.clone(), gone.clone());
    let acting: Vec<CancellationToken> = caller.acting.iter().map(|live| live.streams.clone()).collect();
    worker.beside.spawn_local(async move {
        let ended = select_all(acting.iter().map(|streams| Box::pin(streams.cancelled())));
        tokio::select! {
            _ = ended => cut.cancel(),
            () = dropped.cancelled() => {}
        }
    });
    (streams, Some(gone.drop_guard()))
}

/// Looks after one open stream.
struct Watch {
    directory: Arc<Directory>,
    principal: Principal,
    service: ServiceName,
    action: ActionName,
    params: Vec<(Arc<str>, String)>,
    rests: Rests,
    under: Option<GrantId>,
    until: Arc<AtomicI64>,
}

impl Watch {
    /// Resolves when no grant permits it any more, or the token's is over.
    async fn run(&self, clock: &dyn crate::model::Clock) {
        loop {
            let now = clock.now();
            let Some((end, grants)) = self.end(now) else {
                self.until.store(i64::MIN, Ordering::Release);
                return;
            };
            self.until.store(end.millis(), Ordering::Release);
            let ended = grants.iter().map(|grant| Box::pin(grant.over.cancelled()));
            // One that is ended early, the end, or a new look.
            let _ = tokio::time::timeout(end.since(now).duration().min(WATCH_MAX), select_all(ended)).await;
        }
    }

    /// When it ends, as things are at `now`, and the grants that it rests on; `None`: it has ended.
    fn end(&self, now: Timestamp) -> Option<(Timestamp, Vec<LiveGrant>)> {
        let mut grants = self.directory.grants(&self.principal, now);
        let under = match self.under {
            None => None,
            Some(id) => Some(grants.iter().find(|grant| grant.id == id).cloned()?),
        };
        let names = self.rests.names();
        grants.retain(|grant| {
            names.contains(&grant.entitlement) && grant.counts_for(&self.service, &self.action, &self.params)
        });
        let last = |name: &EntitlementName| {
            grants.iter().filter(|grant| grant.entitlement == *name).map(|grant| grant.expires_at).max()
        };
        let end = match &self.rests {
            Rests::OnNothing => under.as_ref().map(|grant| grant.expires_at),
            Rests::OnAny(names) => names.iter().filter_map(last).max(),
            Rests::OnAll(names) => names.iter().map(last).collect::<Option<Vec<_>>>()?.into_iter().min(),
        }?;
        let end = under.as_ref().map_or(end, |grant| end.min(grant.expires_at));
        grants.extend(under);
        Some((end, grants))
    }
}
