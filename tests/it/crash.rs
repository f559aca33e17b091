//! A gateway that is killed under load (fault F1): the real binary, SIGKILL at a moment that nobody
//! chose, and the record compared with what the upstream itself remembers.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use doorward::audit::{EventType, PersonalField};
use doorward::cli::dial::{self, DialError, Identity};
use doorward::cli::profile::Profile;
use doorward::config::{self, Config};
use doorward::control::record;
use doorward::credential::seal::Sealer;
use doorward::model::{Clock, Entropy, NodeId};
use doorward::server::ambient::{SystemClock, SystemEntropy};
use doorward::server::dev::door::{DOMAIN, DevOptions, prepare};
use doorward::store::{EVENT_PAGE_MAX, EventFilter, Recorded, Store};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{databases, install_crypto, temporary_folder};

const ROUNDS: usize = 3;
const CALLERS: usize = 8;
/// How soon a restarted gateway has to be ready.
const READY: Duration = Duration::from_secs(5);
/// What never takes this long has hung.
pub const HUNG: Duration = Duration::from_secs(15);
/// The program of a build, with nothing of this process's environment.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_doorward");

/// The paths that the upstream was asked for: the truth of this test.
pub type Served = Arc<Mutex<HashSet<String>>>;

/// An upstream that remembers each path before it answers. It lives as long as `tasks`.
pub async fn upstream(tasks: &mut JoinSet<()>) -> (SocketAddr, Served) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Served::default());
    let memory = Arc::clone(&served);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let memory = Arc::clone(&memory);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                memory.lock().unwrap().insert(request.uri().path().to_owned());
                async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"served\n")))) }
            });
            connections.spawn(async move {
                // A connection that the killed gateway leaves half-way is what this is about.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, served)
}

/// A folder with an installation, and how to reach what it will run.
pub struct Installation {
    pub folder: tempfile::TempDir,
    pub path: PathBuf,
    pub config: Config,
    pub door: SocketAddr,
}

impl Installation {
    /// `doorward serve` on this installation, its log in the folder.
    pub fn spawn(&self) -> Child {
        self.spawn_with(&[])
    }

    /// The same with these variables in its environment.
    pub fn spawn_with(&self, environment: &[(&str, &str)]) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        Command::new(PROGRAM)
            .arg("serve")
            .arg("--config")
            .arg(&self.path)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    pub fn told(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Starts it and gives how long it took until it said that it is ready.
    pub async fn start(&self) -> (Child, Duration) {
        let (began, mut child) = (Instant::now(), self.spawn());
        while began.elapsed() < HUNG {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("it did not start, {status}:\n{}", self.told());
            }
            if self.ready().await {
                return (child, began.elapsed());
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("it is not ready after {HUNG:?}:\n{}", self.told());
    }

    pub async fn ready(&self) -> bool {
        let said = self.telemetry("/readyz").await;
        // It takes requests into the spool, too; that one is `degraded`.
        said.is_some_and(|(status, body)| status == StatusCode::OK && body.contains("\"ready\""))
    }

    /// What the plain listener says.
    pub async fn telemetry(&self, path: &str) -> Option<(StatusCode, String)> {
        let telemetry = self.config.telemetry.listen.unwrap();
        let stream = TcpStream::connect(telemetry).await.ok()?;
        let mut tasks = JoinSet::new();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tasks.spawn(connection);
        let request = Request::get(path).header("host", telemetry.to_string());
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.ok()?;
        let status = answer.status();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Signs in as alice with the program, and gives what her connections show and trust.
    pub async fn sign_in(&self) -> Arc<ClientConfig> {
        let home = self.folder.path().join("home");
        let output = Command::new(PROGRAM)
            .args(["login", "--as", "alice"])
            .env_clear()
            .env("DOORWARD_HOME", &home)
            .env("DOORWARD_SERVER", format!("https://{DOMAIN}:{}", self.door.port()))
            .env("DOORWARD_CA", self.folder.path().join("keys/ca.crt"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(HUNG, output).await.expect("signing in takes no time").unwrap();
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.told());
        let saved = Profile::at(&home, "default").unwrap().load().unwrap().expect("alice is signed in");
        let identity = Identity { certificate_pem: saved.certificate_pem, key_pem: saved.key_pem };
        dial::tls_settings(saved.ca_pem.as_deref(), Some(&identity)).unwrap()
    }
}

/// Everything that `doorward dev` would make for this database but the door, with the provider
/// served in `tasks` and `upstream` behind the sample service.
pub async fn installation(database: &str, upstream: SocketAddr, tasks: &mut JoinSet<()>) -> Installation {
    let folder = temporary_folder();
    let options = DevOptions {
        dir: folder.path().to_path_buf(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        database: Some(database.to_owned()),
    };
    let (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let parts = prepare(&options, &clock, &entropy).await.unwrap();
    drop(parts.listener);
    tasks.spawn(parts.provider.serve(std::future::pending()));
    let service = folder.path().join("policies/ops-api/service.toml");
    // The sample's rate is one for people; here it would leave the gateway idle.
    replace(
        &service,
        &[
            (&parts.upstream.address().to_string(), &upstream.to_string()),
            ("requests_per_second = 100\n", "requests_per_second = 100000\n"),
            ("burst = 200\n", "burst = 100000\n"),
        ],
    );
    let config = config::load(&parts.config, &config::Environment::default()).unwrap();
    Installation { folder, path: parts.config, config, door: parts.listen }
}

fn replace(path: &Path, pairs: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(path).unwrap();
    for (from, to) in pairs {
        assert!(text.contains(from), "`{from}` is missing in\n{text}");
        text = text.replace(from, to);
    }
    std::fs::write(path, text).unwrap();
}

/// Who asks: alice, over as many connections as wanted. Each request has a path of its own.
pub struct Callers {
    pub tls: Arc<ClientConfig>,
    port: u16,
    next: AtomicU64,
    /// Paths that were answered with 200.
    pub answered: Mutex<HashSet<String>>,
    /// The gateway is about to go: from here on a broken connection is no surprise.
    over: AtomicBool,
}

impl Callers {
    /// Callers with what `sign_in` gave.
    pub fn new(tls: Arc<ClientConfig>, port: u16) -> Self {
        Self { tls, port, next: AtomicU64::new(0), answered: Mutex::default(), over: AtomicBool::new(false) }
    }

    pub async fn connect(&self, tasks: &mut JoinSet<()>) -> Result<SendRequest<Empty<Bytes>>, DialError> {
        let host = format!("ops-api.{DOMAIN}");
        let stream = dial::connect(&host, self.port).await?;
        let stream = dial::secure(stream, &host, self.port, Arc::clone(&self.tls)).await?;
        let Ok((sender, connection)) = handshake(TokioIo::new(stream)).await else { unreachable!("it sends nothing") };
        tasks.spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// One request, answered whole, or none.
    pub async fn ask(&self, sender: &mut SendRequest<Empty<Bytes>>) -> Option<StatusCode> {
        let path = format!("/echo/{}", self.next.fetch_add(1, Ordering::SeqCst));
        let request = Request::get(&path).header("host", format!("ops-api.{DOMAIN}:{}", self.port));
        let answer = sender.send_request(request.body(Empty::new()).unwrap()).await.ok()?;
        let status = answer.status();
        answer.into_body().collect().await.ok()?;
        if status == StatusCode::OK {
            self.answered.lock().unwrap().insert(path);
        }
        Some(status)
    }

    /// Asks one request after the other until the gateway goes.
    async fn ask_on(&self) {
        let mut tasks = JoinSet::new();
        while !self.over.load(Ordering::SeqCst) {
            let mut sender = match self.connect(&mut tasks).await {
                Ok(sender) => sender,
                Err(_) if self.over.load(Ordering::SeqCst) => return,
                Err(error) => panic!("{error}"),
            };
            while self.ask(&mut sender).await.is_some() {}
        }
    }

    fn count(&self) -> usize {
        self.answered.lock().unwrap().len()
    }
}

/// Lets all callers ask at once and kills the gateway in the midst of it.
async fn kill_under_load(callers: &Arc<Callers>, child: &mut Child) {
    callers.over.store(false, Ordering::SeqCst);
    let mut asking = JoinSet::new();
    for _ in 0..CALLERS {
        let callers = Arc::clone(callers);
        asking.spawn(async move { callers.ask_on().await });
    }
    let [first, second, ..] = SystemEntropy.bytes_32();
    sleep(Duration::from_millis(800 + u64::from(u16::from_be_bytes([first, second])) % 900)).await;
    assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    callers.over.store(true, Ordering::SeqCst);
    child.kill().await.unwrap();
    while let Some(done) = timeout(HUNG, asking.join_next()).await.expect("callers end with the gateway") {
        done.unwrap();
    }
}

pub async fn terminate(installation: &Installation, child: &mut Child) {
    let id = child.id().expect("it runs").to_string();
    let told = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id]).status().await.unwrap();
    assert!(told.success());
    let Ok(status) = timeout(HUNG, child.wait()).await else {
        panic!("it does not end after {HUNG:?}:\n{}", installation.told())
    };
    assert!(status.unwrap().success(), "{}", installation.told());
}

/// The whole record, read page by page.
pub async fn events(store: &Store) -> Vec<Recorded> {
    let mut all: Vec<Recorded> = Vec::new();
    loop {
        let filter = EventFilter { before: all.last().map(|event| event.clear().id), ..EventFilter::default() };
        let page = store.event_list(&filter, EVENT_PAGE_MAX).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Nothing twice, no gap in any log, every leaf as the event that it stands for.
pub async fn assert_whole(installation: &Installation, store: &Store, events: &[Recorded]) {
    let (mut ids, mut logs) = (HashSet::new(), BTreeMap::<String, Vec<i64>>::new());
    for event in events {
        let id = event.clear().id.to_string();
        event.verify().unwrap_or_else(|error| panic!("{id}: {error}"));
        let seq = event.seq.unwrap_or_else(|| panic!("{id} has no number after an orderly end"));
        assert!(ids.insert(id.clone()), "{id} is there twice");
        logs.entry(event.log.to_string()).or_default().push(seq);
    }
    for (log, numbers) in &mut logs {
        numbers.sort_unstable();
        let expected: Vec<i64> = (0..).take(numbers.len()).collect();
        assert_eq!(*numbers, expected, "log {log} has a gap or a number twice");
    }
    let node = std::fs::read_to_string(installation.folder.path().join("node.id")).unwrap();
    let node = NodeId::parse(node.trim()).unwrap();
    assert_eq!(logs.keys().collect::<Vec<_>>(), [&node.to_string()], "one node, restarted, keeps its log");
    let sealer = Sealer::new(installation.config.keys.key_encryption_key.expose()).unwrap();
    let log = record::open(store, &sealer, node, SystemClock.now(), Arc::new(SystemEntropy)).await.unwrap();
    assert_eq!(store.log_size(log).await.unwrap(), i64::try_from(events.len()).unwrap(), "the end of the log is there");
}

async fn every_served_request_is_recorded(database: &str) {
    let mut tasks = JoinSet::new();
    let (upstream, served) = upstream(&mut tasks).await;
    let installation = installation(database, upstream, &mut tasks).await;
    let (mut child, _) = installation.start().await;
    let callers = Arc::new(Callers::new(installation.sign_in().await, installation.door.port()));
    for round in 1..=ROUNDS {
        let before = callers.count();
        kill_under_load(&callers, &mut child).await;
        let answered = callers.count() - before;
        assert!(answered >= 2 * CALLERS, "round {round}: {answered} answers are no load:\n{}", installation.told());
        let took;
        (child, took) = installation.start().await;
        println!("round {round}: {answered} answered before the kill, ready again after {took:?}");
        assert!(took <= READY, "round {round}: ready again only after {took:?}");
        let mut connection = JoinSet::new();
        let mut sender = callers.connect(&mut connection).await.unwrap();
        assert_eq!(callers.ask(&mut sender).await, Some(StatusCode::OK), "round {round}:\n{}", installation.told());
    }
    terminate(&installation, &mut child).await;

    let store = Store::open(database).unwrap();
    let events = events(&store).await;
    let allowed: HashSet<&str> = events
        .iter()
        .filter(|event| event.clear().kind == EventType::DecisionAllow)
        .filter_map(|event| event.personal(PersonalField::Path))
        .collect();
    let served = served.lock().unwrap().clone();
    let missing: Vec<_> = served.iter().filter(|path| !allowed.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "served and not on record: {missing:?} of {}", served.len());
    let answered = callers.answered.lock().unwrap().clone();
    assert!(answered.is_subset(&served), "who was answered was served");
    println!("{} served, {} answered, {} allowed on record", served.len(), answered.len(), allowed.len());
    assert_whole(&installation, &store, &events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_every_request_that_the_upstream_served_is_in_the_record_after_kill_9() {
    install_crypto();
    for database in databases() {
        every_served_request_is_recorded(&database).await;
    }
}
