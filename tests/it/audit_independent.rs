//! The tree of a real record against implementations that are not ours: roots, inclusion and consistency
//! proofs as the API gives them, out of the tiles of the database, and the signatures of checkpoints. One is
//! in Rust and always asked, one in Python, with OpenSSL for the signatures.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use data_encoding::BASE64;
use doorward::audit::checkpoint::{LogName, origin};
use doorward::audit::filter::Filter;
use doorward::audit::line::check_line;
use doorward::audit::note::NoteKey;
use doorward::audit::proof::{consistency_ranges, inclusion_ranges};
use doorward::control::audit::tree::range_hashes;
use doorward::model::{NodeId, Principal};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::audit_verify::{Node, node};
use crate::leaf::{decision, sealing};
use crate::support::{databases, sqlite_database};

/// What goes with an export for who has not this program.
const README: &str = include_str!("../../src/cli/audit/evidence.md");
const LOG: LogName = LogName::Node(NodeId::from_bytes([1; 16]));
const EVENTS: u16 = 600;
/// Every pair of sizes up to here, and some around full tiles.
const ALL_UP_TO: u64 = 33;
const SOME: [u64; 9] = [100, 128, 255, 256, 257, 511, 512, 513, 600];

async fn hashes(node: &Node, ranges: &[(u64, u64)]) -> Vec<String> {
    let found = range_hashes(&node.store, LOG, ranges).await.unwrap();
    found.iter().map(|hash| BASE64.encode(hash)).collect()
}

/// What the tree says of itself.
async fn said(node: &Node) -> Value {
    let log = node.store.own_log().unwrap();
    let leaves = node.store.leaf_list(log, 0, i64::from(EVENTS)).await.unwrap();
    let leaves: Vec<String> = leaves.iter().map(|(_, leaf)| BASE64.encode(leaf)).collect();
    let sizes: Vec<u64> = (1..=ALL_UP_TO).chain(SOME).collect();
    let (mut roots, mut inclusion) = (Vec::new(), Vec::new());
    for size in &sizes {
        roots.push(json!([size, hashes(node, &[(0, *size)]).await[0]]));
        let all = 0..*size;
        let step = if *size <= ALL_UP_TO { 1 } else { 37 };
        for index in all.clone().step_by(step).chain(all.last()) {
            let proof = hashes(node, &inclusion_ranges(index, *size).unwrap()).await;
            inclusion.push(json!([index, size, proof]));
        }
    }
    let root = node.root().await;
    let named = |log| NoteKey::new(&origin(root.key().name(), log), *root.key().public()).unwrap().to_string();
    let checkpoints = node.export(&Filter::default()).await.evidence.checkpoints;
    let own = node.store.log_key_list(log).await.unwrap();
    let own_key = NoteKey::new(&origin(root.key().name(), LOG), own[0].public_key.as_slice().try_into().unwrap());
    let notes = json!([[checkpoints[0], named(LogName::Installation)], [checkpoints[1], own_key.unwrap().to_string()]]);
    json!({ "leaves": leaves, "roots": roots, "inclusion": inclusion, "notes": notes })
}

fn compared(python: &PathBuf, said: &Value) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/merkle/verify.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(said.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn the_proofs_hold_for_an_implementation_of_others() {
    for url in databases() {
        let mut one = node(&url, 1).await;
        one.record(EVENTS).await;
        let log = one.store.own_log().unwrap();
        let leaves = one.store.leaf_list(log, 0, i64::from(EVENTS)).await.unwrap();
        let mut theirs = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut roots = Vec::new();
        let sizes: Vec<u64> = (1..=ALL_UP_TO).chain(SOME).collect();
        for (size, (_, leaf)) in (1..).zip(&leaves) {
            theirs.push(leaf.clone());
            if sizes.contains(&size) {
                let ours = range_hashes(&one.store, LOG, &[(0, size)]).await.unwrap()[0];
                assert_eq!(theirs.root().as_bytes().as_slice(), ours, "the root of {size}");
                roots.push(RootHash::<Sha256>::new(ours.into(), size));
            }
        }
        let (mut included, mut consistent) = (0, 0);
        for root in &roots {
            let size = root.num_leaves();
            let step = if size <= ALL_UP_TO { 1 } else { 37 };
            for index in (0..size).step_by(step) {
                let proof = range_hashes(&one.store, LOG, &inclusion_ranges(index, size).unwrap()).await.unwrap();
                let proof = InclusionProof::<Sha256>::from_bytes(proof.concat());
                let leaf = &leaves[usize::try_from(index).unwrap()].1;
                root.verify_inclusion(leaf, index, &proof).unwrap();
                assert!(root.verify_inclusion(&b"another".to_vec(), index, &proof).is_err());
                included += 1;
            }
            for old in roots.iter().filter(|old| old.num_leaves() < size) {
                let ranges = consistency_ranges(old.num_leaves(), size).unwrap();
                let proof = range_hashes(&one.store, LOG, &ranges).await.unwrap();
                let proof = ConsistencyProof::<Sha256>::try_from_bytes(proof.concat()).unwrap();
                root.verify_consistency(old, &proof).unwrap();
                let other = RootHash::<Sha256>::new([7; 32].into(), old.num_leaves());
                assert!(root.verify_consistency(&other, &proof).is_err());
                consistent += 1;
            }
        }
        assert!(included > 600 && consistent > 800, "{included} {consistent}");
    }
}

#[tokio::test]
async fn another_in_python_agrees_on_roots_and_inclusion_and_openssl_on_signatures() {
    let python = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
        .join("tools/audit-venv/bin/python");
    let has = |python: &PathBuf| {
        let asked = Command::new(python).args(["-c", "import pymerkle"]).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    if !has(&python) {
        assert!(std::env::var_os("DOORWARD_TEST_REQUIRE_FORMATS").is_none(), "pymerkle is missing");
        eprintln!("pymerkle is missing: no other implementation was asked; tests/run installs it");
        return;
    }
    for url in databases() {
        let mut one = node(&url, 1).await;
        one.record(EVENTS).await;
        let said = said(&one).await;
        let (agrees, told) = compared(&python, &said);
        assert!(agrees && told.contains(" 0 differ"), "{told}");
        // It does find fault: another leaf, another proof, another note.
        for (pointer, other) in [
            ("/leaves/7", json!(BASE64.encode(b"another"))),
            ("/inclusion/90/2/0", json!(BASE64.encode(&[7; 32]))),
            ("/notes/1/0", said["notes"][0][0].clone()),
        ] {
            let mut changed = said.clone();
            *changed.pointer_mut(pointer).unwrap() = other;
            let (agrees, told) = compared(&python, &changed);
            assert!(!agrees, "{pointer}: {told}");
        }
    }
}

/// What a line must show, made of its leaf, body and personal values alone, by the table of the README.
fn as_the_readme_says(line: &Value) -> Value {
    let read = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
    let parts = json!({ "leaf": read(&line["leaf"]), "body": read(&line["body"]), "personal": line["personal"] });
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut shown = json!({});
    for row in README.lines().map(str::trim).filter(|row| row.starts_with("| `")) {
        let mut cells = row.split('|').skip(1);
        let (left, right) = (names(cells.next().unwrap()), names(cells.next().unwrap()));
        for name in left.iter().filter(|name| *name != "erased") {
            let last = name.rsplit('.').next().unwrap();
            let pointer = match (right[0].as_str(), right.get(1)) {
                ("body", Some(key)) => format!("/body/{key}/{last}"),
                (part, Some(key)) => format!("/{part}/{key}"),
                (part, None) => format!("/{part}/{last}"),
            };
            let Some(value) = parts.pointer(&pointer) else { continue };
            let mut at = &mut shown;
            for key in name.split('.') {
                at = &mut at[key];
            }
            *at = value.clone();
        }
    }
    shown
}

#[tokio::test]
async fn what_a_line_shows_is_what_the_readme_says_and_what_was_altered_is_not() {
    let mut one = node(&sqlite_database(), 1).await;
    let mut event = decision(7, "/private");
    event.subject = Principal::user("dev", "bob");
    event.reason = Some("a reason".into());
    one.keep(&[sealing(1).seal(&event)]).await;
    let text = one.export(&Filter::default()).await.lines.remove(0);
    let line: Value = serde_json::from_str(&text).unwrap();
    let shown = |line: &Value| {
        let mut shown = line.clone();
        for key in ["leaf", "body", "personal", "salts"] {
            shown.as_object_mut().unwrap().remove(key).unwrap();
        }
        shown
    };
    assert_eq!(as_the_readme_says(&line), shown(&line));
    for pointer in
        ["/actor/kind", "/actor/email", "/outcome", "/node", "/request/path", "/subject/principal", "/reason"]
    {
        let mut altered = line.clone();
        *altered.pointer_mut(pointer).unwrap() = json!("another");
        assert_ne!(as_the_readme_says(&altered), shown(&altered), "{pointer}");
        assert!(check_line(&altered.to_string()).is_err(), "{pointer}");
    }
}
