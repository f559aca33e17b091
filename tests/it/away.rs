//! A database that goes and comes back, with the real binary: decisions in the spool, a kill, a start
//! without it in emergency mode, and everything in the record at the end. PostgreSQL is stopped for
//! real, on a cluster of the test's own; SQLite hangs, and then is no database at all.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use doorward::audit::{EventType, PersonalField};
use doorward::cli::dial;
use doorward::server::dev::door::DOMAIN;
use doorward::store::{Recorded, Store};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use sqlx::AnyConnection;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::crash::{Callers, HUNG, Installation, assert_whole, events, installation, terminate, upstream};
use crate::recorder::hang;
use crate::support::{free_port, install_crypto, temporary_folder};

/// How soon a gateway is itself again once its database is.
const BACK: Duration = Duration::from_secs(15);

/// A database that can be taken away.
pub enum Database {
    Sqlite { url: String, file: PathBuf, holder: Option<AnyConnection> },
    Postgres(Cluster),
}

impl Database {
    pub fn url(&self) -> &str {
        match self {
            Self::Sqlite { url, .. } => url,
            Self::Postgres(cluster) => &cluster.url,
        }
    }

    pub async fn stop(&mut self) {
        match self {
            Self::Sqlite { url, holder, .. } => *holder = Some(hang(url).await),
            Self::Postgres(cluster) => cluster.control(&["-m", "immediate", "stop"]).await,
        }
    }

    /// While no gateway runs: the file of SQLite gives way to something that is none.
    fn unreadable(&mut self) {
        if let Self::Sqlite { file, holder, .. } = self {
            *holder = None;
            std::fs::rename(&*file, file.with_extension("gone")).unwrap();
            std::fs::create_dir(&*file).unwrap();
        }
    }

    pub async fn start(&mut self) {
        match self {
            Self::Sqlite { file, .. } => {
                std::fs::remove_dir(&*file).unwrap();
                std::fs::rename(file.with_extension("gone"), &*file).unwrap();
            }
            Self::Postgres(cluster) => cluster.start().await,
        }
    }
}

/// A PostgreSQL server of this test.
pub struct Cluster {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    url: String,
}

impl Cluster {
    /// A server that runs, unless PostgreSQL is not installed.
    pub async fn new() -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut programs: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
        programs.retain(|folder| folder.join("pg_ctl").is_file());
        let Some(programs) = programs.into_iter().max() else {
            assert!(std::env::var_os("DOORWARD_TEST_REQUIRE_POSTGRES").is_none(), "PostgreSQL's programs are missing");
            println!("note: PostgreSQL is left out, since its programs are not installed");
            return None;
        };
        let (folder, port) = (temporary_folder(), free_port());
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        let cluster = Self { programs, folder, port, url };
        let owned = Command::new("chown").arg("nobody").arg(cluster.folder.path()).output().await.unwrap();
        let data = cluster.data();
        let made = ["-D", data.to_str().unwrap(), "-U", "postgres", "-A", "trust", "--no-sync"];
        let done = cluster.run("initdb", &made).await;
        assert!(done.status.success(), "{owned:?} {done:?}");
        cluster.start().await;
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The server and its tools refuse to run as root.
    async fn run(&self, program: &str, arguments: &[&str]) -> std::process::Output {
        let program = self.programs.join(program);
        let root = Command::new("id").arg("-u").output().await.unwrap().stdout == b"0\n";
        let mut command = if root { Command::new("runuser") } else { Command::new(&program) };
        if root {
            command.args(["-u", "nobody", "--"]).arg(&program);
        }
        command.args(arguments).current_dir("/").stdin(std::process::Stdio::null()).output().await.unwrap()
    }

    async fn control(&self, arguments: &[&str]) {
        let (data, log) = (self.data(), self.folder.path().join("log"));
        let mut all = vec!["-D", data.to_str().unwrap(), "-l", log.to_str().unwrap(), "-w"];
        all.extend(arguments);
        let done = self.run("pg_ctl", &all).await;
        assert!(done.status.success(), "{done:?}\n{}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    async fn start(&self) {
        let options = format!("-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories=", self.port);
        self.control(&["-o", &options, "start"]).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // pg_ctl stops by the process id of the data folder, and may be run as root for that.
        let pid = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            let _ = std::process::Command::new("kill").args(["-QUIT", pid]).output();
        }
    }
}

/// One GET of the control host: status, `Retry-After`, body.
async fn control(installation: &Installation, path: &str) -> (StatusCode, Option<String>, String) {
    let ca = std::fs::read_to_string(installation.folder.path().join("keys/ca.crt")).unwrap();
    let (tls, port) = (dial::tls_settings(Some(&ca), None).unwrap(), installation.door.port());
    let stream = dial::connect(DOMAIN, port).await.unwrap();
    let stream = dial::secure(stream, DOMAIN, port, tls).await.unwrap();
    let mut tasks = JoinSet::new();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tasks.spawn(connection);
    let request = Request::get(path).header("host", format!("{DOMAIN}:{port}"));
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let status = answer.status();
    let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, retry, String::from_utf8_lossy(&body).into_owned())
}

/// Waits for what the plain listener says of itself.
pub async fn told(installation: &Installation, path: &str, words: &[&str]) -> Duration {
    let began = Instant::now();
    loop {
        let said = installation.telemetry(path).await.map(|(_, body)| body).unwrap_or_default();
        if words.iter().all(|word| said.contains(word)) {
            return began.elapsed();
        }
        assert!(began.elapsed() < BACK, "{words:?} is not in\n{said}\n{}", installation.told());
        sleep(Duration::from_millis(20)).await;
    }
}

pub async fn ask(callers: &Callers) -> Option<StatusCode> {
    let mut tasks = JoinSet::new();
    let mut sender = callers.connect(&mut tasks).await.unwrap();
    callers.ask(&mut sender).await
}

async fn goes_and_comes(mut database: Database) {
    let mut tasks = JoinSet::new();
    let (upstream, served) = upstream(&mut tasks).await;
    let installation = installation(database.url(), upstream, &mut tasks).await;
    let (mut child, _) = installation.start().await;
    let callers = Callers::new(installation.sign_in().await, installation.door.port());
    assert_eq!(ask(&callers).await, Some(StatusCode::OK));

    database.stop().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        let began = Instant::now();
        assert_eq!(ask(&callers).await, Some(StatusCode::OK), "{}", installation.told());
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    told(&installation, "/readyz", &["\"degraded\"", "\"spool\"", "\"normal\""]).await;
    let (status, said) = installation.telemetry("/readyz").await.unwrap();
    assert_eq!(status, StatusCode::OK, "it takes requests: a load balancer must not take it away: {said}");
    told(&installation, "/metrics", &["doorward_audit_state{state=\"spool\"} 1"]).await;

    child.kill().await.unwrap();
    database.unreadable();
    child = installation.spawn();
    let up = told(&installation, "/readyz", &["\"degraded\"", "\"emergency\""]).await;
    assert_eq!(installation.telemetry("/readyz").await.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&callers).await, Some(StatusCode::SERVICE_UNAVAILABLE), "{}", installation.told());
    let (status, retry, page) = control(&installation, "/").await;
    assert_eq!((status, retry.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("2")), "{page}");
    assert!(page.contains("breakglass"), "{page}");
    assert_eq!(control(&installation, "/oauth2/jwks").await.0, StatusCode::OK);
    told(&installation, "/metrics", &["doorward_audit_state{state=\"spool\"} 1"]).await;

    database.start().await;
    let back = told(&installation, "/readyz", &["\"ready\"", "\"normal\""]).await;
    told(&installation, "/metrics", &["doorward_audit_spool_events 0", "doorward_audit_lost_total 0"]).await;
    assert_eq!(ask(&callers).await, Some(StatusCode::OK), "the session is known again\n{}", installation.told());
    terminate(&installation, &mut child).await;
    println!("slowest without the database {slowest:?}, emergency mode after {up:?}, back after {back:?}");

    let store = Store::open(database.url()).unwrap();
    let events = events(&store).await;
    assert_recorded(&events, &served.lock().unwrap());
    assert_whole(&installation, &store, &events).await;
}

fn assert_recorded(events: &[Recorded], served: &HashSet<String>) {
    let of = |kind| events.iter().filter(move |event| event.clear().kind == kind);
    let allowed: HashSet<&str> =
        of(EventType::DecisionAllow).filter_map(|event| event.personal(PersonalField::Path)).collect();
    let missing: Vec<_> = served.iter().filter(|path| !allowed.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "served and not on record: {missing:?}");
    assert_eq!(of(EventType::AuditSpoolMerged).count(), 1);
    let merge = of(EventType::AuditSpoolMerged).next().unwrap();
    // Forty decisions, what ended of them before the kill, the emergency start and its refusals.
    assert!(merge.body["data"]["count"].as_u64().unwrap() > 40, "{}", merge.body);
    let started: Vec<_> =
        of(EventType::NodeStarted).filter(|event| !event.body["data"]["emergency"].is_null()).collect();
    assert_eq!(started.len(), 1);
    assert!(of(EventType::DecisionDeny).any(|event| event.body["reason"] == "stale"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_with_postgresql_stopped_nothing_is_lost_and_all_is_merged_when_it_is_back() {
    install_crypto();
    if let Some(cluster) = Cluster::new().await {
        goes_and_comes(Database::Postgres(cluster)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_with_sqlite_hanging_and_then_unreadable_nothing_is_lost_and_all_is_merged_when_it_is_back() {
    install_crypto();
    let folder = temporary_folder();
    let file = folder.path().join("away.db");
    let url = format!("sqlite://{}", file.display());
    goes_and_comes(Database::Sqlite { url, file, holder: None }).await;
}

/// The first start of an installation has nothing to go by but its database.
#[tokio::test]
async fn a_first_start_without_the_database_is_an_error() {
    install_crypto();
    let mut tasks = JoinSet::new();
    let (upstream, _) = upstream(&mut tasks).await;
    let nobody = format!("postgres://postgres@127.0.0.1:{}/none", free_port());
    let installation = installation(&nobody, upstream, &mut tasks).await;
    let ended = tokio::time::timeout(HUNG, installation.spawn().wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(1));
    assert!(installation.told().contains("preparing the database"), "{}", installation.told());
    assert!(!Path::new(&installation.folder.path().join("pseudonym.sealed")).exists());
}
