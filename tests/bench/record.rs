//! The record at scale, without a door: exports of as many events as one likes are made, and events are
//! appended to a database and read back out of it. `tests/bench/record` runs it and prints figures.
//!
//! Each subcommand prints one JSON object on standard output.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measuring program of our own, stopped by its first surprise"
)]

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, Subcommand};
use data_encoding::HEXLOWER;
use doorward::audit::checkpoint::{Checkpoint, LogName, installation_name, origin};
use doorward::audit::evidence::{
    Evidence, Extent, FileSum, Head, Manifest, RangeProof, StatementText, end_line, file, proofs_text,
};
use doorward::audit::filter::Filter;
use doorward::audit::installation::{LogKey, Statement, StatementKind};
use doorward::audit::line::line_of;
use doorward::audit::merkle::{Frontier, leaf_hash};
use doorward::audit::note::NoteSigner;
use doorward::audit::{Event, EventType, Leaf, Outcome, Pseudonyms, RequestFacts, Sealed, Sealing};
use doorward::control::audit::export;
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::credential::seal::Sealer;
use doorward::model::{
    Clock, DecisionId, Entropy, EventId, GrantId, NodeId, Principal, Secret, ServiceName, SessionId, Thumbprint,
    Timestamp,
};
use doorward::server::ambient::{SystemClock, SystemEntropy};
use doorward::store::Store;
use serde_json::json;
use sha2::{Digest, Sha256};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What `cargo bench` adds.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Writes `OUT/evidence`, `OUT/export.jsonl`, `OUT/root.key` and `OUT/witness.checkpoints`.
    Generate {
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes a database on a server of PostgreSQL, and prints its URL.
    Fresh {
        #[arg(long)]
        postgres: String,
    },
    /// Appends events to a fresh database, lets its tree grow, and reads all of it as an export.
    Database {
        #[arg(long)]
        url: String,
        #[arg(long, default_value_t = 50_000)]
        events: u64,
        /// Events of one transaction.
        #[arg(long, default_value_t = 256)]
        batch: u64,
    },
}

/// What happens on a working day: requests and their ends, a few refusals, sign-ins, tokens.
struct Day {
    sealing: Sealing,
    began: Timestamp,
}

impl Day {
    fn new() -> Self {
        let sealing = Sealing::new(Pseudonyms::new(&Secret::new(vec![7; 32])), Arc::new(SystemEntropy));
        Self { sealing, began: Timestamp::from_millis(1_795_341_600_000) }
    }

    fn event(&self, number: u64) -> Sealed {
        let time = Timestamp::from_millis(self.began.millis() + i64::try_from(number).unwrap());
        let (kind, outcome) = match number % 100 {
            0..=46 => (EventType::DecisionAllow, Outcome::Success),
            47..=93 => (EventType::ExchangeEnded, Outcome::Success),
            94..=97 => (EventType::DecisionDeny, Outcome::Denied),
            98 => (EventType::TokenIssued, Outcome::Success),
            _ => (EventType::SessionStart, Outcome::Success),
        };
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&time.millis().to_be_bytes()[2..]);
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        let mut event = Event::new(EventId::from_bytes(bytes), time, kind, outcome);
        let person = number % 500;
        event.actor.principal = Principal::user("corporate", &format!("00u{person:08}"));
        event.actor.email = Some(format!("person.{person}@example.com").into());
        event.actor.address = Some(format!("10.20.{}.{}", person / 250, person % 250).parse().unwrap());
        event.actor.session = Some(SessionId::from_bytes([u8::try_from(person % 250).unwrap(); 16]));
        event.actor.certificate = Some(Thumbprint::from_bytes([3; 32]));
        event.service =
            Some(ServiceName::parse(["ops-api", "billing", "deploy"][usize::try_from(number % 3).unwrap()]).unwrap());
        match kind {
            EventType::DecisionAllow | EventType::DecisionDeny => {
                event.action = Some("deploy".into());
                event.resource = Some("Service::\"ops-api\"".into());
                event.decision = Some(DecisionId::from_bytes(bytes));
                event.grant = number.is_multiple_of(7).then(|| GrantId::from_bytes([5; 16]));
                event.request = Some(RequestFacts {
                    method: "POST".into(),
                    host: "ops-api.example.com".into(),
                    path: format!("/v1/deployments/staging/{number}").into(),
                    protocol: "h2",
                });
                event.policy_version =
                    Some("sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into());
                event.trace_id = Some("0af7651916cd43dd8448eb211c80319c".into());
                event = event.with("policies", vec!["deploy.staging"]);
            }
            EventType::ExchangeEnded => {
                event.decision = Some(DecisionId::from_bytes(bytes));
                event.trace_id = Some("0af7651916cd43dd8448eb211c80319c".into());
                event = event.with("status", 200).with("duration_ms", 12).with("bytes_in", 120).with("bytes_out", 4096);
            }
            _ => {
                event.resource = Some("ses_144gi289144gi289144gi28914".into());
                event = event.with("groups", vec!["engineering", "release-managers"]);
            }
        }
        self.sealing.seal(&event)
    }
}

/// A file that is summed while it is written.
struct Summed {
    out: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Summed {
    fn new(path: &Path) -> Self {
        Self { out: BufWriter::with_capacity(1 << 20, File::create(path).unwrap()), hash: Sha256::new(), bytes: 0 }
    }

    fn write(&mut self, text: &str) {
        self.hash.update(text.as_bytes());
        self.bytes += text.len() as u64;
        self.out.write_all(text.as_bytes()).unwrap();
    }

    fn end(mut self, name: &str) -> FileSum {
        self.out.flush().unwrap();
        FileSum { name: name.to_owned(), bytes: self.bytes, sha256: HEXLOWER.encode(&self.hash.finalize()) }
    }
}

fn generate(events: u64, out: &Path) -> serde_json::Value {
    let folder = out.join("evidence");
    fs::create_dir_all(&folder).unwrap();
    let began = Instant::now();
    let (node, day) = (NodeId::from_bytes([1; 16]), Day::new());
    let seed = Secret::new(vec![5; 32]);
    let installation = installation_name(NoteSigner::of_seed("doorward", &seed).unwrap().key().public());
    let root = NoteSigner::of_seed(&installation, &seed).unwrap();
    let root_log = NoteSigner::of_seed(&origin(&installation, LogName::Installation), &seed).unwrap();
    let log = NoteSigner::of_seed(&origin(&installation, LogName::Node(node)), &Secret::new(vec![6; 32])).unwrap();

    let mut tree = Frontier::default();
    // The installation log is told of a size each ten minutes; here it is each ten thousand events.
    let mut statements: Vec<String> = Vec::new();
    let mut state = |kind, tree: &Frontier, key: Option<LogKey>| {
        let seq = statements.len() as u64;
        let statement = Statement { seq, time: day.began, kind, log: node, size: tree.size(), root: tree.root(), key };
        statements.push(statement.leaf());
    };
    state(StatementKind::Opened, &tree, Some(LogKey::certify(&root, node, log.key().clone())));
    let mut lines = Summed::new(&folder.join(file::EVENTS));
    for number in 0..events {
        let sealed = day.event(number);
        let leaf = sealed.leaf(&node, i64::try_from(number).unwrap());
        tree.push(leaf_hash(&leaf));
        let text = line_of(std::str::from_utf8(&leaf).unwrap(), &Leaf::parse(&leaf).unwrap(), &sealed);
        lines.write(&text);
        lines.write("\n");
        if (number + 1).is_multiple_of(10_000) {
            state(StatementKind::Sized, &tree, None);
        }
    }
    let mut sums = vec![lines.end(file::EVENTS)];
    let mut told = Frontier::default();
    statements.iter().for_each(|leaf| told.push(leaf_hash(leaf.as_bytes())));
    let signed = |signer: &NoteSigner, tree: &Frontier| {
        Checkpoint { origin: signer.key().name().to_owned(), size: tree.size(), root: tree.root() }.sign(signer)
    };
    let checkpoints = vec![signed(&root_log, &told), signed(&log, &tree)];
    let extent = Extent { log: LogName::Node(node).to_string(), size: events, from: 0, to: events, filtered: None };
    let evidence = Evidence {
        statement: StatementText::new(day.began, &Filter::default(), root.key(), vec![extent]).sign(&root),
        checkpoints: checkpoints.clone(),
        installation: statements,
        proofs: vec![RangeProof::new(node, &[], &[])],
    };
    let installation: String = evidence.installation.iter().flat_map(|leaf| [leaf.as_str(), "\n"]).collect();
    let texts = [
        (file::CHECKPOINTS, checkpoints.concat()),
        (file::INSTALLATION, installation),
        (file::PROOFS, proofs_text(&evidence.proofs)),
        (file::README, "made by tests/bench/record\n".to_owned()),
    ];
    for (name, text) in texts {
        let mut written = Summed::new(&folder.join(name));
        written.write(&text);
        sums.push(written.end(name));
    }
    let manifest = Manifest { v: 1, statement: evidence.statement.clone(), files: sums.clone() };
    fs::write(folder.join(file::MANIFEST), manifest.text()).unwrap();
    let seconds = began.elapsed().as_secs_f64();

    let mut whole = BufWriter::new(File::create(out.join("export.jsonl")).unwrap());
    writeln!(whole, "{}", Head { evidence }.line()).unwrap();
    let mut copied = BufReader::new(File::open(folder.join(file::EVENTS)).unwrap());
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = copied.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        whole.write_all(&buffer[..count]).unwrap();
    }
    writeln!(whole, "{}", end_line(events)).unwrap();
    whole.flush().unwrap();
    fs::write(out.join("root.key"), format!("{}\n", root.key())).unwrap();
    fs::write(out.join("witness.checkpoints"), checkpoints.concat()).unwrap();
    json!({ "events": events, "bytes": sums[0].bytes, "seconds": seconds, "per_second": events as f64 / seconds })
}

async fn database(url: &str, events: u64, batch: u64) -> serde_json::Value {
    let (clock, entropy) = (SystemClock, SystemEntropy);
    let sealer = Sealer::new(&[9; 32]).unwrap();
    let store = Store::open(url).unwrap();
    store.migrate().await.unwrap();
    let day = Day::new();
    let sealing = Arc::new(Sealing::new(Pseudonyms::new(&Secret::new(vec![7; 32])), Arc::new(SystemEntropy)));
    let node = NodeId::from_bytes(entropy.bytes_32()[..16].try_into().unwrap());
    store.log_open(node, sealing, clock.now()).await.unwrap();
    let root = Root::ensure(&store, &sealer, clock.now(), &entropy).await.unwrap();
    let mut tree = LogTree::open(&store, &sealer, &root, clock.now(), &entropy).await.unwrap();
    let log = store.own_log().unwrap();
    let mut appending = 0.0;
    let mut at = 0;
    while at < events {
        let sealed: Vec<Sealed> = (at..(at + batch).min(events)).map(|number| day.event(number)).collect();
        let began = Instant::now();
        let mut tx = store.begin().await.unwrap();
        tx.record_batch(log, &sealed).await.unwrap();
        tx.commit().await.unwrap();
        appending += began.elapsed().as_secs_f64();
        at += batch;
    }
    let began = Instant::now();
    while tree.grow(&store, clock.now()).await.unwrap().added > 0 {}
    let growing = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let mut begun = export::begin(&store, root.key(), &Filter::default(), clock.now()).await.unwrap();
    let (mut lines, mut bytes) = (0u64, 0u64);
    while let Some(page) = begun.export.next().await.unwrap() {
        lines += page.len() as u64;
        bytes += page.iter().map(|line| line.len() as u64 + 1).sum::<u64>();
    }
    let exporting = began.elapsed().as_secs_f64();
    let rate = |seconds: f64| (events as f64 / seconds).round();
    json!({
        "events": lines, "bytes": bytes, "batch": batch, "appended_per_second": rate(appending),
        "tree_per_second": rate(growing), "exported_per_second": rate(exporting),
    })
}

/// A database of its own, named after the time.
async fn fresh(server: &str) -> serde_json::Value {
    sqlx::any::install_default_drivers();
    let name = format!("doorward_bench_{}", SystemClock.now().millis());
    let pool = sqlx::AnyPool::connect(server).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&pool).await.unwrap();
    let (place, _) = server.rsplit_once('/').unwrap();
    json!({ "url": format!("{place}/{name}") })
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let told = match Arguments::parse().command {
        Command::Generate { events, out } => generate(events, &out),
        Command::Fresh { postgres } => runtime.block_on(fresh(&postgres)),
        Command::Database { url, events, batch } => runtime.block_on(database(&url, events, batch)),
    };
    println!("{told}");
}
