//! The listener for the browser's answer (RFC 8252 §7.3): a free port of 127.0.0.1, open until one
//! answer with the right `state` came. Anything else that knocks is told no and changes nothing.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::cli::failure::Failure;
use crate::cli::origin::Origin;
use crate::wire::TokenAnswer;

use super::pkce::Flow;

/// How long a connection may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The listener.
pub struct Loopback {
    listener: TcpListener,
    port: u16,
}

impl Loopback {
    /// Takes a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn bind() -> Result<Self, Failure> {
        let fails = |error: std::io::Error| Failure::failed(format!("listening on 127.0.0.1 for the browser: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(fails)?;
        let port = listener.local_addr().map_err(fails)?.port();
        Ok(Self { listener, port })
    }

    /// What the server is told to redirect to.
    #[must_use]
    pub fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}/callback", self.port)
    }

    /// Waits for the answer to `flow`, hands its code to `exchange`, and shows the browser how that
    /// ended.
    ///
    /// # Errors
    /// As the answer or the exchange says.
    pub async fn answer<F, W>(self, flow: &Flow, issuer: &Origin, exchange: F) -> Result<TokenAnswer, Failure>
    where
        F: Fn(String) -> W,
        W: Future<Output = Result<TokenAnswer, Failure>>,
    {
        let outcome: Mutex<Option<Result<TokenAnswer, Failure>>> = Mutex::new(None);
        let (outcome, shown, exchange) = (&outcome, &Notify::new(), &exchange);
        let service = service_fn(|request: Request<Incoming>| async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let is_callback = request.method() == Method::GET && request.uri().path() == "/callback";
            if !is_callback || !flow.is_answer(&query) {
                return Ok::<_, Infallible>(page(
                    StatusCode::NOT_FOUND,
                    "Nothing here",
                    "This is not the answer that is waited for.",
                ));
            }
            let ended = match flow.code(issuer, &query) {
                Ok(code) => exchange(code).await,
                Err(failure) => Err(failure),
            };
            let shown = match &ended {
                Ok(_) => {
                    page(StatusCode::OK, "You are signed in", "You can close this window and go back to the terminal.")
                }
                Err(failure) => {
                    let detail = failure.problem.detail.as_deref().unwrap_or(&failure.problem.title);
                    page(StatusCode::BAD_REQUEST, "You are not signed in", detail)
                }
            };
            if let Ok(mut outcome) = outcome.lock() {
                *outcome = Some(ended);
            }
            Ok(shown)
        });
        let mut connections = futures_util::stream::FuturesUnordered::new();
        loop {
            use futures_util::StreamExt;
            tokio::select! {
                accepted = self.listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_TIMEOUT)
                        .keep_alive(false)
                        .serve_connection(TokioIo::new(stream), &service);
                    connections.push(async move {
                        let _ = connection.await;
                        shown.notify_one();
                    });
                }
                Some(()) = connections.next(), if !connections.is_empty() => {
                    if let Some(ended) = outcome.lock().ok().and_then(|mut outcome| outcome.take()) {
                        return ended;
                    }
                }
            }
        }
    }
}

/// A page without script, for people.
fn page(status: StatusCode, title: &str, text: &str) -> Response<Full<Bytes>> {
    let text = escaped(text);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} · Doorward</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>body{{font:1.1rem/1.5 system-ui,sans-serif;\
         max-width:32rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}}</style></head>\
         <body><h1>{title}</h1><p>{text}</p></body></html>\n"
    );
    let mut response = Response::new(Full::new(Bytes::from(html)));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
