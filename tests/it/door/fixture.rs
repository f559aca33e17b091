//! A whole door in this process: a server with a configuration of its own, the development
//! provider, upstreams that keep what they got byte for byte, people who sign in for real, and
//! clients that speak TLS with HTTP/1.1, HTTP/2 or plain bytes.
//!
//! INVARIANT: each door has its own folder, database and ports, and is taken down in order.
#![allow(dead_code, reason = "a tool box: each test takes what it needs")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use doorward::cli::args::{Format, GlobalArgs, LoginArgs};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment as CliEnvironment;
use doorward::cli::printer::Printer;
use doorward::cli::profile::Profile;
use doorward::config;
use doorward::model::{Clock, DecisionId, Entropy, Principal, SessionId, Timestamp, Ttl};
use doorward::server::ambient::{SystemClock, SystemEntropy};
use doorward::server::dev::door::{DOMAIN, DevOptions, Parts, prepare};
use doorward::server::dev::provider::DevProviderLever;
use doorward::server::run::{Running, Start, StartError, start};
use doorward::store::Recorded;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{install_crypto, temporary_folder};

use super::upstream::{Http2Upstream, RawUpstream};

/// The machine's time, moved; or set without any time passing.
#[derive(Debug, Clone, Default)]
pub struct MovedClock {
    passed: Arc<AtomicI64>,
    stepped: Arc<AtomicI64>,
}

impl MovedClock {
    pub fn advance(&self, length: Ttl) {
        self.passed.fetch_add(length.as_millis(), Ordering::SeqCst);
    }

    pub fn step(&self, millis: i64) {
        self.stepped.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        let moved = self.passed.load(Ordering::SeqCst) + self.stepped.load(Ordering::SeqCst);
        Timestamp::from_millis(SystemClock.now().millis() + moved)
    }

    fn running(&self) -> Duration {
        SystemClock.running() + Duration::from_millis(self.passed.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// What every service of a fixture lets through: engineers everything, but `/admin` security only.
pub const POLICY: &str = r#"
@id("engineers-use")
permit (principal in Group::"engineering", action == Action::"open", resource);
@id("security-administers")
permit (principal in Group::"security", action == Action::"manage", resource);
"#;

/// How a door is to be.
#[derive(Default)]
pub struct Plan {
    /// Another database than SQLite in the folder.
    pub database: Option<String>,
    /// Overrides of the configuration: `DOORWARD__…`.
    pub environment: Vec<(&'static str, String)>,
    /// Lines at the top of each `service.toml`.
    pub lines: String,
    /// Tables at the end of each.
    pub tables: String,
    /// More services: name, upstreams (`{raw}` and `{h2c}` are replaced), further top lines.
    pub services: Vec<(&'static str, String, &'static str)>,
    /// Run on the files before the door starts.
    pub change: Option<fn(&std::path::Path)>,
    /// Other chance than the machine's.
    pub entropy: Option<Arc<dyn Entropy>>,
}

/// A door that runs.
pub struct Door {
    pub dir: PathBuf,
    pub address: SocketAddr,
    pub origin: String,
    pub ca_pem: String,
    pub clock: MovedClock,
    pub raw: RawUpstream,
    pub h2c: Http2Upstream,
    pub lever: DevProviderLever,
    pub running: Option<Running>,
    _folder: tempfile::TempDir,
}

/// Someone who has signed in.
pub struct Person {
    pub key_pem: String,
    pub certificate_pem: String,
    pub session: SessionId,
    pub principal: Principal,
}

/// The text of a service's `service.toml`.
pub fn service_toml(upstreams: &str, lines: &str, tables: &str) -> String {
    format!(
        "description = \"Test\"\nupstreams = [{upstreams}]\n{lines}\n\
         [[route]]\nmatch = \"* /**\"\naction = \"open\"\n\
         [[route]]\nmatch = \"* /admin/**\"\naction = \"manage\"\n{tables}\n"
    )
}

/// Prepares everything and starts the door; runs `test`; takes the door down.
pub fn with_door(plan: Plan, test: impl AsyncFnOnce(&Door)) {
    with_stopping_door(plan, async |door| {
        test(&door).await;
        door
    });
}

/// The same for a test that takes the door itself.
pub fn with_stopping_door(plan: Plan, test: impl AsyncFnOnce(Door) -> Door) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let door = open(plan, &runtime).unwrap_or_else(|error| panic!("{error}"));
    let door = runtime.block_on(test(door));
    if let Some(running) = door.running {
        running.stop();
    }
    runtime.shutdown_background();
}

/// Prepares everything and starts the door.
pub fn open(plan: Plan, runtime: &tokio::runtime::Runtime) -> Result<Door, StartError> {
    install_crypto();
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
    let folder = temporary_folder();
    let clock = MovedClock::default();
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let entropy = plan.entropy.clone().unwrap_or_else(|| Arc::new(SystemEntropy));
    let options = DevOptions {
        dir: folder.path().join("door"),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        database: plan.database.clone(),
    };
    let (parts, raw, h2c) = runtime.block_on(async {
        let parts = prepare(&options, &shared, &entropy).await.unwrap();
        (parts, RawUpstream::open().await, Http2Upstream::open().await)
    });
    let Parts { dir, config: path, listener, provider, upstream, .. } = parts;
    let lever = provider.lever();
    runtime.spawn(provider.serve(std::future::pending()));
    drop(upstream);
    write_policies(&dir, &plan, raw.address, h2c.address);
    if let Some(change) = plan.change {
        change(&dir);
    }
    let mut variables = vec![
        ("DOORWARD__SERVER__THREADS".to_owned(), "1".to_owned()),
        ("DOORWARD__SERVER__DRAIN".to_owned(), "0s".to_owned()),
        // It is written whole at the start, by each door of each test.
        ("DOORWARD__AUDIT__SPOOL_MEGABYTES".to_owned(), "8".to_owned()),
        ("DOORWARD__TELEMETRY__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
    ];
    variables.extend(plan.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    // The last of one name holds.
    let environment: config::Environment = variables.into_iter().collect();
    let loaded = config::load(&path, &environment).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    });
    let running = start(Start { config: loaded, environment, listener: Some(listener), clock: shared, entropy })?;
    let ca_pem = std::fs::read_to_string(dir.join("keys/ca.crt")).unwrap();
    Ok(Door {
        dir,
        address: running.address,
        origin: running.origin.clone(),
        ca_pem,
        clock,
        raw,
        h2c,
        lever,
        running: Some(running),
        _folder: folder,
    })
}

fn write_policies(dir: &std::path::Path, plan: &Plan, raw: SocketAddr, h2c: SocketAddr) {
    let policies = dir.join("policies");
    std::fs::remove_dir_all(&policies).unwrap();
    let raw_url = format!("\"http://{raw}\"");
    let h2c_url = format!("\"h2c://{h2c}\"");
    let mut services = vec![
        ("app", raw_url.clone(), ""),
        ("web", raw_url.clone(), "client_certificate = \"optional\""),
        ("rpc", h2c_url.clone(), ""),
    ];
    for (name, upstreams, lines) in &plan.services {
        let upstreams = upstreams.replace("{raw}", &raw_url).replace("{h2c}", &h2c_url);
        services.push((name, upstreams, lines));
    }
    for (name, upstreams, lines) in services {
        let folder = policies.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let text = service_toml(&upstreams, &format!("{lines}\n{}", plan.lines), &plan.tables);
        std::fs::write(folder.join("service.toml"), text).unwrap();
        std::fs::write(folder.join("access.cedar"), POLICY).unwrap();
    }
}

/// A body that a client sends.
pub type ClientBody = UnsyncBoxBody<Bytes, Infallible>;

pub fn full(bytes: impl Into<Bytes>) -> ClientBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn problem(&self) -> serde_json::Value {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn reason(&self) -> String {
        self.problem()["reason"].as_str().unwrap().to_owned()
    }

    pub fn decision(&self) -> DecisionId {
        DecisionId::parse(self.header("doorward-decision").expect("a decision id")).unwrap()
    }
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<ClientBody>),
    Http2(hyper::client::conn::http2::SendRequest<ClientBody>),
}

/// One connection of a client.
pub struct Http {
    sender: Sender,
    host: String,
    port: u16,
}

impl Http {
    /// A client over a connection that is there already.
    pub async fn over(stream: TlsStream<TcpStream>, speaks: Speaks, host: String, port: u16) -> Self {
        let sender = match speaks {
            Speaks::Http1 => {
                let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection.with_upgrades());
                Sender::Http1(sender)
            }
            Speaks::Http2 => {
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Self { sender, host, port }
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let builder = Request::builder().method(method);
        match self.sender {
            Sender::Http1(_) => builder.uri(path).header("host", format!("{}:{}", self.host, self.port)),
            Sender::Http2(_) => builder.uri(format!("https://{}:{}{path}", self.host, self.port)),
        }
    }

    pub async fn send(&mut self, request: Request<ClientBody>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub async fn ask(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Got {
        let mut request = self.request(method, path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(full(body.to_vec())).unwrap()).await.unwrap();
        read(response).await
    }

    pub async fn get(&mut self, path: &str) -> Got {
        self.ask(Method::GET, path, &[], b"").await
    }
}

/// Reads an answer to its end.
pub async fn read(response: Response<Incoming>) -> Got {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    Got { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers }
}

/// Whether HTTP/2 is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
}

pub const BOTH: [Speaks; 2] = [Speaks::Http1, Speaks::Http2];

/// A service's host.
pub fn host(service: &str) -> String {
    if service.is_empty() { DOMAIN.to_owned() } else { format!("{service}.{DOMAIN}") }
}

impl Door {
    pub fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// A client's TLS settings, with a certificate or without.
    pub fn tls(&self, person: Option<&Person>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            roots.add(ca.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder().with_root_certificates(roots);
        match person {
            None => builder.with_no_client_auth(),
            Some(person) => {
                let chain =
                    CertificateDer::pem_slice_iter(person.certificate_pem.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(person.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        }
    }

    pub async fn connect(
        &self,
        service: &str,
        person: Option<&Person>,
        speaks: Speaks,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.tls(person);
        config.alpn_protocols = match speaks {
            Speaks::Http1 => vec![b"http/1.1".to_vec()],
            Speaks::Http2 => vec![b"h2".to_vec()],
        };
        self.connect_with(config, &host(service)).await
    }

    pub async fn connect_with(&self, config: ClientConfig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    pub async fn client(&self, service: &str, person: Option<&Person>, speaks: Speaks) -> Http {
        let stream = self.connect(service, person, speaks).await.unwrap();
        Http::over(stream, speaks, host(service), self.address.port()).await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, service: &str, person: Option<&Person>, speaks: Speaks, path: &str) -> Got {
        self.client(service, person, speaks).await.get(path).await
    }

    /// Sends bytes over TLS as HTTP/1.1 and reads what comes until the end of the connection or
    /// two quiet seconds.
    pub async fn bytes(&self, service: &str, person: Option<&Person>, bytes: &[u8]) -> String {
        let mut stream = self.connect(service, person, Speaks::Http1).await.unwrap();
        // The door may have closed already; what it said counts.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        let mut got = Vec::new();
        let mut buffer = [0u8; 16 * 1024];
        while let Ok(Ok(count)) = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await {
            if count == 0 {
                break;
            }
            got.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&got).into_owned()
    }

    /// Signs in as one of the development provider's people, through all redirects, with a
    /// certificate for the session.
    pub async fn sign_in(&self, name: &str) -> Person {
        self.sign_in_at(name, None).await
    }

    /// The same at one of several providers.
    pub async fn sign_in_at(&self, name: &str, provider: Option<&str>) -> Person {
        let home = temporary_folder();
        let ca = self.dir.join("keys/ca.crt");
        let environment = CliEnvironment::of(&[
            ("DOORWARD_HOME", home.path().to_str().unwrap()),
            ("DOORWARD_SERVER", &self.origin),
            ("DOORWARD_CA", ca.to_str().unwrap()),
        ]);
        let context = Context {
            printer: Printer::new(Format::Table, false, Box::new(std::io::sink()), Box::new(std::io::sink())),
            environment,
            global: GlobalArgs::default(),
            clock: Arc::new(self.clock.clone()),
            entropy: Arc::new(SystemEntropy),
            banner: Default::default(),
        };
        let args = LoginArgs {
            device_code: false,
            print_url: false,
            sign_in_as: Some(name.to_owned()),
            provider: provider.map(str::to_owned),
            device_certificate: None,
            device_key: None,
        };
        if let Err(failure) = doorward::cli::login::run(&context, &args).await {
            panic!("signing in as {name}: {failure:?}");
        }
        let saved = Profile::at(home.path(), "default").unwrap().load().unwrap().unwrap();
        Person {
            key_pem: saved.key_pem,
            certificate_pem: saved.certificate_pem,
            session: SessionId::parse(&saved.record.session).unwrap(),
            principal: Principal::parse(&format!("{}::\"{}\"", saved.record.principal.kind, saved.record.principal.id))
                .unwrap(),
        }
    }

    /// Waits until this node has confirmed who is revoked at the time that the clock was moved to.
    pub async fn settled(&self) {
        for _ in 0..200 {
            if self.running().shared.directory.confirmed_at().plus(Ttl::seconds(10)) > self.clock.now() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the revocation feed is not followed");
    }

    /// The recorded decision of an answer.
    pub async fn recorded(&self, decision: DecisionId) -> Recorded {
        for _ in 0..40 {
            if let Some(found) = self.running().desk.store.decision_fetch(&decision).await.unwrap() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{decision} is not on record");
    }

    /// Ends a session as an administrator would.
    pub async fn revoke(&self, person: &Person) {
        let desk = &self.running().desk;
        let actor = doorward::audit::Actor::default();
        let end = doorward::model::SessionEnd::Revoked;
        doorward::control::session::end(desk, person.session, end, &actor, Some("test"), desk.clock.now())
            .await
            .unwrap();
    }

    /// Another text for a file of the policies.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.dir.join("policies").join(path), text).unwrap();
    }
}
