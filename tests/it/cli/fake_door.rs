//! A door for tests of the command line: real TLS with an authority of its own and optional client
//! certificates, answers from a function, and a list of what it saw.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use doorward::credential::authority::Authority;
use doorward::model::{SessionId, Timestamp, Ttl};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{SeededEntropy, install_crypto};

/// The real time: what TLS goes by.
pub fn present() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

/// A request as the door saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: String,
    pub certificate: Option<Vec<u8>>,
    pub server_name: Option<String>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A value of the form in its body, or of its query.
    pub fn value(&self, name: &str) -> Option<String> {
        let source = if self.body.is_empty() { &self.query } else { &self.body };
        form_urlencoded::parse(source.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }
}

pub type Reply = Response<Full<Bytes>>;

pub fn json_reply(status: u16, value: &Value) -> Reply {
    Response::builder().status(status).body(Full::new(Bytes::from(value.to_string()))).unwrap()
}

pub fn redirect(to: &str) -> Reply {
    Response::builder().status(303).header("location", to).body(Full::default()).unwrap()
}

/// The door, until its runtime ends.
pub struct FakeDoor {
    pub origin: String,
    pub address: SocketAddr,
    pub ca_pem: String,
    pub authority: Arc<Authority>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeDoor {
    /// A door that answers by `handler`. An upgrade is answered with 101 and an echo.
    pub async fn open(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        install_crypto();
        let entropy = SeededEntropy::new(1);
        let now = present();
        let own = Authority::generate("Test authority", now, Ttl::hours(24), &entropy).unwrap();
        let authority = Authority::load(&own.certificate.pem, &own.key_pem).unwrap();
        let names = ["doorward.localhost".to_owned(), "*.doorward.localhost".to_owned()];
        let server = authority.issue_server(&names, now, Ttl::hours(24), &entropy).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().unwrap();
        let config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from(server.certificate.der.clone())],
                PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, handler) = (Arc::clone(&seen), Arc::new(handler));
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, log, handler) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&handler));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let (certificate, server_name) = {
                        let tls = stream.get_ref().1;
                        let certificate = tls.peer_certificates().and_then(|chain| chain.first().map(|c| c.to_vec()));
                        (certificate, tls.server_name().map(str::to_owned))
                    };
                    let service = service_fn(|request: Request<Incoming>| {
                        let (certificate, server_name) = (certificate.clone(), server_name.clone());
                        let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                        async move {
                            let seen = read(request, certificate, server_name, connection).await?;
                            log.lock().unwrap().push(seen.clone());
                            Ok::<_, hyper::Error>(match seen.header("upgrade") {
                                Some(protocol) => switched(protocol),
                                None => handler(&seen),
                            })
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        let origin = format!("https://doorward.localhost:{}", address.port());
        Self { origin, address, ca_pem: own.certificate.pem, authority: Arc::new(authority), seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests for this path it saw.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path == path).count()
    }
}

fn switched(protocol: &str) -> Reply {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "upgrade")
        .header("upgrade", protocol)
        .body(Full::default())
        .unwrap()
}

async fn read(
    mut request: Request<Incoming>,
    certificate: Option<Vec<u8>>,
    server_name: Option<String>,
    connection: usize,
) -> Result<Seen, hyper::Error> {
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
    let (head, body) = request.into_parts();
    Ok(Seen {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        headers: head.headers,
        body: String::from_utf8(body.collect().await?.to_bytes().to_vec()).unwrap(),
        certificate,
        server_name,
        connection,
    })
}

/// What `/oauth2/token` answers: a session of alice with a certificate for the signing request.
pub fn token_answer(authority: &Authority, request: &str, lifetime: Ttl, refresh_token: &str) -> Value {
    let now = present();
    let session = SessionId::fresh(now, &SeededEntropy::new(9));
    let until = now.plus(lifetime);
    let issued = authority.issue_session(request.as_bytes(), session, now, until, &SeededEntropy::new(10)).unwrap();
    json!({
        "access_token": "at", "token_type": "Bearer", "expires_in": 900,
        "refresh_token": refresh_token, "refresh_token_expires_in": 43200,
        "session": session_json(&session.to_string(), now),
        "certificate": issued.pem, "certificate_expires_at": until.to_string(),
        "ca": authority.pem(), "audit_key": null,
    })
}

pub fn session_json(id: &str, now: Timestamp) -> Value {
    json!({
        "id": id, "kind": "cli",
        "principal": {"kind": "User", "id": "dev|alice", "name": "Alice", "email": "alice@example.com"},
        "groups": ["engineering"], "created_at": now.to_string(), "authenticated_at": now.to_string(),
        "expires_at": now.plus(Ttl::hours(12)).to_string(), "certificate_expires_at": null,
        "current": true, "state": "live",
    })
}
