//! `/oauth2/*`: what the operations of `control/oauth/` look like over HTTP.
//!
//! INVARIANT: a browser is sent only to a redirect URI that was checked; answers with tokens are
//! kept by nobody (`no-store`).

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, LOCATION, PRAGMA, REFERRER_POLICY, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::control::Desk;
use crate::control::audit::root;
use crate::control::caller::{Caller, Proof, Unproven};
use crate::control::oauth::code::{self, AuthorizeError, AuthorizeRequest, CodeRequest, STATE_BYTES_MAX};
use crate::control::oauth::device::{self, DEVICE_INTERVAL, DeviceRequest};
use crate::control::oauth::exchange::{self, ExchangeError, ExchangeRequest};
use crate::control::oauth::refresh::{self, RefreshRequest};
use crate::control::oauth::wanted::Wanted;
use crate::control::oauth::{GrantError, Granted, token as tokens};
use crate::identity::dpop;
use crate::identity::dpop_nonce::{self, Nonces};
use crate::identity::provider::ANEW;
use crate::model::{DecisionId, Timestamp, Ttl};
use crate::wire::oauth::{GRANT_DEVICE_CODE, GRANT_TOKEN_EXCHANGE, PROGRAM_PATH};
use crate::wire::{DeviceAuthorization, Introspection, NewAccessRequest};

use super::access_request;
use super::answer::{ApiError, OauthFailure};
use super::caller::{Connection, has_only_cookie, proven};
use super::decided::{NONCE_HEADER, Trail, answered};
use super::fields::{Fields, Form};
use super::shape;

/// RFC 9449 §4.1.
const DPOP_HEADER: HeaderName = HeaderName::from_static("dpop");

/// `GET /oauth2/authorize`: a browser that is signed in is sent to the page that asks its person whether
/// the program is theirs, another to sign in. A code is made by that page alone (`console/program.rs`).
/// With `prompt=login`, or `max_age` and a session whose person proved themselves longer ago, a browser that
/// is signed in signs in anew (OIDC Core §3.1.2.1): what the client gets is as old as the browser's proof.
pub async fn authorize(State(desk): State<Arc<Desk>>, request: Request) -> Result<Response, ApiError> {
    let now = desk.clock.now();
    let (parts, _) = request.into_parts();
    let fields = Fields::query(parts.uri.query()).map_err(|what| ApiError::Invalid(what.to_owned()))?;
    let asked = AuthorizeRequest {
        response_type: fields.text("response_type"),
        client_id: fields.text("client_id"),
        redirect_uri: fields.text("redirect_uri"),
        code_challenge: fields.text("code_challenge"),
        code_challenge_method: fields.text("code_challenge_method"),
    };
    let state = fields.get("state").unwrap_or_default();
    if state.len() > STATE_BYTES_MAX {
        return Err(ApiError::Invalid(format!("`state` is longer than {STATE_BYTES_MAX} bytes")));
    }
    let back = |answer: &[(&str, &str)]| back_to_client(&desk, &asked.redirect_uri, state, answer);
    if let Err(error) = code::check(&asked) {
        return refused(error, back);
    }
    let max_age = match max_age(&fields) {
        Ok(max_age) => max_age,
        Err(what) => return refused(AuthorizeError::Asked("invalid_request", what), back),
    };
    match proven(&desk, &parts, now).await? {
        Err(Unproven::NoCredential | Unproven::SessionEnded(_)) => sign_in(&parts.uri, &fields, max_age),
        // A cookie that is no good is replaced by signing in anew.
        Err(Unproven::BadCredential) if has_only_cookie(&parts) => sign_in(&parts.uri, &fields, max_age),
        Ok(caller) if code::is_browser(&caller).is_ok() && !is_new_enough(&caller, max_age, now) => {
            sign_in(&parts.uri, &fields, max_age)
        }
        // The page asks whom it is for, and says to all others why it is not: signing in would lead back here.
        Ok(_) | Err(Unproven::BadCredential) => {
            see_other(&format!("{PROGRAM_PATH}?{}", parts.uri.query().unwrap_or_default()))
        }
        Err(unproven) => Err(unproven.into()),
    }
}

/// Whether the browser's person proved themselves recently enough for the client.
fn is_new_enough(caller: &Caller, max_age: Option<Ttl>, now: Timestamp) -> bool {
    max_age.is_none_or(|max_age| !caller.session().authenticated_at.plus(max_age).is_over(now))
}

/// How old the proof of the browser's person may be, as the client wants it.
fn max_age(fields: &Fields) -> Result<Option<Ttl>, &'static str> {
    if fields.get("prompt").is_some_and(|prompt| prompt.split(' ').any(|word| word == "login")) {
        return Ok(Some(ANEW));
    }
    let seconds = fields.get("max_age").map(str::parse::<u32>).transpose();
    Ok(seconds.map_err(|_| "`max_age` must be a number of seconds")?.map(Ttl::seconds))
}

fn refused(
    error: AuthorizeError,
    back: impl Fn(&[(&str, &str)]) -> Result<Response, ApiError>,
) -> Result<Response, ApiError> {
    match error {
        AuthorizeError::Asked(word, description) => back(&[("error", word), ("error_description", description)]),
        AuthorizeError::Untrusted(what) => Err(ApiError::Invalid(what.to_owned())),
        AuthorizeError::NoBrowserSession => Err(ApiError::Invalid(error.to_string())),
        AuthorizeError::Store(error) => Err(error.into()),
    }
}

fn back_to_client(desk: &Desk, redirect_uri: &str, state: &str, answer: &[(&str, &str)]) -> Result<Response, ApiError> {
    see_other(&code::back_to_client(desk, redirect_uri, state, answer))
}

fn sign_in(uri: &axum::http::Uri, fields: &Fields, max_age: Option<Ttl>) -> Result<Response, ApiError> {
    let mut here = uri.path_and_query().map_or("/oauth2/authorize", |path| path.as_str()).to_owned();
    if max_age.is_some() {
        // Asked once: a browser that comes back has just signed in, and must not be sent round and round.
        let asked = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let mut rest = form_urlencoded::Serializer::new(String::new());
        rest.extend_pairs(asked.filter(|(name, _)| name != "prompt" && name != "max_age"));
        here = format!("{}?{}", uri.path(), rest.finish());
    }
    let mut location = format!("/signin?return_to={}", utf8_percent_encode(&here, NON_ALPHANUMERIC));
    if let Some(max_age) = max_age {
        location.push_str(&format!("&max_age={}", max_age.as_seconds()));
    }
    for name in ["login_hint", "provider"] {
        if let Some(value) = fields.get(name) {
            location.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
    }
    see_other(&location)
}

fn see_other(location: &str) -> Result<Response, ApiError> {
    let location =
        HeaderValue::from_str(location).map_err(|_| ApiError::Invalid("`state` can't be sent".to_owned()))?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// Our clients are public: one that authenticates takes itself for another.
fn is_public(headers: &HeaderMap) -> Result<(), OauthFailure> {
    if headers.contains_key(AUTHORIZATION) { Err(GrantError::InvalidClient.into()) } else { Ok(()) }
}

/// A signing request: PEM, or base64 of DER.
fn signing_request(fields: &Fields) -> Result<Option<Vec<u8>>, OauthFailure> {
    let Some(text) = fields.get("csr").map(str::trim) else { return Ok(None) };
    if text.starts_with("-----BEGIN") {
        return Ok(Some(text.as_bytes().to_vec()));
    }
    let plain = text.trim_end_matches('=');
    let decoded = BASE64.decode(text.as_bytes()).or_else(|_| BASE64URL_NOPAD.decode(plain.as_bytes()));
    let wrong = OauthFailure::Form("`csr` must be a PKCS#10 request, PEM or base64 of its DER");
    decoded.map(Some).map_err(|_| wrong)
}

/// What a job wants a token for the control API for: `wanted_request` is the body of `POST /api/v1/requests`.
fn wanted(fields: &Fields) -> Result<Option<Wanted>, OauthFailure> {
    let (scope, request) = (fields.get("wanted_scope"), fields.get("wanted_request"));
    let Some(audience) = fields.get("wanted_audience") else {
        let alone = scope.is_some() || request.is_some();
        let wrong = OauthFailure::Form("`wanted_scope` and `wanted_request` go with `wanted_audience`");
        return if alone { Err(wrong) } else { Ok(None) };
    };
    let request = match request {
        None => None,
        Some(text) => {
            let wrong = |_| OauthFailure::Form("`wanted_request` is not what `POST /api/v1/requests` takes");
            let body: NewAccessRequest = serde_json::from_str(text).map_err(wrong)?;
            let name = access_request::entitlement(&body).map_err(ExchangeError::from)?;
            Some(access_request::asked(name, body).map_err(ExchangeError::from)?)
        }
    };
    Ok(Some(Wanted { audience: audience.to_owned(), scope: scope.map(str::to_owned), request }))
}

fn unkept(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

/// `POST /oauth2/token`. Who comes with a proof of possession gets the nonce for the next with every
/// answer, a refusal too (RFC 9449 §8.2).
pub async fn token(
    State(desk): State<Arc<Desk>>,
    connection: Result<Connection, ApiError>,
    Extension(trail): Extension<Trail>,
    headers: HeaderMap,
    form: Form,
) -> Response {
    let now = desk.clock.now();
    let shows_proof = headers.contains_key(&DPOP_HEADER);
    let mut response = granted(&desk, connection, trail.decision, headers, form, now).await.into_response();
    if shows_proof && let Ok(value) = HeaderValue::from_str(&nonces(&desk).current(now)) {
        response.headers_mut().insert(NONCE_HEADER, value);
    }
    response
}

/// Nonces as every node makes them; the data path has the same (`server/run.rs`).
fn nonces(desk: &Desk) -> Nonces {
    Nonces::new(desk.sealer.derive(dpop_nonce::PURPOSE).expose())
}

async fn granted(
    desk: &Desk,
    connection: Result<Connection, ApiError>,
    decision: DecisionId,
    headers: HeaderMap,
    Form(fields): Form,
    now: Timestamp,
) -> Result<Response, OauthFailure> {
    let connection = facts(connection)?;
    is_public(&headers)?;
    let csr = signing_request(&fields)?;
    let client_id = fields.text("client_id");
    let granted: Granted = match fields.get("grant_type") {
        Some("authorization_code") => {
            let request = CodeRequest {
                code: fields.text("code"),
                client_id,
                redirect_uri: fields.text("redirect_uri"),
                code_verifier: fields.text("code_verifier"),
                csr,
            };
            code::exchange(desk, &request, &connection.0, now).await?
        }
        Some("refresh_token") => {
            let request = RefreshRequest { refresh_token: fields.text("refresh_token"), client_id, csr };
            refresh::refresh(desk, &request, &connection.0, now).await?
        }
        Some(GRANT_DEVICE_CODE) => {
            let request = DeviceRequest { device_code: fields.text("device_code"), client_id, csr };
            device::poll(desk, &request, &connection.0, now).await?
        }
        Some(GRANT_TOKEN_EXCHANGE) => {
            let request = ExchangeRequest {
                subject_token: fields.text("subject_token"),
                subject_token_type: fields.text("subject_token_type"),
                actor_token: fields.get("actor_token").map(str::to_owned),
                actor_token_type: fields.get("actor_token_type").map(str::to_owned),
                may_act: fields.get("may_act").map(str::to_owned),
                requested_token_type: fields.get("requested_token_type").map(str::to_owned),
                audience: fields.get("audience").map(str::to_owned),
                resource: fields.get("resource").map(str::to_owned),
                scope: fields.get("scope").map(str::to_owned),
                lifetime: fields.get("lifetime").map(str::to_owned),
                grant: fields.get("grant").map(str::to_owned),
                wanted: wanted(&fields)?,
                csr,
                proof: proof(desk, &headers, now)?,
                decision: Some(decision),
            };
            let exchanged = exchange::exchange(desk, &request, &connection.0, now).await?;
            let authority = desk.authority.load();
            let body = shape::exchange_answer(exchanged, authority.pem(), now);
            return Ok(unkept(answered(&body)));
        }
        Some(_) => return Err(OauthFailure::UnsupportedGrantType("this `grant_type` is not known here")),
        None => return Err(OauthFailure::Form("`grant_type` is needed")),
    };
    // Without it a sign-in is still one: the key can be learned at the next.
    let audit_key = root::public(&desk.store).await.ok().map(|key| key.to_string());
    let authority = desk.authority.load();
    let answer = shape::token_answer(granted, authority.pem(), audit_key, now);
    Ok(unkept(answered(&answer)))
}

fn facts(connection: Result<Connection, ApiError>) -> Result<Connection, OauthFailure> {
    connection.map_err(|_| OauthFailure::Internal("the listener did not note the connection's facts"))
}

/// The proof of possession of a request to the token endpoint, if it brings one (RFC 9449 §5).
fn proof(desk: &Desk, headers: &HeaderMap, now: Timestamp) -> Result<Option<dpop::Proof>, OauthFailure> {
    let mut shown = headers.get_all(DPOP_HEADER).iter();
    let text = match (shown.next(), shown.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().map_err(|_| OauthFailure::Proof("the DPoP proof is no text"))?,
        (Some(_), Some(_)) => return Err(OauthFailure::Proof("there are two DPoP proofs")),
    };
    let purpose = dpop::Purpose {
        method: "POST",
        host: desk.settings.host(),
        port: desk.settings.port(),
        path: "/oauth2/token",
        token: None,
        nonces: &nonces(desk),
    };
    dpop::verify(text, &purpose, now).map(Some).map_err(|error| match error {
        dpop::NONCE_WANTED => OauthFailure::NonceWanted,
        dpop::ProofError(what) => OauthFailure::Proof(what),
    })
}

/// `POST /oauth2/device_authorization`
pub async fn device_authorization(
    State(desk): State<Arc<Desk>>,
    connection: Result<Connection, ApiError>,
    headers: HeaderMap,
    Form(fields): Form,
) -> Result<Response, OauthFailure> {
    let now = desk.clock.now();
    let connection = facts(connection)?;
    is_public(&headers)?;
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let started = device::start(&desk, &fields.text("client_id"), agent, &connection.0, now).await?;
    let page = format!("{}/device", desk.settings.origin);
    let body = DeviceAuthorization {
        device_code: started.device_code.expose().to_owned(),
        verification_uri_complete: format!("{page}?user_code={}", started.user_code),
        user_code: started.user_code,
        verification_uri: page,
        expires_in: desk.settings.device_code_ttl.as_seconds(),
        interval: DEVICE_INTERVAL.as_seconds(),
    };
    Ok(unkept(answered(&body)))
}

/// `POST /oauth2/revoke`: withdraws an access token alone, or signs out by the refresh token.
pub async fn revoke(
    State(desk): State<Arc<Desk>>,
    connection: Result<Connection, ApiError>,
    headers: HeaderMap,
    Form(fields): Form,
) -> Result<Response, OauthFailure> {
    let now = desk.clock.now();
    let connection = facts(connection)?;
    is_public(&headers)?;
    let Some(token) = fields.get("token") else { return Err(OauthFailure::Form("`token` is needed")) };
    if token.contains('.') {
        tokens::revoke_access(&desk, token, &connection.0, now).await?;
        return Ok(unkept(StatusCode::OK.into_response()));
    }
    tokens::revoke(&desk, token, &fields.text("client_id"), &connection.0, now).await?;
    Ok(unkept(StatusCode::OK.into_response()))
}

/// `POST /oauth2/introspect`: a session asks of its person's own tokens.
pub async fn introspect(State(desk): State<Arc<Desk>>, request: Request) -> Result<Response, OauthFailure> {
    let now = desk.clock.now();
    let (parts, body) = request.into_parts();
    let caller = match proven(&desk, &parts, now).await {
        Ok(Ok(caller)) if caller.proof() == Proof::Certificate => caller,
        Ok(Err(Unproven::Store(error))) => return Err(GrantError::Store(error).into()),
        Ok(_) => return Err(GrantError::InvalidClient.into()),
        Err(_) => return Err(OauthFailure::Internal("the listener did not note the connection's facts")),
    };
    let Form(fields) = Form::read(Request::from_parts(parts, body)).await?;
    let Some(token) = fields.get("token") else { return Err(OauthFailure::Form("`token` is needed")) };
    let told = tokens::introspect(&desk, &caller, token, now).await.map_err(GrantError::Store)?;
    let body = told.map_or_else(Introspection::default, |told| introspection(&told.claims));
    Ok(unkept(answered(&body)))
}

fn introspection(claims: &Map<String, Value>) -> Introspection {
    let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| claims.get(name).and_then(Value::as_i64);
    let is_bound_to_key = claims.get("cnf").is_some_and(|cnf| cnf.get("jkt").is_some());
    Introspection {
        active: true,
        scope: text("scope"),
        client_id: text("client_id"),
        token_type: Some(if is_bound_to_key { "DPoP" } else { "Bearer" }.to_owned()),
        exp: number("exp"),
        iat: number("iat"),
        sub: text("sub"),
        aud: text("aud"),
        iss: text("iss"),
        jti: text("jti"),
        sid: text("sid"),
        grant: text("grant"),
        cnf: claims.get("cnf").cloned(),
        act: claims.get("act").cloned(),
        may_act: claims.get("may_act").cloned(),
    }
}
