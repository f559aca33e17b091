//! The way of a request, in one function: [`pass`]. Each step is a file of its name; each type
//! between them can only be made by its step, so nothing is forwarded that skipped one.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::control::challenge;
use crate::identity::certificate::Issuer;
use crate::model::address::counted_address;
use crate::model::{DecisionId, Principal, PrincipalKind, Timestamp, Ttl};
use crate::policy::Verdict;

use super::authenticate::{Caller, authenticate, with_grants};
use super::authorize::authorize;
use super::body::{Body, Ending, Permit, Progress};
use super::browser;
use super::cross_site;
use super::equip::{equip, forwards_left, trace_of};
use super::forward::{forward, join, relayed};
use super::guard::{PaceLimits, WireRefusal};
use super::guard_h1::GuardControl;
use super::handshake::Channel;
use super::limit;
use super::membership;
use super::proof::{DPOP_HEADER, NONCE_HEADER, is_proven};
use super::record::{self, Close, Exchange};
use super::refusal::{DECISION_HEADER, Form, Refusal, STRICT_TRANSPORT};
use super::remedy::Remedy;
use super::resource;
use super::route::{Routed, route};
use super::snapshot::Snapshot;
use super::worker::Worker;

/// How often grants of one principal are looked for, by one thread: the feed brings the rest.
const LOOK_EVERY: Ttl = Ttl::millis(500);

/// What was found out before a request was refused, for the record of the refusal.
#[derive(Default)]
struct Known {
    routed: Option<Routed>,
    caller: Option<Caller>,
    named: Option<Principal>,
    verdict: Option<Verdict>,
    /// The decision to pass it on is on record: what goes wrong from here is its outcome.
    opened: bool,
}

/// Answers one request. It never fails: what goes wrong is an answer.
///
/// # Errors
/// None; the type is what hyper asks for.
pub async fn respond(
    worker: Rc<Worker>,
    channel: Rc<Channel>,
    control: Option<GuardControl>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let snapshot = worker.shared.snapshot.load_full();
    let now = worker.now();
    let (trace_id, parent_span) = trace_of(request.headers(), &worker);
    let exchange = Exchange {
        decision: DecisionId::fresh(now, &*worker.shared.entropy),
        arrived: now,
        began: Instant::now(),
        trace_id,
        parent_span,
    };
    let shows_proof = request.headers().contains_key(&DPOP_HEADER);
    let asks_upgrade = request.headers().contains_key(http::header::UPGRADE);
    let form = form_of(request.method(), request.headers());
    let shown = browser::Shown::of(form, request.headers());
    let head_only = *request.method() == Method::HEAD;
    let mut known = Known::default();
    let passed = pass(&worker, &snapshot, &channel, control.as_ref(), &exchange, request, &mut known);
    // A fault of ours costs this request, never the others of the connection or the process. What it
    // left half done is given up with it: nothing remembered is written in two steps.
    let passed = AssertUnwindSafe(passed).catch_unwind().await.unwrap_or(Err(Refusal::Internal));
    let mut response = match passed {
        Ok(response) => response,
        Err(refusal) => Box::pin(refuse(&worker, &snapshot, &channel, &exchange, refusal, (form, shown), &known)).await,
    };
    if head_only {
        without_content(&mut response);
    }
    if let (true, Some(control)) = (asks_upgrade && response.status() != 101, &control) {
        control.no_tunnel();
    }
    if let Ok(value) = HeaderValue::try_from(exchange.decision.to_string()) {
        response.headers_mut().insert(DECISION_HEADER, value);
    }
    // Where `DPoP` is the upstream's, its nonces are too.
    let ours = known.routed.as_ref().is_some_and(|routed| !routed.entry.service.pass_authorization);
    if shows_proof
        && ours
        && let Ok(value) = HeaderValue::from_str(&worker.shared.nonces.current(now))
    {
        response.headers_mut().insert(NONCE_HEADER, value);
    }
    if !channel.http2 && worker.shared.draining.is_cancelled() && response.status() != 101 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    *response.version_mut() = if channel.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    Ok(response)
}

/// What `HEAD` gets of an answer of our own: its length and none of it (RFC 9110 §9.3.2). Over HTTP/1 hyper
/// sees to that, over HTTP/2 it sends what it is given.
fn without_content(response: &mut Response<Body>) {
    if let Body::Full(bytes) = response.body_mut() {
        let length = bytes.take().map_or(0, |bytes| bytes.len());
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

/// From the request to the upstream's answer, or to the first reason against it.
async fn pass(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Rc<Channel>,
    control: Option<&GuardControl>,
    exchange: &Exchange,
    mut request: Request<Incoming>,
    known: &mut Known,
) -> Result<Response<Body>, Refusal> {
    let now = exchange.arrived;
    not_oversized(&request, worker.shared.settings.head_bytes)?;
    limit::fields(&worker.shared, request.headers())?;
    let routed = known.routed.insert(route(snapshot, channel, &request)?);
    not_in_emergency(worker, channel)?;
    if browser::is_ours(routed) {
        return Box::pin(browser::answer(worker, channel, routed, request.headers(), now)).await;
    }
    if let Some(metadata) = resource::metadata(worker, routed) {
        return Ok(metadata);
    }
    if let Some(allowed) = cross_site::preflight(routed, request.headers()) {
        let (origin, counted) = (&worker.shared.settings.origin, counted_address(channel.peer.ip()));
        // INVARIANT: one too many is refused like the others are answered, by nobody and unrecorded: it must not
        // cost more than it would have.
        return Ok(match limit::preflight(&worker.shared, counted) {
            Ok(()) => allowed,
            Err(refusal) => refusal.response(exchange.decision, Form::Problem, origin, origin),
        });
    }
    let caller = authenticate(worker, snapshot, channel, routed, request.headers(), now, &mut known.named).await?;
    let caller = known.caller.insert(caller);
    // Who brought a proof was counted before it was used up.
    if !caller.token.as_deref().is_some_and(is_proven) {
        limit::admit(&routed.entry, &caller.principal)?;
    }
    not_stale(worker, routed, caller, now)?;
    let mut judged = authorize(worker, snapshot, channel, routed, caller, now);
    if let Err(refused) = &judged
        && Box::pin(looked_for_grants(worker, caller, &refused.refusal, now)).await
    {
        with_grants(worker, snapshot, channel, routed, caller, now);
        judged = authorize(worker, snapshot, channel, routed, caller, now);
    }
    let permitted = match judged {
        Ok(permitted) => permitted,
        Err(refused) => {
            known.verdict = refused.verdict;
            return Err(refused.refusal);
        }
    };
    let client = routed.canonical.upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    // ORDER: the decision is on record before anything of the request goes upstream.
    record::open(worker, snapshot, channel, exchange, routed, caller, &permitted).await?;
    known.opened = true;
    if routed.canonical.method == Method::OPTIONS && forwards_left(request.headers()) == Some(0) {
        return Ok(answered_here(worker, channel, exchange, routed, caller));
    }
    let permit = membership::permit(worker, caller, routed, &permitted.rests, now);
    let (head, body) = request.into_parts();
    let head = equip(worker, snapshot, channel, exchange, routed, caller, &permitted, head, now)?;
    let pace = pace_of(worker, channel, &head.headers);
    let answer = forward(worker, routed, head, body, pace, &permit).await;
    let answer = answer.map_err(|refusal| why_cut(worker, caller, &permit, why_broken(control, refusal)))?;
    routed.entry.metrics.allowed.inc();
    let status = answer.head.status;
    let sent = Rc::clone(&answer.sent);
    let close = Box::new(Close::new(worker, exchange, channel, routed, caller, status.as_u16(), sent));
    if status == http::StatusCode::SWITCHING_PROTOCOLS {
        let head = join(worker, channel, routed, answer, client, control, permit, close)?;
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let body = relayed(worker, routed, answer.incoming, answer.first, answer.lane, permit, close);
    Ok(Response::from_parts(answer.head, Body::Relay(body)))
}

/// Our own answer to an `OPTIONS` that may go no further (RFC 9110 §7.6.2): the caller is let through, and
/// what the service can do is for the service to say.
fn answered_here(
    worker: &Worker,
    channel: &Channel,
    exchange: &Exchange,
    routed: &Routed,
    caller: &Caller,
) -> Response<Body> {
    routed.entry.metrics.allowed.inc();
    let (none, status) = (Progress::default(), http::StatusCode::NO_CONTENT);
    none.finished.set(true);
    Close::new(worker, exchange, channel, routed, caller, status.as_u16(), Rc::default()).ended(&none);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT);
    response
}

/// Over HTTP/1 the guard ends a body that comes too slowly, which then looks like one that broke off.
fn why_broken(control: Option<&GuardControl>, refusal: Refusal) -> Refusal {
    match (refusal, control.and_then(GuardControl::refusal)) {
        (Refusal::BodyBroken, Some(WireRefusal::BodyTooSlow)) => Refusal::BodySlow,
        (other, _) => other,
    }
}

/// A request that was cut while it was under way is told what ended: its caller was barred, or the grant that it
/// rested on is over, or else the session is.
fn why_cut(worker: &Worker, caller: &Caller, permit: &Permit, refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::SessionEnded if worker.shared.directory.is_locked(&caller.principal) => Refusal::Locked,
        Refusal::SessionEnded if permit.is_grant_over() => match &caller.under {
            Some(grant) => Refusal::GrantOver(grant.id),
            None => Refusal::NoPolicyMatch { remedies: Vec::new() },
        },
        other => other,
    }
}

/// A node that started without its database knows no session and no lock: only those pass who
/// need neither.
fn not_in_emergency(worker: &Worker, channel: &Channel) -> Result<(), Refusal> {
    if !worker.shared.emergency.load(Ordering::Acquire) {
        return Ok(());
    }
    match channel.certificate.as_ref().map(|certificate| certificate.issuer) {
        Some(Issuer::BreakGlass) => Ok(()),
        None | Some(Issuer::Ours | Issuer::Device | Issuer::Spiffe) => Err(Refusal::Emergency),
    }
}

/// A grant may have been given on another node since the feed was last read: where one would help,
/// the store is asked, for each principal once in that time.
async fn looked_for_grants(worker: &Worker, caller: &Caller, refusal: &Refusal, now: Timestamp) -> bool {
    let helps = matches!(refusal.remedy(), Remedy::RequestAccess(_));
    let principal = &caller.principal;
    if !helps || worker.looked.borrow_mut().get(principal).is_some_and(|at| !at.plus(LOOK_EVERY).is_over(now)) {
        return false;
    }
    worker.looked.borrow_mut().put(principal.clone(), now);
    worker.shared.lookup.grants(principal).await;
    worker.shared.directory.grants(principal, now).len() > caller.grants.len()
}

/// The rate that a request's body must keep. Over HTTP/1 the guard holds it for the connection; a
/// gRPC call may be silent for as long as a stream may.
fn pace_of(worker: &Worker, channel: &Channel, headers: &HeaderMap) -> Option<PaceLimits> {
    (channel.http2 && !is_grpc(headers))
        .then(|| PaceLimits { bytes_per_second: worker.shared.settings.body_rate_min, ..PaceLimits::default() })
}

/// Whether a request is a call of gRPC, whose body may be a stream that lives as long as its answer.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A node that has not confirmed the revocation feed for too long lets ordinary callers through
/// only where the service says so. The emergency path does not hang on the feed.
fn not_stale(worker: &Worker, routed: &Routed, caller: &Caller, now: crate::model::Timestamp) -> Result<(), Refusal> {
    if caller.principal.kind() == PrincipalKind::BreakGlass {
        return Ok(());
    }
    let stale_at = worker.shared.directory.confirmed_at().plus(worker.shared.settings.stale_max);
    if stale_at.is_over(now) && routed.entry.service.on_stale == crate::policy::OnStale::Refuse {
        return Err(Refusal::Stale);
    }
    Ok(())
}

/// Over HTTP/2 a head may be longer than its bytes on the way, so it is measured once more as it was decoded
/// (RFC 9113 §6.5.2); over HTTP/1 the guard has seen to it.
///
/// # Errors
/// When it is longer than it may be.
pub fn not_oversized<B>(request: &Request<B>, bytes_max: usize) -> Result<(), Refusal> {
    const EACH_FIELD: usize = 32;
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + EACH_FIELD);
    if target.saturating_add(fields.sum()) > bytes_max { Err(Refusal::HeadTooLarge) } else { Ok(()) }
}

/// Programs get JSON; a person's browser gets a page: it asks for one with GET, or it says that what comes is shown to
/// its person (Fetch Metadata), as after a form is sent.
#[must_use]
pub fn form_of(method: &Method, headers: &HeaderMap) -> Form {
    let html = |value: &HeaderValue| value.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"));
    let wants_page = headers.get_all(ACCEPT).iter().any(html);
    let says = |name: &str, word: &[u8]| headers.get(name).is_some_and(|value| value.as_bytes() == word);
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let is_shown = says("sec-fetch-mode", b"navigate") && says("sec-fetch-dest", b"document");
    if (wants_page && is_read) || is_shown { Form::Page } else { Form::Problem }
}

async fn refuse(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    exchange: &Exchange,
    refusal: Refusal,
    (form, shown): (Form, browser::Shown),
    known: &Known,
) -> Response<Body> {
    let routed = known.routed.as_ref();
    let caller = known.caller.as_ref();
    let refusal = if known.named.is_none() {
        limit::anonymous(&worker.shared, counted_address(channel.peer.ip()), refusal)
    } else {
        refusal
    };
    let metadata = match routed {
        Some(routed) => challenge::metadata_url(&resource::address(worker, routed)),
        None => challenge::metadata_url(&worker.shared.settings.origin),
    };
    if let (true, Some(routed), Some(caller)) = (known.opened, routed, caller) {
        record::fail(worker, channel, exchange, &refusal, routed, caller);
        return refusal.response(exchange.decision, form, &metadata, &worker.shared.settings.origin);
    }
    record::refuse(
        worker,
        snapshot,
        channel,
        exchange,
        &refusal,
        known.verdict.as_ref(),
        routed,
        caller,
        known.named.as_ref(),
    )
    .await;
    if let (Form::Page, Some(routed)) = (form, routed)
        && browser::sign_in_helps(snapshot, channel, routed, &refusal, &shown, exchange.arrived)
    {
        return browser::to_sign_in(worker, routed, exchange, shown, &refusal, &metadata);
    }
    refusal.response(exchange.decision, form, &metadata, &worker.shared.settings.origin)
}
