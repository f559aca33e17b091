//! What many tests need: the crypto providers, a clock that is moved by hand, chance from a seed,
//! a temporary folder, a free port, and fresh databases of both engines.
//!
//! INVARIANT: nothing here is shared between two tests but the process; each call that gives a
//! folder, port or database gives a new one.
#![allow(dead_code, reason = "a tool box: each test takes what it needs")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use doorward::control::session::NewSession;
use doorward::model::{Clock, Entropy, Principal, SessionKind, Timestamp, Ttl};
use sha2::{Digest, Sha256};

use crate::postgres;

/// Installs aws-lc as the provider of rustls and of jsonwebtoken, once in this process.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that one is installed already, which is all that is wanted.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    });
}

/// A clock that stands still until a test moves it, and the one that nobody sets, which goes with it
/// but not back. Clones show the same time.
#[derive(Debug, Clone)]
pub struct TestClock {
    shown: Arc<AtomicI64>,
    running: Arc<AtomicI64>,
}

impl TestClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { shown: Arc::new(AtomicI64::new(now.millis())), running: Arc::default() }
    }

    /// A clock that stands at 2026-11-22T10:00:00Z, a Sunday.
    pub fn new() -> Self {
        Self::at(Timestamp::from_seconds(1_795_341_600))
    }

    /// Moves the time forward by `length`.
    pub fn advance(&self, length: Ttl) {
        self.running.fetch_add(length.as_millis(), Ordering::SeqCst);
        self.shown.fetch_add(length.as_millis(), Ordering::SeqCst);
    }

    /// Lets time pass until then; what is earlier is a step back.
    pub fn set(&self, now: Timestamp) {
        let before = self.shown.swap(now.millis(), Ordering::SeqCst);
        self.running.fetch_add((now.millis() - before).max(0), Ordering::SeqCst);
    }

    /// Sets the clock as an administrator does, forward or back: no time passes.
    pub fn step(&self, millis: i64) {
        self.shown.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.shown.load(Ordering::SeqCst))
    }

    fn running(&self) -> Duration {
        Duration::from_millis(self.running.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// Bytes that follow from a seed: SHA-256 over seed and a counter. The same seed gives the same
/// bytes, whatever the sizes of the pieces that are asked for.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    stream: Mutex<Stream>,
}

#[derive(Debug)]
struct Stream {
    block: u64,
    left: Vec<u8>,
}

impl SeededEntropy {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, stream: Mutex::new(Stream { block: 0, left: Vec::new() }) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, target: &mut [u8]) {
        let mut stream = self.stream.lock().unwrap();
        for byte in target {
            if stream.left.is_empty() {
                let mut hash = Sha256::new();
                hash.update(self.seed.to_be_bytes());
                hash.update(stream.block.to_be_bytes());
                stream.block += 1;
                stream.left = hash.finalize().to_vec();
            }
            *byte = stream.left.pop().unwrap();
        }
    }
}

/// A folder that goes when the value goes.
pub fn temporary_folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("doorward-test-").tempdir().unwrap()
}

/// Copies what is in a folder, with all below it, into another.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let source = entry.unwrap().path();
        let target = to.join(source.file_name().unwrap());
        if source.is_dir() {
            copy_folder(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

/// A port of the loopback interface that was free a moment ago. Where a listener can be asked for
/// port 0, do that instead: this one can be lost to another process.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// One fresh, empty database of each engine: always SQLite, and PostgreSQL where
/// `DOORWARD_TEST_POSTGRES` names a server. May be called inside or outside a runtime.
///
/// # Panics
/// Without that server when `DOORWARD_TEST_REQUIRE_POSTGRES=1`, as `tests/run` sets it.
pub fn databases() -> Vec<String> {
    let mut urls = vec![sqlite_database()];
    urls.extend(postgres::fresh_database());
    urls
}

/// The URL of a SQLite file that does not exist yet, in a folder of its own.
pub fn sqlite_database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    // Under the build's folder and not removed at the end, so that a failed test can be looked at.
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sqlite");
    std::fs::create_dir_all(&root).unwrap();
    sweep_once(&root);
    let folder =
        tempfile::Builder::new().prefix(&format!("{}-{number}-", std::process::id())).tempdir_in(&root).unwrap().keep();
    format!("sqlite://{}", folder.join("doorward.db").display())
}

/// Removes what runs of more than an hour ago left behind.
fn sweep_once(root: &Path) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for entry in std::fs::read_dir(root).unwrap().flatten() {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
            if age.is_some_and(|age| age.as_secs() > 3600) {
                // Another test process may have been first.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_bytes_in_pieces_of_any_size() {
    let (whole, pieces) = (SeededEntropy::new(7), SeededEntropy::new(7));
    let mut expected = [0u8; 100];
    whole.fill(&mut expected);
    let mut got = Vec::new();
    for size in [1, 31, 33, 35] {
        let mut piece = vec![0u8; size];
        pieces.fill(&mut piece);
        got.extend(piece);
    }
    assert_eq!(expected.to_vec(), got);
    assert_ne!(SeededEntropy::new(8).bytes_32(), SeededEntropy::new(7).bytes_32());
}

#[test]
fn each_test_database_is_a_new_one() {
    let (first, second) = (databases(), databases());
    assert_eq!(first.len(), second.len());
    for (a, b) in first.iter().zip(&second) {
        assert_ne!(a, b);
    }
}

/// A session to be, of somebody who has just proved themselves and of whom nothing else is known.
pub fn new_session(kind: SessionKind, principal: Principal, now: Timestamp) -> NewSession {
    NewSession {
        kind,
        principal,
        email: None,
        email_verified: false,
        name: None,
        groups: Vec::new(),
        authenticated_at: now,
        amr: Vec::new(),
        device: None,
        link: None,
        ends_by: None,
        claims: BTreeMap::new(),
        cookie: None,
    }
}
