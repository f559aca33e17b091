//! What goes to the upstream: the one canonical target, the client's headers without any that are
//! ours to write, and what we say of the caller, made fresh.

use std::net::IpAddr;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::header::{CONNECTION, FORWARDED, HOST, MAX_FORWARDS, TE, TRANSFER_ENCODING, UPGRADE, VIA};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, request};
use http_body::Body as HttpBody;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::identity::acting;
use crate::model::{EventId, GrantId, Timestamp, Ttl};
use crate::policy::AssertionMode;

use super::authenticate::Caller;
use super::authorize::Permitted;
use super::canonical::Upgrade;
use super::handshake::Channel;
use super::hygiene::{PassAuthorization, accepts_trailers, strip_client_headers};
use super::record::Exchange;
use super::refusal::{DECISION_HEADER, Refusal};
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::{MadeAssertion, Worker};

/// Our statement about the caller, for the upstream.
pub const ASSERTION_HEADER: HeaderName = HeaderName::from_static("doorward-assertion");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How long an assertion is sent again before a new one is made.
const ASSERTION_REUSE: Ttl = Ttl::seconds(10);

/// The request's head as the upstream gets it.
///
/// # Errors
/// When the assertion can't be signed.
#[expect(clippy::too_many_arguments, reason = "each is one stage's proof")]
pub fn equip(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    exchange: &Exchange,
    routed: &Routed,
    caller: &Caller,
    permitted: &Permitted,
    mut head: request::Parts,
    now: Timestamp,
) -> Result<request::Parts, Refusal> {
    let service = &routed.entry.service;
    let trailers = accepts_trailers(&head.headers);
    let pass = if service.pass_authorization { PassAuthorization::Pass } else { PassAuthorization::Withhold };
    strip_client_headers(&mut head.headers, pass);
    let headers = &mut head.headers;
    if let Some(injected) = &routed.entry.injected {
        injected.strip(headers);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = &routed.canonical.upgrade {
        let protocol = match upgrade {
            Upgrade::WebSocket => HeaderValue::from_static("websocket"),
            Upgrade::Other(name) => HeaderValue::from_str(name).map_err(|_| Refusal::Internal)?,
        };
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    forwarded(headers, channel, &routed.canonical.host, worker.shared.settings.public_port)?;
    headers.insert(VIA, HeaderValue::from_static(if channel.http2 { "2.0 doorward" } else { "1.1 doorward" }));
    if head.method == Method::OPTIONS
        && let Some(left @ 1..) = forwards_left(headers)
    {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
    }
    headers.insert(DECISION_HEADER, value(exchange.decision.to_string())?);
    headers.insert(TRACEPARENT, value(traceparent(worker, exchange))?);
    // A state belongs to the trace that it came with (W3C Trace Context §3.3).
    if exchange.parent_span.is_none() {
        headers.remove(TRACESTATE);
    }
    if let Some(assertion) = assertion(worker, snapshot, exchange, routed, caller, permitted, now)? {
        headers.insert(ASSERTION_HEADER, assertion);
    }
    for (name, secret) in &routed.entry.inject {
        headers.insert(name.clone(), secret.clone());
    }
    head.uri = Uri::try_from(routed.canonical.target()).map_err(|_| Refusal::Internal)?;
    head.extensions.clear();
    Ok(head)
}

/// How many gateways a request may still pass, where it says so (RFC 9110 §7.6.2).
#[must_use]
pub fn forwards_left(headers: &HeaderMap) -> Option<u32> {
    headers.get(MAX_FORWARDS)?.to_str().ok()?.parse().ok()
}

fn value(text: String) -> Result<HeaderValue, Refusal> {
    HeaderValue::try_from(text).map_err(|_| Refusal::Internal)
}

/// What upstreams are told of where a connection came from and what it asked for. The same for all of its
/// requests, so it is made with the first of them.
#[derive(Debug)]
pub struct ForwardedFields {
    host: String,
    authority: HeaderValue,
    forwarded: HeaderValue,
    client: HeaderValue,
    port: HeaderValue,
}

impl ForwardedFields {
    fn new(client: IpAddr, host: &str, port: u16) -> Result<Self, Refusal> {
        let authority = match port {
            443 => host.to_owned(),
            port => format!("{host}:{port}"),
        };
        let node = match client {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        Ok(Self {
            host: host.to_owned(),
            forwarded: value(format!("for={node};host=\"{authority}\";proto=https"))?,
            authority: value(authority)?,
            client: value(client.to_string())?,
            port: HeaderValue::from(port),
        })
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(FORWARDED, self.forwarded.clone());
        headers.insert(X_FORWARDED_FOR, self.client.clone());
        headers.insert(X_FORWARDED_HOST, self.authority.clone());
        headers.insert(HOST, self.authority.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        headers.insert(X_FORWARDED_PORT, self.port.clone());
    }
}

/// `Host`, `Forwarded` (RFC 7239) and its older relatives, in place of whatever came.
fn forwarded(headers: &mut HeaderMap, channel: &Channel, host: &str, port: u16) -> Result<(), Refusal> {
    let made = || ForwardedFields::new(channel.peer.ip().to_canonical(), host, port);
    match channel.forwarded.get() {
        Some(fields) if fields.host == host => fields.write(headers),
        Some(_) => made()?.write(headers),
        None => {
            let fields = made()?;
            fields.write(headers);
            // Nobody else sets it: a connection is one thread's.
            let _ = channel.forwarded.set(fields);
        }
    }
    Ok(())
}

/// W3C trace context: the caller's trace, a span of our own.
fn traceparent(worker: &Worker, exchange: &Exchange) -> String {
    let mut span = [0u8; 8];
    worker.shared.entropy.fill(&mut span);
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    text.push_str(&exchange.trace_id);
    text.push('-');
    HEXLOWER.encode_append(&span, &mut text);
    text.push_str("-01");
    text
}

/// The trace that a request belongs to, its own or a new one.
#[must_use]
pub fn trace_of(headers: &HeaderMap, worker: &Worker) -> (Arc<str>, Option<String>) {
    let named = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(|text| {
        let mut parts = text.split('-');
        let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                && text.bytes().any(|b| b != b'0')
        };
        (version.len() == 2 && version != "ff" && hex(trace, 32) && hex(span, 16))
            .then(|| (trace.into(), Some(span.to_owned())))
    });
    named.unwrap_or_else(|| {
        let mut trace = [0u8; 16];
        worker.shared.entropy.fill(&mut trace);
        let mut text = [0u8; 32];
        HEXLOWER.encode_mut(&trace, &mut text);
        (String::from_utf8_lossy(&text).into(), None)
    })
}

/// The signed statement about the caller: once per session, service and few seconds, or for each
/// request where the service wants the request in it.
fn assertion(
    worker: &Worker,
    snapshot: &Snapshot,
    exchange: &Exchange,
    routed: &Routed,
    caller: &Caller,
    permitted: &Permitted,
    now: Timestamp,
) -> Result<Option<HeaderValue>, Refusal> {
    let service = &routed.entry.service;
    let each = match service.assertion {
        AssertionMode::Off => return Ok(None),
        AssertionMode::Request => true,
        AssertionMode::Session => false,
    };
    let session = caller.session.as_ref().map(|live| &live.session);
    let grants: Vec<GrantId> = caller.grants.iter().map(|grant| grant.id).collect();
    let key = caller.key.filter(|_| !each && caller.acting.is_empty()).map(|known| (known, service.name.clone()));
    if let Some(key) = &key
        && let Some(made) = worker.assertions.borrow_mut().get(key)
        && made.generation == snapshot.generation
        && made.grants == grants
        && !made.until.is_over(now)
    {
        return Ok(Some(made.value.clone()));
    }
    let first_end = caller.grants.iter().map(|grant| grant.expires_at).min();
    let expires_at = now.plus(worker.shared.settings.assertion_ttl).min(caller.ends_at);
    let expires_at = first_end.map_or(expires_at, |end| expires_at.min(end));
    let mut claims = json!({
        "iss": worker.shared.settings.origin,
        "aud": &*routed.entry.audience,
        "sub": caller.principal.id(),
        "principal": caller.principal.to_string(),
        "email": caller.email.as_deref(),
        "groups": caller.subject.groups(),
        "session": session.map(|session| session.id.to_string()),
        "grants": grants.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "iat": now.seconds(),
        "exp": expires_at.seconds(),
        "jti": EventId::fresh(now, &*worker.shared.entropy).to_string(),
    });
    let acting = caller.token.as_ref().map(|token| token.acting.as_slice()).unwrap_or_default();
    if let (Some(act), Some(object)) = (acting::claim(acting, &worker.shared.settings.origin), claims.as_object_mut()) {
        object.insert(acting::ACT.to_owned(), act);
    }
    if let (true, Some(object)) = (each, claims.as_object_mut()) {
        let hash = data_encoding::BASE64URL_NOPAD.encode(&Sha256::digest(routed.canonical.path.as_bytes()));
        object.insert("decision".to_owned(), exchange.decision.to_string().into());
        object.insert("action".to_owned(), permitted.action.as_str().into());
        object.insert("method".to_owned(), routed.canonical.method.as_str().into());
        object.insert("path_sha256".to_owned(), hash.into());
    }
    let token = snapshot.keys.signing.sign("JWT", &claims).map_err(|error| {
        tracing::error!(%error, "an assertion could not be signed");
        Refusal::Internal
    })?;
    let value = HeaderValue::from_str(&token).map_err(|_| Refusal::Internal)?;
    if let Some(key) = key {
        let until = now.plus(ASSERTION_REUSE).min(expires_at);
        let made = MadeAssertion { generation: snapshot.generation, grants, until, value: value.clone() };
        worker.assertions.borrow_mut().put(key, made);
    }
    Ok(Some(value))
}

/// Puts head and body together for the protocol that the lane speaks: HTTP/2 where it has a scheme.
///
/// # Errors
/// When the target can't be written for HTTP/2.
pub fn addressed<B: HttpBody>(mut head: request::Parts, body: B, http2: Option<Scheme>) -> Result<Request<B>, Refusal> {
    if let Some(scheme) = http2 {
        // RFC 9113 §8.3.1: scheme and authority in pseudo-headers, no Host.
        let authority = head.headers.remove(HOST).ok_or(Refusal::Internal)?;
        let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        head.uri = Uri::builder()
            .scheme(scheme)
            .authority(authority.as_bytes())
            .path_and_query(path)
            .build()
            .map_err(|_| Refusal::Internal)?;
        head.version = Version::HTTP_2;
    } else {
        if head.method == Method::OPTIONS && head.uri.path() == "*" {
            head.uri = Uri::from_static("*");
        }
        head.version = Version::HTTP_11;
        // hyper sends no body of unknown length with methods that seldom have one, unless told to.
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    Ok(Request::from_parts(head, body))
}

/// A head as it was before [`addressed`] wrote it, for another way: that may speak another protocol.
///
/// # Errors
/// When it can't be written.
pub fn unaddressed(mut head: request::Parts) -> Result<request::Parts, Refusal> {
    head.headers.remove(TRANSFER_ENCODING);
    let Some(authority) = head.uri.authority() else { return Ok(head) };
    head.headers.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Internal)?);
    let path = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    head.uri = Uri::try_from(path).map_err(|_| Refusal::Internal)?;
    Ok(head)
}
