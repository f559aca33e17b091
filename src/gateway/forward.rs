//! The request goes upstream and its answer comes back.
//!
//! Nothing is sent twice: only a request of which no byte left may go another way, or one without a body of
//! which the upstream says that it did nothing. The time for the
//! first byte of an answer counts from the last byte of the request, so that an endless upload is
//! no late answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, request};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::body::{BodyError, Ending, Permit, Progress, Relay};
use super::connect::Needs;
use super::equip::{addressed, unaddressed};
use super::guard::PaceLimits;
use super::guard_h1::GuardControl;
use super::handshake::Channel;
use super::hygiene::{strip_client_trailers, strip_response_headers, strip_response_trailers};
use super::lane::{Lane, Unsent};
use super::pipeline::is_grpc;
use super::refusal::{Refusal, UpstreamFault};
use super::route::Routed;
use super::trust;
use super::tunnel;
use super::worker::Worker;

/// Ways that are tried while nothing has been sent.
const TRIES: usize = 3;

/// Times that a request is sent of which the upstream says each time that it has done nothing: one whose
/// connections take few requests each refuses many at once.
const REFUSED_TRIES: usize = 8;

/// Interim answers (1xx) that one request may get before its own: they reset no time, and an upstream that
/// sends them without end would keep a thread reading.
const INTERIM_MAX: u32 = 64;

/// How often it is looked whether the permit of a request that waits for its answer is over: its end is
/// obeyed within a second, also where the clock was set.
const PERMIT_LOOK: Duration = Duration::from_secs(1);

/// An answer that may go to the client, with its connection kept until its body has been read.
pub struct Answer {
    /// Its head, cleaned.
    pub head: http::response::Parts,
    /// Its body as it comes, but for what is in `first`.
    pub incoming: Incoming,
    /// What of its body was there with its head.
    pub first: Option<Frame<Bytes>>,
    /// The lane that it comes on.
    pub lane: Lane,
    /// What of the request's body went out.
    pub sent: Rc<Progress>,
}

/// Sends the request and waits for the head of the answer. `pace` is the rate that its body must keep.
///
/// # Errors
/// When no upstream can be reached, the answer does not begin in time or can't be passed on, or the
/// permit ends meanwhile.
pub async fn forward(
    worker: &Worker,
    routed: &Routed,
    head: request::Parts,
    body: Incoming,
    pace: Option<PaceLimits>,
    permit: &Permit,
) -> Result<Answer, Refusal> {
    let service = &routed.entry.service;
    let pool = worker.pool(&routed.entry);
    let bytes_max = service.limits.body_bytes_max.unwrap_or(u64::MAX);
    // The messages of a call go both ways for as long as a stream may be silent: its client may have sent the
    // last of its own long before it has the last of the other side's.
    let idle = if is_grpc(&head.headers) {
        service.timeouts.stream_idle
    } else {
        service.timeouts.body_idle.min(worker.shared.settings.body_idle)
    };
    let relay = Relay::new(body, permit.clone(), idle, bytes_max, strip_client_trailers)
        .without(routed.entry.injected.clone())
        .paced(pace);
    let sent = relay.progress();
    let needs = if routed.canonical.upgrade.is_some() { Needs::Upgrade } else { Needs::Any };
    if relay.is_end_stream() {
        sent.finished.set(true);
    }
    let (mut waiting, mut unsent, mut refused) = (Some((head, relay)), 0, 0);
    while unsent < TRIES && refused < REFUSED_TRIES {
        let Some((head, relay)) = waiting.take() else {
            break;
        };
        let mut lane = pool.lane(needs).await.map_err(Refusal::Upstream)?;
        // A way may have been long in coming.
        if permit.is_over() {
            return Err(Refusal::SessionEnded);
        }
        let scheme = lane.http2_scheme();
        let is_http2 = scheme.is_some();
        // An upstream of HTTP/2 may refuse what it has got, and hyper gives back nothing that it has written.
        let copy = (is_http2 && relay.is_end_stream()).then(|| Box::new(head.clone()));
        let mut request = addressed(head, relay, scheme)?;
        let interim = Arc::new((AtomicU32::new(0), Notify::new()));
        if !is_http2 {
            let counted = Arc::clone(&interim);
            hyper::ext::on_informational(&mut request, move |_| {
                if counted.0.fetch_add(1, Ordering::Relaxed) == INTERIM_MAX {
                    counted.1.notify_one();
                }
            });
        }
        let first_byte = service.timeouts.first_byte.duration();
        let outcome = tokio::select! {
            biased;
            outcome = lane.send(request) => outcome,
            () = permit.streams.cancelled() => {
                lane.discard();
                return Err(Refusal::SessionEnded);
            }
            () = interim.1.notified() => {
                lane.discard();
                return Err(Refusal::Upstream(UpstreamFault::Broken));
            }
            refusal = waited(&sent, first_byte, permit) => {
                match refusal {
                    Refusal::Upstream(UpstreamFault::Slow) => lane.in_vain(),
                    _ => lane.discard(),
                }
                return Err(refusal);
            }
        };
        match outcome {
            Ok(response) => return answer(response, lane, sent).await,
            Err(Unsent::Again(request)) => {
                unsent += 1;
                let (head, relay) = (*request).into_parts();
                waiting = Some((unaddressed(head)?, relay));
            }
            Err(Unsent::Refused) => {
                refused += 1;
                waiting = copy.map(|head| (*head, Relay::of_nothing(permit.clone(), Rc::clone(&sent))));
            }
            Err(Unsent::Failed) => return Err(failed(&sent)),
        }
    }
    Err(Refusal::Upstream(if refused > 0 { UpstreamFault::Refused } else { UpstreamFault::Unreachable }))
}

/// Resolves once the answer is not waited for any longer: the permit is over, or the answer overdue, which
/// it is `limit` after the last of the request's body went out, and where the upstream takes no more of it,
/// after it took the last. While it is the client's turn to send, nothing is overdue: how long it may be silent
/// is for the relay to say. One timer serves all.
async fn waited(sent: &Progress, limit: Duration, permit: &Permit) -> Refusal {
    let began = Instant::now();
    loop {
        let now = Instant::now();
        let is_clients_turn = sent.awaited.get() && !sent.finished.get();
        let overdue_at = if is_clients_turn { now } else { sent.last.get().unwrap_or(began) } + limit;
        let left = overdue_at.saturating_duration_since(now);
        if left.is_zero() {
            return Refusal::Upstream(UpstreamFault::Slow);
        }
        // The clock may be set meanwhile, so the end of the permit is looked for again.
        tokio::time::sleep_until(now + left.min(permit.remaining()).min(PERMIT_LOOK)).await;
        if permit.is_over() {
            return Refusal::SessionEnded;
        }
    }
}

/// Why a request that was under way failed: for a reason of its body, or of the upstream.
fn failed(sent: &Progress) -> Refusal {
    match sent.failed.get() {
        Some(BodyError::TooLarge) => Refusal::BodyTooLarge,
        Some(BodyError::Cut) => Refusal::SessionEnded,
        Some(BodyError::Idle) => Refusal::BodySlow,
        Some(BodyError::Peer) => Refusal::BodyBroken,
        None => Refusal::Upstream(UpstreamFault::Broken),
    }
}

async fn answer(response: Response<Incoming>, mut lane: Lane, sent: Rc<Progress>) -> Result<Answer, Refusal> {
    let (mut head, mut incoming) = response.into_parts();
    if !is_framed_once(&head.headers) {
        lane.discard();
        return Err(Refusal::Upstream(UpstreamFault::Broken));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer { head, incoming, first: None, lane, sent });
    }
    let mut first = None;
    if !incoming.is_end_stream() {
        // What broke right after its head can still be told as what it is. Nothing is waited for.
        match poll_fn(|context| Poll::Ready(Pin::new(&mut incoming).poll_frame(context))).await {
            Poll::Ready(Some(Ok(frame))) => first = Some(frame),
            Poll::Ready(Some(Err(_))) => {
                lane.discard();
                return Err(Refusal::Upstream(UpstreamFault::Broken));
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
    }
    strip_response_headers(&mut head.headers);
    // Nothing comes, and a length says that something will (RFC 9110 §8.6): clients of HTTP/2 reset for it.
    if head.status == StatusCode::NO_CONTENT || head.status.is_informational() {
        head.headers.remove(CONTENT_LENGTH);
    }
    head.extensions.clear();
    head.version = http::Version::HTTP_11;
    Ok(Answer { head, incoming, first, lane, sent })
}

/// Whether an answer says in one way how its body ends. Two lengths of one body: whoever reads the other one
/// reads something else (RFC 9112 §6.3). A coding beside `chunked` would be lost with the field, which is
/// between upstream and gateway, and its bytes be passed on as if they were plain. Zeros before a length are an
/// upstream's right (RFC 9110 §8.6), which its clients have read all along.
fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    let single = lengths.next().is_none() && codings.next().is_none() && (length.is_none() || coding.is_none());
    single
        && length.is_none_or(|length| !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit))
        && coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Keeps the lane until the answer is gone, and gives it up if that was before its end.
struct KeepLane {
    lane: Option<Lane>,
    then: Box<dyn Ending>,
}

impl Ending for KeepLane {
    fn ended(&mut self, progress: &Progress) {
        if let Some(mut lane) = self.lane.take()
            && (!progress.finished.get() || progress.failed.get().is_some())
        {
            lane.discard();
        }
        self.then.ended(progress);
    }
}

/// The answer's body on its way to the client; `then` hears of its end.
#[must_use]
pub fn relayed(
    worker: &Worker,
    routed: &Routed,
    incoming: Incoming,
    first: Option<Frame<Bytes>>,
    lane: Lane,
    permit: Permit,
    then: Box<dyn Ending>,
) -> Relay {
    let idle = routed.entry.service.timeouts.stream_idle;
    Relay::new(incoming, permit, idle, u64::MAX, strip_response_trailers)
        .after(first)
        .reporting_to(Box::new(KeepLane { lane: Some(lane), then }))
        .looked_after(Rc::clone(&worker.untaken))
}

/// Joins client and upstream after a 101, and gives the head that the client gets.
///
/// # Errors
/// When the upstream changed to a protocol that nobody asked for.
#[expect(clippy::too_many_arguments, reason = "each is one side of what is joined")]
pub fn join(
    worker: &Worker,
    channel: &Rc<Channel>,
    routed: &Routed,
    mut answer: Answer,
    client: Option<OnUpgrade>,
    control: Option<&GuardControl>,
    permit: Permit,
    mut then: Box<dyn Ending>,
) -> Result<http::response::Parts, Refusal> {
    let asked = routed.canonical.upgrade.is_some();
    let (Some(client), Some(control), true) = (client, control, asked) else {
        return Err(Refusal::Upstream(UpstreamFault::Broken));
    };
    let protocol = answer.head.headers.get(UPGRADE).cloned().unwrap_or(HeaderValue::from_static("websocket"));
    strip_response_headers(&mut answer.head.headers);
    let headers = &mut answer.head.headers;
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    let upstream = hyper::upgrade::on(Response::from_parts(answer.head.clone(), answer.incoming));
    let idle = routed.entry.service.timeouts.stream_idle.duration();
    let (mut lane, sent) = (answer.lane, answer.sent);
    lane.discard();
    control.tunnel();
    let stopping = worker.shared.stopping.clone();
    let untrusted = trust::lost(Arc::clone(&worker.shared), Rc::clone(channel));
    worker.tasks.spawn_local(async move {
        let down = Progress::default();
        tokio::select! {
            biased;
            // ORDER: before the ends that it brings to both sides, which are not theirs (`record.rs`).
            () = stopping.cancelled() => down.failed.set(Some(BodyError::Peer)),
            () = tunnel::run(client, upstream, permit, idle, &down, &sent) => {}
            () = untrusted => down.failed.set(Some(BodyError::Cut)),
        }
        then.ended(&down);
        drop(lane);
    });
    answer.head.extensions.clear();
    Ok(answer.head)
}
