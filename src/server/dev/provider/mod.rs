//! The OpenID provider of `doorward dev`: four people who sign in by being named. It follows
//! OpenID Connect Core 1.0 and Discovery 1.0, PKCE (RFC 7636, S256 only) and RFC 9207, so that the
//! gateway talks to it as to any other.
//!
//! INVARIANTS: it listens on loopback only; a redirect goes only where one was registered, to the
//! letter; a code is used once and within 60 s. Refresh and access tokens are signed statements,
//! so with a kept key they outlive a restart.

mod authorize;
mod memory;
mod person;
mod token;

use std::fmt;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use data_encoding::BASE64URL_NOPAD;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rcgen::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use crate::credential::token::SigningKey;
use crate::model::{Clock, Entropy, Secret, Timestamp};

use super::super::accept;
use super::CONNECTIONS_MAX;
use memory::Memory;
pub use person::{PEOPLE, Person};

/// The largest form that is read.
const FORM_BYTES_MAX: usize = 64 * 1024;
/// A request's head arrives within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the provider knows about its one client.
#[derive(Debug)]
pub struct DevProviderSettings {
    /// The client's id.
    pub client_id: String,
    /// The client's secret.
    pub client_secret: Secret<String>,
    /// Where codes may be sent, to the letter.
    pub redirect_uris: Vec<String>,
    /// Where the signing key is kept (PKCS#8 PEM, mode 0600), made if it isn't there. Without it
    /// each start has a new key.
    pub key_file: Option<PathBuf>,
}

/// The provider, listening and not yet answering.
pub struct DevProvider {
    listener: TcpListener,
    inner: Arc<Inner>,
}

/// A hold on a running provider: what demonstrations and tests do to its people.
#[derive(Clone)]
pub struct DevProviderLever(Arc<Inner>);

struct Inner {
    issuer: String,
    /// Host and port of the issuer, which every request must name.
    authority: String,
    client_id: String,
    client_secret: Secret<String>,
    key: SigningKey,
    memory: Memory,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl DevProvider {
    /// Listens on a loopback address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is not loopback or taken, or the key file can't be read or made.
    pub async fn bind(
        address: SocketAddr,
        settings: DevProviderSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let message = format!(
                "the development provider signs in whoever asks and listens on loopback only, not on {address}"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let key = signing_key(settings.key_file.as_deref())?;
        let listener = TcpListener::bind(address).await?;
        let authority = listener.local_addr()?.to_string();
        let inner = Inner {
            issuer: format!("http://{authority}"),
            authority,
            client_id: settings.client_id,
            client_secret: settings.client_secret,
            key,
            memory: Memory::new(settings.redirect_uris),
            clock,
            entropy,
        };
        Ok(Self { listener, inner: Arc::new(inner) })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// A hold on its people, usable while it serves.
    #[must_use]
    pub fn lever(&self) -> DevProviderLever {
        DevProviderLever(Arc::clone(&self.inner))
    }

    /// Answers until `shutdown` comes.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let router = router(self.inner);
        accept::until(self.listener, CONNECTIONS_MAX, shutdown, move |stream| {
            let service = TowerToHyperService::new(router.clone());
            async move {
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                // A client that broke off is its own affair.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        })
        .await;
    }
}

impl DevProviderLever {
    /// From now on this person is refused: at sign-in, at refresh and at userinfo.
    pub fn disable(&self, name: &str) {
        self.0.memory.disable(name);
    }

    /// This person is welcome again.
    pub fn enable(&self, name: &str) {
        self.0.memory.enable(name);
    }

    /// This person's groups from the next sign-in or refresh on.
    pub fn set_groups(&self, name: &str, groups: &[&str]) {
        self.0.memory.set_groups(name, groups);
    }

    /// Registers one more redirect URI: of a gateway whose port was not known before.
    pub fn register_redirect_uri(&self, uri: &str) {
        self.0.memory.register_redirect_uri(uri);
    }
}

impl fmt::Debug for DevProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevProvider({})", self.inner.issuer)
    }
}

fn router(inner: Arc<Inner>) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/jwks", get(key_set))
        .route("/authorize", get(authorize::by_query).post(authorize::by_form))
        .route("/token", post(token::exchange))
        .route("/userinfo", get(token::userinfo).post(token::userinfo))
        .route("/end_session", get(token::end_session_by_query).post(token::end_session_by_form))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&inner), only_by_name))
        .with_state(inner)
}

/// Only requests that name this provider: a page that made its own name point to this machine
/// (DNS rebinding) gets nothing.
async fn only_by_name(State(inner): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host != Some(&inner.authority) {
        let message = format!("this is {}; the request names another host\n", inner.issuer);
        return (StatusCode::MISDIRECTED_REQUEST, message).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

async fn front(State(inner): State<Arc<Inner>>) -> String {
    format!(
        "The OpenID provider of `doorward dev`, {}\nPeople: {}\n",
        inner.issuer,
        PEOPLE.map(|person| person.name).join(", ")
    )
}

/// OpenID Connect Discovery 1.0 §3, RFC 8414, RFC 9207 §3.
async fn discovery(State(inner): State<Arc<Inner>>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", inner.issuer);
    Json(json!({
        "issuer": inner.issuer,
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "userinfo_endpoint": at("/userinfo"),
        "end_session_endpoint": at("/end_session"),
        "jwks_uri": at("/jwks"),
        "scopes_supported": ["openid", "profile", "email", "groups", "offline_access"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "claims_supported": [
            "sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "sid", "amr",
            "name", "preferred_username", "email", "email_verified", "groups"
        ],
    }))
}

async fn key_set(State(inner): State<Arc<Inner>>) -> Json<Value> {
    Json(json!({ "keys": [inner.key.jwk()] }))
}

impl Inner {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// 256 random bits as text.
    fn random(&self) -> String {
        BASE64URL_NOPAD.encode(&self.entropy.bytes_32())
    }
}

/// The key of the file, made there if it is missing; without a file, one for this run.
fn signing_key(file: Option<&Path>) -> io::Result<SigningKey> {
    let pair = match file {
        None => KeyPair::generate().map_err(io::Error::other)?,
        Some(file) => match std::fs::read_to_string(file) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(|error| {
                io::Error::other(format!("the provider's key `{}` can't be read: {error}", file.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let pair = KeyPair::generate().map_err(io::Error::other)?;
                let mut options = std::fs::OpenOptions::new();
                let mut created = options.write(true).create_new(true).mode(0o600).open(file)?;
                created.write_all(pair.serialize_pem().as_bytes())?;
                pair
            }
            Err(error) => return Err(error),
        },
    };
    let point = pair.public_key_raw().to_vec();
    let digest = Sha256::digest(&point);
    let kid = BASE64URL_NOPAD.encode(digest.get(..12).unwrap_or_default());
    Ok(SigningKey::new(kid, &Secret::new(pair.serialize_der()), point))
}
