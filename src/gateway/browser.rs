//! A person's browser at a service host: sent to sign in, and back with a single-use code that
//! becomes this host's own cookie.
//!
//! The code is bound to the browser that was sent away: a cookie of a random value is set on this
//! host before it leaves, its hash travels along, and the code is taken only together with it.

use http::header::{CACHE_CONTROL, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use sha2::{Digest, Sha256};

use crate::model::Timestamp;

use super::body::Body;
use super::hygiene::{FLOW_COOKIE, SESSION_COOKIE, own_cookie};
use super::record::Exchange;
use super::refusal::Refusal;
use super::route::Routed;
use super::worker::Worker;

/// Where the control host sends a browser back to.
pub const CALLBACK_PATH: &str = "/.doorward/callback";
/// Everything below is ours on every service host.
const OWN_PREFIX: &str = "/.doorward/";
/// How long a browser may take to sign in, in seconds.
const FLOW_SECONDS: u32 = 600;

/// What the gateway needs of sign-in: a code redeemed for a cookie's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// The value of the new cookie, for the browser alone.
    pub cookie: String,
    /// Where the browser wanted to go: a path of this host.
    pub return_to: String,
}

/// Redeems single-use codes; runs on the control runtime and answers across.
pub trait CodeDesk: Send + Sync {
    /// The cookie for a code at this host, presented with this flow cookie; none for a code that is
    /// unknown, used, over, or another browser's.
    fn redeem(
        &self,
        code: String,
        host: String,
        flow: String,
        now: Timestamp,
    ) -> tokio::sync::oneshot::Receiver<Option<Redeemed>>;
}

/// Whether a request is for the gateway itself on a service host.
#[must_use]
pub fn is_ours(routed: &Routed) -> bool {
    routed.canonical.path.starts_with(OWN_PREFIX)
}

fn redirect(to: &str, cookies: &[String]) -> Result<Response<Body>, Refusal> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_str(to).map_err(|_| Refusal::Internal)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for cookie in cookies {
        headers.append(SET_COOKIE, HeaderValue::from_str(cookie).map_err(|_| Refusal::Internal)?);
    }
    Ok(response)
}

/// Answers a request for the gateway itself.
///
/// # Errors
/// `NoRoute` for anything but the callback; `BadCredential` for a code that is not good here.
pub async fn answer(
    worker: &Worker,
    routed: &Routed,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Response<Body>, Refusal> {
    if routed.canonical.path != CALLBACK_PATH || routed.canonical.method != http::Method::GET {
        return Err(Refusal::NoRoute);
    }
    let bad = |why| Refusal::BadCredential(why);
    let query = routed.canonical.query.as_deref().unwrap_or_default();
    let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code").map(|(_, value)| value);
    let code = code.ok_or(bad("a sign-in without a code"))?.into_owned();
    let flow = own_cookie(headers, FLOW_COOKIE).map_err(|_| bad("two sign-in cookies"))?;
    let flow = flow.ok_or(bad("a sign-in of another browser"))?.to_owned();
    let answer = worker.shared.codes.redeem(code, routed.canonical.host.clone(), flow, now);
    let redeemed = tokio::time::timeout(std::time::Duration::from_secs(5), answer).await;
    let redeemed = redeemed.ok().and_then(Result::ok).flatten().ok_or(bad("a sign-in code that is not good here"))?;
    let set = format!("{SESSION_COOKIE}={}; Path=/; Secure; HttpOnly; SameSite=Lax", redeemed.cookie);
    let gone = format!("{FLOW_COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0");
    redirect(&redeemed.return_to, &[set, gone])
}

/// Sends a browser to sign in at the control host.
#[must_use]
pub fn to_sign_in(worker: &Worker, routed: &Routed, exchange: &Exchange) -> Response<Body> {
    let flow = data_encoding::BASE64URL_NOPAD.encode(&worker.shared.entropy.bytes_32());
    let binding = data_encoding::BASE64URL_NOPAD.encode(&Sha256::digest(flow.as_bytes()));
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("host", &routed.canonical.host)
        .append_pair("return_to", &routed.canonical.target())
        .append_pair("binding", &binding)
        .finish();
    let to = format!("{}/signin/service?{query}", worker.shared.settings.origin);
    let cookie = format!("{FLOW_COOKIE}={flow}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={FLOW_SECONDS}");
    redirect(&to, &[cookie]).unwrap_or_else(|refusal| {
        let origin = &worker.shared.settings.origin;
        refusal.response(exchange.decision, super::refusal::Form::Page, origin, origin)
    })
}
