//! A person's browser at a service host: sent to sign in, and back with a single-use code that
//! becomes this host's own cookie.
//!
//! The code is bound to the browser that was sent away: a cookie of a random value is set on this
//! host before it leaves, its hash travels along, and the code is taken only together with it. Tabs that
//! sign in at once share that cookie, so it stays until it runs out by itself.
//!
//! INVARIANT: a browser is never sent in a circle. It goes to sign in only where a new cookie would help,
//! and never to come back to the callback, whose code is used by then: that says so with a page.

use data_encoding::BASE64URL_NOPAD;
use http::header::{AUTHORIZATION, CACHE_CONTROL, LOCATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::control::browser::{CALLBACK_PATH, Redeemed};
use crate::control::return_to::{RETURN_TO_BYTES_MAX, ReturnTo};
use crate::identity::certificate::Issuer;
use crate::identity::cookie::{self, CookieValue, FLOW_COOKIE, Presented, SESSION_COOKIE};
use crate::model::Timestamp;
use crate::model::address::counted_address;
use crate::policy::ClientCertificate;

use super::bearer::TOKEN_HEADER;
use super::body::Body;
use super::handshake::Channel;
use super::hygiene::own_cookie;
use super::limit;
use super::record::Exchange;
use super::refusal::{Form, Refusal, STRICT_TRANSPORT};
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::Worker;

/// Everything below is ours on every service host.
const OWN_PREFIX: &str = "/.doorward/";
/// How long a browser may take to sign in, in seconds.
const FLOW_SECONDS: i64 = 600;
/// The characters of a code and of a cookie: 32 bytes in base64url.
const SECRET_CHARACTERS: usize = 43;

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
    headers.insert(STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT);
    for cookie in cookies {
        headers.append(SET_COOKIE, HeaderValue::from_str(cookie).map_err(|_| Refusal::Internal)?);
    }
    Ok(response)
}

/// Answers a request for the gateway itself.
///
/// # Errors
/// `NoRoute` for anything but the callback; `SignInOver` for a code that is not good here, and
/// `RateLimited` for an address that tries too many: each is looked for in the database.
pub async fn answer(
    worker: &Worker,
    channel: &Channel,
    routed: &Routed,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Response<Body>, Refusal> {
    if routed.canonical.path != CALLBACK_PATH || routed.canonical.method != Method::GET {
        return Err(Refusal::NoRoute);
    }
    let bad = |why| Refusal::SignInOver(why);
    let query = routed.canonical.query.as_deref().unwrap_or_default();
    let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code").map(|(_, value)| value);
    let code = code.ok_or(bad("a sign-in without a code"))?.into_owned();
    let flow = own_cookie(headers, FLOW_COOKIE).map_err(|_| bad("two sign-in cookies"))?;
    let flow = flow.ok_or(bad("a sign-in of another browser"))?.to_owned();
    let unknown = bad("a sign-in code that is not good here");
    if code.len() != SECRET_CHARACTERS || flow.len() != SECRET_CHARACTERS {
        return Err(unknown);
    }
    // Anybody can make codes up, so looks for them are counted by address, before they are made.
    limit::unasked(&worker.shared, counted_address(channel.peer.ip()))?;
    let answer = worker.shared.codes.redeem(code, routed.canonical.host.clone(), flow, now);
    let redeemed = tokio::time::timeout(std::time::Duration::from_secs(5), answer).await;
    let redeemed = redeemed.ok().and_then(Result::ok).flatten().ok_or(unknown)?;
    redirect(&redeemed.return_to, &[redeemed.cookie.set(SESSION_COOKIE)])
}

/// What a browser that asks for a page shows beside its session's cookie, noted before its request is taken
/// apart: by it we know whether signing in would help.
#[derive(Default)]
pub struct Shown {
    token: bool,
    authorization: bool,
    twice: bool,
    flow: Option<CookieValue>,
}

impl Shown {
    /// What the head shows; nothing where no page is asked for, since nobody is sent anywhere then.
    #[must_use]
    pub fn of(form: Form, headers: &HeaderMap) -> Self {
        if form != Form::Page {
            return Self::default();
        }
        let flow = match cookie::presented(headers, FLOW_COOKIE) {
            Presented::One(value) => Some(value),
            Presented::Absent | Presented::Bad => None,
        };
        Self {
            token: headers.contains_key(TOKEN_HEADER),
            authorization: headers.contains_key(AUTHORIZATION),
            twice: own_cookie(headers, SESSION_COOKIE).is_err(),
            flow,
        }
    }
}

/// Whether a refused browser gets further by signing in: it replaces the cookie of its session, and all else
/// that it shows would be refused with the next one, too.
#[must_use]
pub fn sign_in_helps(
    snapshot: &Snapshot,
    channel: &Channel,
    routed: &Routed,
    refusal: &Refusal,
    shown: &Shown,
    now: Timestamp,
) -> bool {
    let service = &routed.entry.service;
    let is_device = channel.certificate.as_ref().is_none_or(|certificate| {
        // A device names nobody, and so disagrees with nobody's cookie.
        certificate.issuer == Issuer::Device
            && certificate.is_current(now)
            && channel.still_trusted(&snapshot.tls.trust, snapshot.trust_epoch, now)
    });
    let only_cookie = !shown.token && !shown.twice && (service.pass_authorization || !shown.authorization) && is_device;
    service.client_certificate == ClientCertificate::Optional
        && match refusal {
            Refusal::NoCredential => true,
            // A session that is good and too old is the cookie's where nothing else names anybody.
            Refusal::BadCredential(_) | Refusal::SessionEnded | Refusal::SignInTooOld(_) => only_cookie,
            _ => false,
        }
}

/// Sends a browser to sign in at the control host, or writes the page of the refusal with the link there: where it
/// came by a form, which is not sent again by itself, and where its session is good and has to be replaced by a newer
/// one, which it may not want.
#[must_use]
pub fn to_sign_in(
    worker: &Worker,
    routed: &Routed,
    exchange: &Exchange,
    shown: Shown,
    refusal: &Refusal,
    resource_metadata: &str,
) -> Response<Body> {
    let origin = &worker.shared.settings.origin;
    // Another tab of this browser may be on its way with the same one.
    let flow = shown.flow.unwrap_or_else(|| CookieValue::fresh(&*worker.shared.entropy));
    let cookie = flow.set_for(FLOW_COOKIE, FLOW_SECONDS);
    let way = way_back(routed, &flow);
    let is_read = matches!(routed.canonical.method, Method::GET | Method::HEAD);
    let sign_in = match refusal {
        Refusal::SignInTooOld(_) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            format!("{origin}/signin?{}", query.append_pair("max_age", "0").append_pair("return_to", &way).finish())
        }
        _ if is_read => {
            return redirect(&format!("{origin}{way}"), &[cookie])
                .unwrap_or_else(|refusal| refusal.response(exchange.decision, Form::Page, origin, origin));
        }
        _ => format!("{origin}{way}"),
    };
    let mut response = refusal.response_with(exchange.decision, Form::Page, resource_metadata, origin, Some(&sign_in));
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// The path of the control host that leads a browser with this flow cookie back to what it asked for here.
fn way_back(routed: &Routed, flow: &CookieValue) -> String {
    let binding = BASE64URL_NOPAD.encode(&flow.hash());
    let way = |return_to: &str| {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("host", &routed.canonical.host)
            .append_pair("return_to", return_to)
            .append_pair("binding", &binding)
            .finish();
        format!("/signin/service?{query}")
    };
    // A form is not sent again by itself, and its address need not be one that can be read.
    let is_read = matches!(routed.canonical.method, Method::GET | Method::HEAD);
    let target = ReturnTo::parse(&routed.canonical.target()).filter(|_| is_read).unwrap_or_else(ReturnTo::root);
    // The way is itself something to return to, from the provider.
    Some(way(target.as_str())).filter(|way| way.len() <= RETURN_TO_BYTES_MAX).unwrap_or_else(|| way("/"))
}
