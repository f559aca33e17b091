//! The record of a request: its decision before anything goes upstream, its outcome after.
//!
//! ORDER: [`open`] has answered before the first byte goes upstream. With `durable` it answers once
//! the decision is on the disk; with `buffered` once it is in the queue, as long as the record keeps up.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::audit::{Actor, Event, EventType, Outcome, RequestFacts, basis};
use crate::control::decision::exchange_ended;
use crate::identity::directory::LiveGrant;
use crate::model::{DecisionId, EventId, Principal, Timestamp};
use crate::policy::{RecordMode, Verdict};
use crate::store::{RECORD_TIMEOUT, Unrecorded};

use super::authenticate::Caller;
use super::body::{BodyError, Ending, Progress};
use super::handshake::Channel;
use super::refusal::Refusal;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::{Shared, Worker};

/// What is known of one exchange when its decision is recorded.
pub struct Exchange {
    /// The decision's id, which its event shares.
    pub decision: DecisionId,
    /// When the request's head was read.
    pub arrived: Timestamp,
    /// The same for durations.
    pub began: Instant,
    /// The trace that it belongs to: 32 hexadecimal digits.
    pub trace_id: Arc<str>,
    /// The caller's span, where the request named one.
    pub parent_span: Option<String>,
}

impl Exchange {
    fn event(&self, kind: EventType, outcome: Outcome, now: Timestamp) -> Event {
        let mut event = Event::new(EventId::from_bytes(*self.decision.bytes()), now, kind, outcome);
        event.decision = Some(self.decision);
        event.trace_id = Some(Arc::clone(&self.trace_id));
        event
    }
}

/// What the record says of who asked.
#[must_use]
pub fn actor(channel: &Channel, caller: Option<&Caller>) -> Actor {
    let session = caller.and_then(|caller| caller.session.as_ref()).map(|live| &live.session);
    Actor {
        principal: caller.map(|caller| caller.principal.clone()),
        address: Some(channel.peer.ip().to_canonical()),
        email: caller.and_then(|caller| caller.email.clone()),
        session: session.map(|session| session.id),
        device: session.and_then(|session| session.device.as_ref()).map(|device| device.id.as_str().into()),
        certificate: channel.certificate.as_ref().map(|certificate| certificate.thumbprint),
    }
}

/// The same for the end of an exchange: where from, on which device and with which e-mail its decision
/// says, which it names.
fn actor_of_end(channel: &Channel, caller: &Caller) -> Actor {
    Actor {
        principal: Some(caller.principal.clone()),
        session: caller.session.as_ref().map(|live| live.session.id),
        certificate: channel.certificate.as_ref().map(|certificate| certificate.thumbprint),
        ..Actor::default()
    }
}

fn facts(channel: &Channel, routed: &Routed) -> RequestFacts {
    RequestFacts {
        method: routed.canonical.method.as_str().into(),
        host: routed.canonical.host.as_str().into(),
        path: routed.canonical.path.as_str().into(),
        protocol: if channel.http2 { "h2" } else { "http/1.1" },
    }
}

fn judged(event: &mut Event, verdict: &Verdict) {
    let policies: Vec<Value> = verdict.policies.iter().map(|name| Value::from(&**name)).collect();
    event.data.insert("policies", policies.into());
    if !verdict.errors.is_empty() {
        event.data.insert("errors", verdict.errors.clone().into());
    }
}

/// What the decision rested on beyond what is on record of the session (`audit/basis.rs`).
fn rested(event: &mut Event, caller: &Caller) {
    if let Some(scope) = caller.token.as_ref().and_then(|token| token.scope.as_deref()) {
        event.data.insert(basis::SCOPE, scope.into());
    }
    if !caller.acting.is_empty() {
        let acting = caller.acting.iter().map(|live| Value::from(live.session.principal.to_string()));
        event.data.insert(basis::ACT, acting.collect());
    }
    // A decision that names the grant of its token says also where none counted.
    if !caller.grants.is_empty() || caller.under.is_some() {
        let grant = |grant: &LiveGrant| {
            json!({
                basis::GRANT: grant.id.to_string(),
                basis::ENTITLEMENT: grant.entitlement.to_string(),
                basis::ACTIVE_AT: grant.active_at.to_string(),
            })
        };
        event.data.insert(basis::GRANTS, caller.grants.iter().map(grant).collect());
    }
    // A provider's own token: there is no session whose start would have told it.
    let bearer = caller.token.as_ref().filter(|_| caller.session.is_none());
    if let Some(identity) = bearer.and_then(|token| token.identity.as_ref()) {
        event.data.insert(basis::GROUPS, identity.groups.as_slice().into());
        event.data.insert(basis::EMAIL_VERIFIED, identity.email_verified.into());
    }
}

/// Records that the request may pass on.
///
/// # Errors
/// `AuditUnavailable` when the record could not be made in time.
pub async fn open(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    exchange: &Exchange,
    routed: &Routed,
    caller: &Caller,
    permitted: &super::authorize::Permitted,
) -> Result<(), Refusal> {
    let mut event = exchange.event(EventType::DecisionAllow, Outcome::Success, exchange.arrived);
    event.actor = actor(channel, Some(caller));
    event.action = Some(permitted.action.shared());
    event.resource = Some(Arc::clone(&routed.entry.resource));
    event.service = Some(routed.entry.service.name.clone());
    event.request = Some(facts(channel, routed));
    event.policy_version = Some(Arc::clone(snapshot.policies.version()));
    let deciding = super::membership::deciding(caller, &permitted.rests);
    event.grant = deciding.or(caller.under.as_ref()).map(|grant| grant.id);
    judged(&mut event, &permitted.verdict);
    rested(&mut event, caller);
    let recorder = &worker.shared.recorder;
    let submitted = match routed.entry.service.record.unwrap_or(worker.shared.settings.record) {
        RecordMode::Buffered => recorder.submit_buffered(event),
        RecordMode::Durable => recorder.submit(event),
    };
    let answer = match submitted.known() {
        Some(answer) => answer,
        None => tokio::time::timeout(RECORD_TIMEOUT, submitted).await.unwrap_or(Err(Unrecorded::Away)),
    };
    answer.map_err(|_| Refusal::AuditUnavailable)
}

/// Records a refusal: up to a rate it is on record before it is answered, where the record can be written
/// at all; beyond it is counted at once, and so is each while nothing takes the record.
#[expect(clippy::too_many_arguments, reason = "each is one stage's proof or absence of it")]
pub async fn refuse(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    exchange: &Exchange,
    refusal: &Refusal,
    verdict: Option<&Verdict>,
    routed: Option<&Routed>,
    caller: Option<&Caller>,
    named: Option<&Principal>,
) {
    let mut event = exchange.event(EventType::DecisionDeny, Outcome::Denied, exchange.arrived);
    event.actor = actor(channel, caller);
    if event.actor.principal.is_none() {
        event.actor.principal = named.cloned();
    }
    event.reason = Some(refusal.reason().into());
    if let Refusal::GrantOver(id) = refusal {
        event.grant = Some(*id);
    }
    event.policy_version = Some(Arc::clone(snapshot.policies.version()));
    match routed {
        Some(routed) => {
            event.action = routed.matched.as_ref().map(|matched| matched.action.shared());
            event.resource = Some(Arc::clone(&routed.entry.resource));
            event.service = Some(routed.entry.service.name.clone());
            event.request = Some(facts(channel, routed));
            routed.entry.metrics.refuse(refusal.reason());
        }
        None => {
            event.data.insert("host", channel.name.as_str().into());
        }
    }
    if let Some(note) = refusal.note() {
        event.data.insert("note", note.into());
    }
    if let Some(verdict) = verdict {
        judged(&mut event, verdict);
    }
    if let Some(caller) = caller {
        rested(&mut event, caller);
    }
    event.data.insert("status", refusal.status().as_u16().into());
    event.data.insert("remedy", refusal.remedy().to_record());
    if named.is_none() || *refusal != Refusal::AuditUnavailable {
        let recorded = tokio::time::timeout(RECORD_TIMEOUT, worker.shared.recorder.refused(event)).await;
        // A refusal stands whether it could be recorded or not: it lets nothing through.
        if !matches!(recorded, Ok(Ok(()))) {
            tracing::warn!(decision = %exchange.decision, "a refusal could not be recorded");
        }
    }
}

/// Records that a request whose decision stands got no answer from its upstream. Its own event: the
/// decision's id is taken by the decision. It is found by that id (`doorward why`), so it has the decision's time,
/// and says how long after it the end was.
pub fn fail(
    worker: &Worker,
    channel: &Channel,
    exchange: &Exchange,
    refusal: &Refusal,
    routed: &Routed,
    caller: &Caller,
) {
    let id = exchange_ended(exchange.decision);
    let mut event = Event::new(id, exchange.arrived, EventType::ExchangeEnded, Outcome::Failed);
    event.decision = Some(exchange.decision);
    event.service = Some(routed.entry.service.name.clone());
    event.actor = actor_of_end(channel, caller);
    event.trace_id = Some(Arc::clone(&exchange.trace_id));
    event.reason = Some(refusal.reason().into());
    event.data.insert("status", refusal.status().as_u16().into());
    if let Some(fault) = refusal.fault() {
        event.data.insert("fault", fault.into());
    }
    let millis = u64::try_from(exchange.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    event.data.insert("duration_ms", millis.into());
    routed.entry.metrics.refuse(refusal.reason());
    worker.shared.recorder.offer(event);
}

/// Records the outcome of what was passed on, once its answer has ended or broken off.
pub struct Close {
    shared: Arc<Shared>,
    event: Option<Event>,
    began: Instant,
    duration: prometheus_client::metrics::histogram::Histogram,
    sent: std::rc::Rc<Progress>,
}

impl Close {
    /// What is to be recorded of this exchange; `sent` counts the request's body.
    #[must_use]
    pub fn new(
        worker: &Worker,
        exchange: &Exchange,
        channel: &Channel,
        routed: &Routed,
        caller: &Caller,
        status: u16,
        sent: std::rc::Rc<Progress>,
    ) -> Self {
        let mut event = exchange.event(EventType::ExchangeEnded, Outcome::Success, exchange.arrived);
        event.id = EventId::fresh(exchange.arrived, &*worker.shared.entropy);
        event.service = Some(routed.entry.service.name.clone());
        event.actor = actor_of_end(channel, caller);
        event.data.insert("status", status.into());
        worker.shared.metrics.exchanges.inc();
        let duration = routed.entry.metrics.duration.clone();
        Self { shared: Arc::clone(&worker.shared), event: Some(event), began: exchange.began, duration, sent }
    }
}

impl Ending for Close {
    fn ended(&mut self, received: &Progress) {
        let Some(mut event) = self.event.take() else {
            return;
        };
        let elapsed = self.began.elapsed();
        self.duration.observe(elapsed.as_secs_f64());
        self.shared.metrics.exchanges.dec();
        let now = self.shared.clock.now();
        // Events are found by id, which begins with their time: that of a stream is hours after its request's.
        event.id = event.id.at(now);
        event.time = now;
        let ended_by = match (received.failed.get().or(self.sent.failed.get()), received.finished.get()) {
            (Some(BodyError::Cut), _) => Some("permit_ended"),
            (Some(BodyError::Idle), _) => Some("idle"),
            (Some(BodyError::TooLarge), _) => Some("too_large"),
            (None, true) => None,
            // The drain time was over: both sides see their connection end, and neither ended it.
            (Some(BodyError::Peer), _) | (None, false) if self.shared.stopping.is_cancelled() => Some("stopped"),
            (Some(BodyError::Peer), _) => Some("peer"),
            (None, false) => Some("client_left"),
        };
        if let Some(why) = ended_by {
            event.outcome = Outcome::Failed;
            event.reason = Some(why.into());
        }
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        event.data.insert("duration_ms", millis.into());
        event.data.insert("bytes_in", self.sent.bytes.get().into());
        event.data.insert("bytes_out", received.bytes.get().into());
        self.shared.recorder.offer(event);
    }
}

impl Drop for Close {
    fn drop(&mut self) {
        self.ended(&Progress::default());
    }
}
