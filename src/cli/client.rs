//! The client of the control host: one request, one answer, each bounded in time and size.
//!
//! It speaks HTTP/1.1 over a TLS connection of its own for each request: a command makes one to
//! three of them, and a renewed certificate is shown at once. Errors are problem details
//! (RFC 9457), or those of OAuth (RFC 6749 §5.2) from its endpoints. No redirect is followed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::model::{Entropy, Secret};
use crate::wire::{OauthError, Page, Problem, Remedy};

use super::dial::{self, DialError, Identity};
use super::exit::Exit;
use super::failure::Failure;
use super::origin::Origin;

/// How long one request and its answer may take, after the connection stands.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What makes a repeated POST the same one.
const IDEMPOTENCY_KEY: http::HeaderName = http::HeaderName::from_static("idempotency-key");
/// Names openings of the emergency path that are in force.
const EMERGENCY_HEADER: http::HeaderName = http::HeaderName::from_static("doorward-breakglass");
/// The most pages of one list that are read.
const PAGES_MAX: usize = 1000;

/// Why there is no answer that can be used.
#[derive(Debug)]
pub enum ClientError {
    /// The server could not be reached.
    Dial(DialError),
    /// The connection failed while it was asked.
    Exchange {
        /// Which server.
        server: String,
        /// How.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    Slow {
        /// Which server.
        server: String,
    },
    /// It said no.
    Refused(Box<Problem>),
    /// An OAuth endpoint said no, with this status.
    Oauth(OauthError, StatusCode),
    /// It said something else than it should.
    Answer {
        /// Which server.
        server: String,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(error) => error.fmt(f),
            Self::Exchange { server, source } => write!(f, "asking `{server}`: {source}"),
            Self::Slow { server } => {
                write!(f, "`{server}` did not answer in {} s", EXCHANGE_TIMEOUT.as_secs())
            }
            Self::Refused(problem) => problem.fmt(f),
            Self::Oauth(error, _) => error.fmt(f),
            Self::Answer { server, what } => write!(f, "`{server}` gave an answer that can't be used: {what}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dial(error) => Some(error),
            Self::Exchange { source, .. } => Some(source.as_ref()),
            Self::Slow { .. } | Self::Refused(_) | Self::Oauth(..) | Self::Answer { .. } => None,
        }
    }
}

impl ClientError {
    /// Whether the server refused the certificate of the session.
    #[must_use]
    pub fn certificate_refused(&self) -> bool {
        match self {
            Self::Dial(DialError::Tls { source, .. }) => dial::certificate_refused(source),
            Self::Exchange { source, .. } => dial::certificate_refused(source.as_ref()),
            _ => false,
        }
    }
}

impl From<DialError> for ClientError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if error.certificate_refused() {
            let detail = "the server does not take this session's certificate any more; sign in again";
            return Self::signed_out("session_ended", detail, "doorward login");
        }
        let text = error.to_string();
        match error {
            ClientError::Dial(DialError::Settings(_)) => Self::usage(text),
            ClientError::Dial(_) | ClientError::Exchange { .. } | ClientError::Slow { .. } => {
                Self::new(Exit::Unreachable, "unreachable", text)
            }
            ClientError::Refused(problem) => Self::refused(*problem),
            // Our client has no secret that could be wrong: what is not taken is the session's certificate.
            // It is told as from any other endpoint.
            ClientError::Oauth(error, _) if error.error == "invalid_client" => {
                let mut problem = Problem::new(401, "session_ended", "The session is over");
                problem.detail = error.error_description;
                problem.decision = error.decision;
                problem.remedy = Some(Remedy::new("sign_in", Some("doorward login")));
                Self::refused(problem)
            }
            ClientError::Oauth(error, status) => {
                let exit = match error.error.as_str() {
                    "access_denied" => Exit::Denied,
                    "invalid_token" => Exit::SignedOut,
                    "invalid_request" | "invalid_scope" | "invalid_target" => Exit::Usage,
                    "temporarily_unavailable" | "server_error" => Exit::Unreachable,
                    _ => Exit::Failed,
                };
                let mut failure = Self::new(exit, &error.error, text);
                failure.problem.decision = error.decision;
                failure.status = Some(status.as_u16());
                failure
            }
            ClientError::Answer { .. } => Self::failed(text),
        }
    }
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What answers say of openings of the emergency path.
#[derive(Debug, Clone, Default)]
pub struct Banner(Arc<Mutex<Option<String>>>);

impl Banner {
    /// The newest that was said.
    #[must_use]
    pub fn told(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read(&self, headers: &HeaderMap) {
        let said = headers.get(EMERGENCY_HEADER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }
}

/// One server, and what is shown to it.
#[derive(Clone)]
pub struct Client {
    origin: Origin,
    tls: Arc<ClientConfig>,
    /// Where it is dialled, if not where its name points.
    node: Option<(String, u16)>,
    banner: Banner,
    /// Shown to the API.
    bearer: Option<Arc<Secret<String>>>,
}

impl Client {
    /// A client of this server that trusts `ca_pem` or else this machine's authorities, and shows
    /// `identity` where it is asked.
    ///
    /// # Errors
    /// When authorities or identity can't be used.
    pub fn new(origin: Origin, ca_pem: Option<&str>, identity: Option<&Identity>) -> Result<Self, ClientError> {
        let tls = dial::tls_settings(ca_pem, identity)?;
        Ok(Self { origin, tls, node: None, banner: Banner::default(), bearer: None })
    }

    /// The same, that notes what is said of the emergency path.
    #[must_use]
    pub fn noting(self, banner: &Banner) -> Self {
        Self { banner: banner.clone(), ..self }
    }

    /// The same server at one node of it.
    #[must_use]
    pub fn at_node(&self, host: &str, port: u16) -> Self {
        Self { node: Some((host.to_owned(), port)), ..self.clone() }
    }

    /// The same client, which shows this token to the API. OAuth endpoints take none.
    #[must_use]
    pub fn with_bearer(&self, token: String) -> Self {
        Self { bearer: Some(Arc::new(Secret::new(token))), ..self.clone() }
    }

    fn authorization(&self) -> Option<(http::HeaderName, String)> {
        self.bearer.as_ref().map(|token| (AUTHORIZATION, format!("Bearer {}", token.expose())))
    }

    /// The server.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The TLS settings, for connections to other names of the same door.
    #[must_use]
    pub const fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    /// Sends one request; any status is an answer.
    ///
    /// # Errors
    /// When the server can't be reached or its answer can't be read whole.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(http::HeaderName, String)],
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let (host, port) = (self.origin.host(), self.origin.port());
        let (at, at_port) = self.node.as_ref().map_or((host.as_str(), port), |(at, port)| (at.as_str(), *port));
        let stream = dial::connect(at, at_port).await?;
        let stream = dial::secure(stream, &host, port, Arc::clone(&self.tls)).await?;
        let answer = exchange(stream, &self.origin.authority(), method, path, headers, body).await?;
        self.banner.read(&answer.headers);
        Ok(answer)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let mut headers = vec![(ACCEPT, "application/json".to_owned())];
        headers.extend(content_type.map(|kind| (CONTENT_TYPE, kind.to_owned())));
        headers.extend(self.authorization());
        let answer = self.send(method, path, &headers, body).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(self.refusal(&answer))
    }

    fn refusal(&self, answer: &Answer) -> ClientError {
        let status = answer.status;
        if let Ok(mut problem) = serde_json::from_slice::<Problem>(&answer.body) {
            problem.status = status.as_u16();
            if problem.reason == "no_route" {
                problem.detail =
                    Some("this door does not know how to do that; it may be older than this command".into());
            }
            return ClientError::Refused(Box::new(problem));
        }
        if let Ok(error) = serde_json::from_slice::<OauthError>(&answer.body) {
            return ClientError::Oauth(error, status);
        }
        if status == StatusCode::UNAUTHORIZED {
            return ClientError::Refused(Box::new(Problem::new(401, "no_credential", "Sign in first")));
        }
        let server = self.origin.to_string();
        ClientError::Answer { server, what: format!("status {status} without a reason; is it a door?") }
    }

    /// Gets a resource as JSON text.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn get(&self, path: &str) -> Result<String, ClientError> {
        let body = self.ask(Method::GET, path, None, Bytes::new()).await?;
        String::from_utf8(body.into()).map_err(|_| self.unusable("it is not UTF-8"))
    }

    /// Posts JSON and gets the answer as JSON text.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn post<T: Serialize>(&self, path: &str, value: &T) -> Result<String, ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| self.unusable(&error.to_string()))?;
        let body = self.ask(Method::POST, path, Some("application/json"), body.into()).await?;
        String::from_utf8(body.into()).map_err(|_| self.unusable("it is not UTF-8"))
    }

    /// Posts JSON under an idempotency key of its own, once more if the answer was lost: the server
    /// does it once.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn act<T: Serialize>(&self, path: &str, value: &T, entropy: &dyn Entropy) -> Result<String, ClientError> {
        let body: Bytes = serde_json::to_vec(value).map_err(|error| self.unusable(&error.to_string()))?.into();
        let key = data_encoding::HEXLOWER.encode(&entropy.bytes_32());
        let mut headers = vec![
            (ACCEPT, "application/json".to_owned()),
            (CONTENT_TYPE, "application/json".to_owned()),
            (IDEMPOTENCY_KEY, key),
        ];
        headers.extend(self.authorization());
        let answer = match self.send(Method::POST, path, &headers, body.clone()).await {
            Err(ClientError::Exchange { source, .. }) if !dial::certificate_refused(source.as_ref()) => {
                self.send(Method::POST, path, &headers, body).await?
            }
            other => other?,
        };
        if !answer.status.is_success() {
            return Err(self.refusal(&answer));
        }
        String::from_utf8(answer.body.into()).map_err(|_| self.unusable("it is not UTF-8"))
    }

    /// Posts a form, as OAuth has it, and reads the answer.
    ///
    /// # Errors
    /// When there is no answer, it is an error of OAuth, or not what it should be.
    pub async fn form<T: DeserializeOwned>(&self, path: &str, fields: &[(&str, &str)]) -> Result<T, ClientError> {
        let body = self.form_raw(path, fields).await?;
        serde_json::from_slice(&body).map_err(|error| self.unusable(&error.to_string()))
    }

    /// Posts a form whose answer says nothing.
    ///
    /// # Errors
    /// When there is no answer, or it is a refusal.
    pub async fn form_raw(&self, path: &str, fields: &[(&str, &str)]) -> Result<Bytes, ClientError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.ask(Method::POST, path, Some("application/x-www-form-urlencoded"), body.into()).await
    }

    /// Reads a resource from JSON text.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub fn read<T: DeserializeOwned>(&self, json: &str) -> Result<T, ClientError> {
        serde_json::from_str(json).map_err(|error| self.unusable(&error.to_string()))
    }

    /// Gets all pages of a list as one, each item as the server wrote it.
    ///
    /// # Errors
    /// When a page can't be had, or there are more than a thousand.
    pub async fn list(&self, path: &str) -> Result<Page<Box<serde_json::value::RawValue>>, ClientError> {
        let mut items = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let asked = match &next {
                None => path.to_owned(),
                Some(cursor) => {
                    let cursor: String = form_urlencoded::byte_serialize(cursor.as_bytes()).collect();
                    format!("{path}{}cursor={cursor}", if path.contains('?') { '&' } else { '?' })
                }
            };
            let json = self.get(&asked).await?;
            let page: Page<Box<serde_json::value::RawValue>> = self.read(&json)?;
            items.extend(page.items);
            next = page.next;
            if next.is_none() {
                return Ok(Page::whole(items));
            }
        }
        Err(self.unusable("its list has no end"))
    }

    fn unusable(&self, what: &str) -> ClientError {
        ClientError::Answer { server: self.origin.to_string(), what: what.to_owned() }
    }
}

/// Sends one request over a connection and reads the answer whole.
///
/// # Errors
/// When the connection fails, or the answer is over-long or too slow.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    authority: &str,
    method: Method,
    path: &str,
    headers: &[(http::HeaderName, String)],
    body: Bytes,
) -> Result<Answer, ClientError> {
    let server = authority.to_owned();
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Exchange { server: server.clone(), source };
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("doorward/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body))
        .map_err(|error| failed(error.into()))?;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|error| failed(error.into()))?;
        request.headers_mut().insert(name, value);
    }
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.into()))?;
        let asking = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::pin!(connection, asking);
        tokio::select! {
            answer = &mut asking => answer.map_err(failed),
            // The connection's end hands its error, or the rest of the answer, to the one who asked.
            _ = &mut connection => asking.await.map_err(failed),
        }
    };
    match timeout(EXCHANGE_TIMEOUT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(ClientError::Slow { server: server.clone() }),
    }
}
