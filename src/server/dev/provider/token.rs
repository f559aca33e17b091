//! `/token`, `/userinfo` and `/end_session`.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Form, Json};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::Url;

use crate::model::{Timestamp, Ttl};

use super::Inner;
use super::authorize::{Parameters, page, single};
use super::memory::CodeError;
use super::person::Person;

const ID_TOKEN_TTL: Ttl = Ttl::hours(1);
const ACCESS_TOKEN_TTL: Ttl = Ttl::hours(1);
const REFRESH_TOKEN_TTL: Ttl = Ttl::hours(24 * 30);

/// `typ` of each kind of token: one is never taken for another.
const ACCESS: &str = "at+jwt";
const REFRESH: &str = "refresh+jwt";
const ID: &str = "JWT";

/// A sign-in as its tokens tell it.
struct SignIn {
    person: &'static Person,
    sid: String,
    scope: String,
    authenticated_at: Timestamp,
}

/// RFC 6749 §5.2.
struct TokenError(StatusCode, &'static str, &'static str);

impl IntoResponse for TokenError {
    fn into_response(self) -> Response {
        let Self(status, error, description) = self;
        let body = Json(json!({ "error": error, "error_description": description }));
        match status {
            StatusCode::UNAUTHORIZED => {
                (status, [(header::WWW_AUTHENTICATE, "Basic realm=\"doorward dev\"")], body).into_response()
            }
            _ => (status, body).into_response(),
        }
    }
}

const fn invalid_grant(description: &'static str) -> TokenError {
    TokenError(StatusCode::BAD_REQUEST, "invalid_grant", description)
}

pub(super) async fn exchange(
    State(inner): State<Arc<Inner>>,
    headers: HeaderMap,
    Form(parameters): Form<Parameters>,
) -> Response {
    let now = inner.now();
    let answered =
        authenticate_client(&inner, &headers, &parameters).and_then(|()| match single(&parameters, "grant_type") {
            Some("authorization_code") => by_code(&inner, &parameters, now),
            Some("refresh_token") => by_refresh(&inner, &parameters, now),
            _ => Err(TokenError(
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "authorization_code or refresh_token",
            )),
        });
    match answered {
        Ok(body) => Json(body).into_response(),
        Err(error) => error.into_response(),
    }
}

/// `client_secret_basic` or `client_secret_post`, not both (RFC 6749 §2.3).
fn authenticate_client(inner: &Inner, headers: &HeaderMap, parameters: &Parameters) -> Result<(), TokenError> {
    let unknown = TokenError(StatusCode::UNAUTHORIZED, "invalid_client", "client id and secret don't match");
    let basic = headers.get(header::AUTHORIZATION).map(|value| value.to_str().ok().and_then(basic_credentials));
    let posted = single(parameters, "client_secret");
    let (id, secret) = match (basic, posted) {
        (Some(Some(pair)), None) => pair,
        (None, Some(secret)) => (single(parameters, "client_id").unwrap_or_default().to_owned(), secret.to_owned()),
        _ => return Err(unknown),
    };
    let right = id == inner.client_id && bool::from(secret.as_bytes().ct_eq(inner.client_secret.expose().as_bytes()));
    if right { Ok(()) } else { Err(unknown) }
}

fn basic_credentials(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    let decoded = BASE64.decode(encoded.trim().as_bytes()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    // RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
    let plain =
        |half: &str| percent_decode_str(&half.replace('+', " ")).decode_utf8().ok().map(|text| text.into_owned());
    Some((plain(id)?, plain(secret)?))
}

fn by_code(inner: &Inner, parameters: &Parameters, now: Timestamp) -> Result<Value, TokenError> {
    let code = single(parameters, "code").ok_or(invalid_grant("the code is missing"))?;
    let grant = inner.memory.code_take(code, now).map_err(|error| match error {
        CodeError::Unknown => invalid_grant("the code is unknown or over"),
        CodeError::Replayed => invalid_grant("the code was used before; what it gave is ended"),
    })?;
    if single(parameters, "redirect_uri") != Some(&grant.redirect_uri) {
        return Err(invalid_grant("the redirect_uri is not that of the authorization request"));
    }
    let verifier = single(parameters, "code_verifier").unwrap_or_default();
    let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(verifier.as_bytes()));
    if !(43..=128).contains(&verifier.len()) || challenge != grant.challenge {
        return Err(invalid_grant("the code_verifier does not match the code_challenge"));
    }
    let sign_in =
        SignIn { person: grant.person, sid: grant.sid, scope: grant.scope, authenticated_at: grant.authenticated_at };
    answer(inner, &sign_in, grant.nonce.as_deref(), now)
}

fn by_refresh(inner: &Inner, parameters: &Parameters, now: Timestamp) -> Result<Value, TokenError> {
    let token = single(parameters, "refresh_token").ok_or(invalid_grant("the refresh_token is missing"))?;
    let sign_in = understand(inner, token, REFRESH, now).ok_or(invalid_grant("the refresh_token is not valid"))?;
    answer(inner, &sign_in, None, now)
}

/// ID, access and refresh token of a sign-in that still counts.
fn answer(inner: &Inner, sign_in: &SignIn, nonce: Option<&str>, now: Timestamp) -> Result<Value, TokenError> {
    let person = sign_in.person;
    if !inner.memory.is_live(person, &sign_in.sid) {
        return Err(invalid_grant("this person is disabled or signed out"));
    }
    let claims = |ttl: Ttl| {
        let mut claims = profile(inner, person);
        extend(
            &mut claims,
            json!({
                "iss": inner.issuer,
                "aud": inner.client_id,
                "iat": now.seconds(),
                "exp": now.plus(ttl).seconds(),
                "auth_time": sign_in.authenticated_at.seconds(),
                "sid": sign_in.sid,
                "amr": ["pwd"],
            }),
        );
        claims
    };
    let bearer = |ttl: Ttl| {
        let mut claims = claims(ttl);
        extend(&mut claims, json!({ "client_id": inner.client_id, "scope": sign_in.scope, "jti": inner.random() }));
        claims
    };
    let mut id_claims = claims(ID_TOKEN_TTL);
    if let Some(nonce) = nonce {
        extend(&mut id_claims, json!({ "nonce": nonce }));
    }
    let sign = |typ: &str, claims: &Value| {
        let failed = TokenError(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "the token could not be signed");
        inner.key.sign(typ, claims).map_err(|_| failed)
    };
    Ok(json!({
        "access_token": sign(ACCESS, &bearer(ACCESS_TOKEN_TTL))?,
        "refresh_token": sign(REFRESH, &bearer(REFRESH_TOKEN_TTL))?,
        "id_token": sign(ID, &id_claims)?,
        "token_type": "Bearer",
        "expires_in": ACCESS_TOKEN_TTL.as_seconds(),
        "scope": sign_in.scope,
    }))
}

/// What is told of a person: all of it whatever the scope, since there is nothing to keep back.
fn profile(inner: &Inner, person: &Person) -> Value {
    json!({
        "sub": person.name,
        "name": person.full_name,
        "preferred_username": person.name,
        "email": person.email(),
        "email_verified": true,
        "groups": inner.memory.groups_of(person),
    })
}

fn extend(target: &mut Value, more: Value) {
    if let (Value::Object(target), Value::Object(more)) = (target, more) {
        target.extend(more);
    }
}

/// The sign-in that one of our own tokens tells of, if it is of that kind and not over.
fn understand(inner: &Inner, token: &str, typ: &str, now: Timestamp) -> Option<SignIn> {
    let claims = verified(inner, token, typ)?;
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let over = Timestamp::from_seconds(claims.get("exp")?.as_i64()?).is_over(now);
    (!over).then_some(())?;
    Some(SignIn {
        person: Person::named(text("sub")?)?,
        sid: text("sid")?.to_owned(),
        scope: text("scope").unwrap_or_default().to_owned(),
        authenticated_at: Timestamp::from_seconds(claims.get("auth_time")?.as_i64()?),
    })
}

/// The claims of a token that our key signed, of that `typ`. Its end is the caller's to judge.
fn verified(inner: &Inner, token: &str, typ: &str) -> Option<Value> {
    let jwk = inner.key.jwk();
    let coordinate = |name: &str| jwk.get(name).and_then(Value::as_str);
    let key = DecodingKey::from_ec_components(coordinate("x")?, coordinate("y")?).ok()?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let data = jsonwebtoken::decode::<Value>(token, &key, &validation).ok()?;
    let ours = data.header.typ.as_deref() == Some(typ)
        && data.claims.get("iss").and_then(Value::as_str) == Some(&inner.issuer);
    ours.then_some(data.claims)
}

pub(super) async fn userinfo(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let sign_in = token.and_then(|token| understand(&inner, token, ACCESS, inner.now()));
    match sign_in.filter(|sign_in| inner.memory.is_live(sign_in.person, &sign_in.sid)) {
        Some(sign_in) => Json(profile(&inner, sign_in.person)).into_response(),
        None => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")]).into_response()
        }
    }
}

pub(super) async fn end_session_by_query(
    State(inner): State<Arc<Inner>>,
    Query(parameters): Query<Parameters>,
) -> Response {
    end_session(&inner, &parameters)
}

pub(super) async fn end_session_by_form(
    State(inner): State<Arc<Inner>>,
    Form(parameters): Form<Parameters>,
) -> Response {
    end_session(&inner, &parameters)
}

/// OpenID Connect RP-Initiated Logout 1.0: ends the sign-in of the hint, an ended token included,
/// and leads back only to an origin that a redirect URI is registered for.
fn end_session(inner: &Inner, parameters: &Parameters) -> Response {
    let hint = single(parameters, "id_token_hint").and_then(|token| verified(inner, token, ID));
    if let Some(sid) = hint.as_ref().and_then(|claims| claims.get("sid")?.as_str()) {
        inner.memory.session_end(sid);
    }
    let target = single(parameters, "post_logout_redirect_uri").and_then(|uri| Url::parse(uri).ok());
    match target.filter(|uri| hint.is_some() && inner.memory.has_origin(uri)) {
        Some(mut uri) => {
            if let Some(state) = single(parameters, "state") {
                uri.query_pairs_mut().append_pair("state", state);
            }
            (StatusCode::SEE_OTHER, [(header::LOCATION, uri.to_string())]).into_response()
        }
        None => page("Signed out", "<p>You are signed out of the provider of <code>doorward dev</code>.</p>")
            .into_response(),
    }
}
