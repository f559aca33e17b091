//! F14: a record that was tampered with is found out, whatever was done to it, and the first bad event
//! is named. The record is one that a real store holds, of two nodes, exported as it always is.

use std::sync::Arc;

use doorward::audit::Sealed;
use doorward::audit::evidence::{Evidence, Head, StatementText};
use doorward::audit::filter::{Filter, FilterText};
use doorward::audit::line::check_line;
use doorward::audit::note::NoteKey;
use doorward::audit::verify::{Anchor, Fault, Place, Verified, Verifier};
use doorward::control::audit::export::{Begun, begin};
use doorward::control::audit::root::{Root, public};
use doorward::control::audit::tree::{LogTree, TreeError};
use doorward::credential::seal::Sealer;
use doorward::model::{Clock, EventId, NodeId, Timestamp, Ttl};
use doorward::store::Store;

use crate::leaf::{decision, sealing};
use crate::support::{SeededEntropy, TestClock, databases, sqlite_database};

/// A node: its store, its tree, and what opens its keys.
pub struct Node {
    pub store: Store,
    tree: LogTree,
    sealer: Arc<Sealer>,
    entropy: Arc<SeededEntropy>,
    clock: TestClock,
    number: u8,
    pub written: u16,
}

pub async fn node(url: &str, number: u8) -> Node {
    let clock = TestClock::new();
    let now = clock.now();
    let entropy = Arc::new(SeededEntropy::new(u64::from(number)));
    let sealer = Arc::new(Sealer::new(&[9; 32]).unwrap());
    let store = Store::open(url).unwrap();
    store.migrate().await.unwrap();
    store.log_open(NodeId::from_bytes([number; 16]), sealing(u64::from(number)), now).await.unwrap();
    let root = Root::ensure(&store, &sealer, now, &*entropy).await.unwrap();
    let tree = LogTree::open(&store, &sealer, &root, now, &*entropy).await.unwrap();
    Node { store, tree, sealer, entropy, clock, number, written: 0 }
}

impl Node {
    /// Records so many decisions and lets the tree grow.
    pub async fn record(&mut self, count: u16) {
        self.commit(count, true).await;
        assert_eq!(self.tree.grow(&self.store, self.clock.now()).await.unwrap().size, u64::from(self.written));
    }

    /// Records so many decisions, numbered at once or with the state that they tell of.
    async fn commit(&mut self, count: u16, at_once: bool) {
        let log = self.store.own_log().unwrap();
        let sealing = sealing(u64::from(self.number));
        let mut events = Vec::new();
        for number in self.written..self.written + count {
            let mut event = decision(u8::try_from(number % 200).unwrap(), &format!("/{number}"));
            let mut bytes = *event.id.bytes();
            bytes[13] = self.number;
            bytes[14..].copy_from_slice(&number.to_be_bytes());
            event.id = EventId::from_bytes(bytes);
            if number % 3 == 0 {
                event.service = None;
            }
            events.push(event);
        }
        self.written += count;
        let mut tx = self.store.begin().await.unwrap();
        if at_once {
            let sealed: Vec<_> = events.iter().map(|event| sealing.seal(event)).collect();
            tx.record_batch(log, &sealed).await.unwrap();
        } else {
            for event in &events {
                tx.event_append(event).await.unwrap();
            }
        }
        tx.commit().await.unwrap();
        if !at_once {
            self.store.number_pending(log, self.clock.now()).await.unwrap();
        }
    }

    /// Records these events, lets the tree grow, and gives its size.
    pub async fn keep(&mut self, events: &[Sealed]) -> u64 {
        let log = self.store.own_log().unwrap();
        let mut tx = self.store.begin().await.unwrap();
        tx.record_batch(log, events).await.unwrap();
        tx.commit().await.unwrap();
        self.tree.grow(&self.store, self.clock.now()).await.unwrap().size
    }

    pub async fn root(&self) -> Root {
        Root::open(&self.store, &self.sealer).await.unwrap()
    }

    pub async fn export(&self, filter: &Filter) -> Exported {
        let root = self.root().await;
        let Begun { statement, mut evidence, mut export } =
            begin(&self.store, root.key(), filter, self.clock.now()).await.unwrap();
        evidence.statement = statement.sign(root.signer());
        let mut lines = Vec::new();
        while let Some(page) = export.next().await.unwrap() {
            lines.extend(page);
        }
        let key = Anchor { key: Some(root.key().clone()), witnessed: Vec::new() };
        Exported { evidence, lines, anchor: key }
    }
}

#[derive(Clone)]
pub struct Exported {
    pub evidence: Evidence,
    pub lines: Vec<String>,
    pub anchor: Anchor,
}

impl Exported {
    pub fn verify(&self) -> Result<Verified, Fault> {
        verify(&self.evidence, &self.lines, &self.anchor)
    }
}

fn verify(evidence: &Evidence, lines: &[String], anchor: &Anchor) -> Result<Verified, Fault> {
    let mut verifier = Verifier::new(evidence, anchor)?;
    for line in lines {
        verifier.take(check_line(line))?;
    }
    verifier.end()
}

fn index_of(fault: &Fault) -> u64 {
    match fault.place() {
        Place::Event { index, .. } => *index,
        other => panic!("not an event: {other}"),
    }
}

#[tokio::test]
async fn f14_what_is_done_to_one_line_is_found_at_its_index() {
    let mut node = node(&sqlite_database(), 1).await;
    node.record(300).await;
    let whole = node.export(&Filter::default()).await;
    let verified = whole.verify().unwrap();
    assert_eq!((verified.lines, verified.anchored, verified.logs), (300, true, 1));
    // Every line is changed at some sixty places, each place in another way.
    let mut tried = 0u32;
    for (index, line) in whole.lines.iter().enumerate() {
        for step in 0..60usize {
            let at = (step * 7919 + index * 104_729) % line.len();
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= 1 << (step % 8);
            let changed = match String::from_utf8(bytes) {
                Ok(text) => check_line(&text),
                Err(_) => continue,
            };
            tried += 1;
            if let Ok(seen) = changed {
                // What reads as a line all the same must not lead to the root any more.
                let mut lines = whole.lines.clone();
                lines[index] = whole.lines[index].replacen(&line[at..=at], "?", 0);
                assert_ne!(seen.hash, check_line(line).unwrap().hash, "line {index}, byte {at}");
            }
        }
    }
    assert!(tried > 15_000, "{tried}");
    for index in [0, 1, 150, 298, 299] {
        let mut changed = whole.clone();
        changed.lines[index] = changed.lines[index].replacen("alice@", "alicf@", 1);
        let fault = changed.verify().unwrap_err();
        assert_eq!((fault.code(), index_of(&fault)), (10, index as u64), "{fault}");
    }
}

#[tokio::test]
async fn f14_deleted_doubled_swapped_and_cut_lines_are_found_at_their_index() {
    let mut node = node(&sqlite_database(), 1).await;
    node.record(200).await;
    let whole = node.export(&Filter::default()).await;
    for index in 0..200usize {
        let mut deleted = whole.clone();
        deleted.lines.remove(index);
        let fault = deleted.verify().unwrap_err();
        let code = if index == 199 { 12 } else { 11 };
        assert_eq!((fault.code(), index_of(&fault)), (code, index as u64), "{fault}");

        let mut doubled = whole.clone();
        doubled.lines.insert(index, whole.lines[index].clone());
        let fault = doubled.verify().unwrap_err();
        if index < 199 {
            assert_eq!((fault.code(), index_of(&fault)), (10, index as u64 + 1), "{fault}");
        } else {
            assert_eq!(fault.code(), 10, "{fault}");
        }

        let mut cut = whole.clone();
        cut.lines.truncate(index);
        let fault = cut.verify().unwrap_err();
        assert_eq!((fault.code(), index_of(&fault)), (12, index as u64), "{fault}");

        if index > 0 {
            let mut swapped = whole.clone();
            swapped.lines.swap(index - 1, index);
            let fault = swapped.verify().unwrap_err();
            assert_eq!((fault.code(), index_of(&fault)), (11, index as u64 - 1), "{fault}");
        }
    }
}

#[tokio::test]
async fn f14_every_byte_of_what_goes_with_the_events_counts() {
    let mut node = node(&sqlite_database(), 1).await;
    node.record(20).await;
    let whole = node.export(&Filter::default()).await;
    let head = Head { evidence: whole.evidence.clone() }.line();
    let mut tried = 0u32;
    for at in 0..head.len() {
        for bit in [0x01u8, 0x20] {
            let mut bytes = head.clone().into_bytes();
            bytes[at] ^= bit;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            tried += 1;
            let Some(read) = Head::parse(&text) else { continue };
            let outcome = verify(&read.evidence, &whole.lines, &whole.anchor);
            assert!(outcome.is_err(), "byte {at}, bit {bit} of {text}");
        }
    }
    assert!(tried > 3_000, "{tried}");
}

#[tokio::test]
async fn an_export_holds_on_both_engines_for_two_nodes_and_any_filter() {
    for url in databases() {
        let (mut one, mut two) = (node(&url, 1).await, node(&url, 2).await);
        one.record(300).await;
        two.record(70).await;
        one.record(5).await;
        let all = one.export(&Filter::default()).await;
        assert_eq!(all.verify().unwrap().lines, 375);
        let service = FilterText { service: Some("ops-api".into()), ..FilterText::default() };
        let filtered = one.export(&Filter::parse(&service).unwrap()).await;
        let verified = filtered.verify().unwrap();
        assert_eq!((verified.lines, verified.filtered), (375, 102 + 24));
        assert!(!filtered.lines[0].contains("alice") && filtered.lines[0].contains("\"withheld\":\"filtered\""));
        // What the filter wants must not be left out.
        let mut hiding = filtered.clone();
        let leaf = check_line(&filtered.lines[1]).unwrap().leaf;
        let leaf_text = serde_json::from_str::<serde_json::Value>(&filtered.lines[1]).unwrap()["leaf"].clone();
        hiding.lines[1] = doorward::audit::line::withheld_line(
            leaf_text.as_str().unwrap(),
            &leaf,
            doorward::audit::line::Withheld::Filtered,
        );
        let fault = hiding.verify().unwrap_err();
        assert_eq!((fault.code(), index_of(&fault)), (10, 1), "{fault}");
        // A part of the time: the rest is there as hashes.
        let times = FilterText {
            from: Some("2026-11-22T10:00:00.150Z".into()),
            to: Some("2026-11-22T10:00:00.180Z".into()),
            ..FilterText::default()
        };
        let part = one.export(&Filter::parse(&times).unwrap()).await;
        let verified = part.verify().unwrap();
        assert!(verified.lines < 375 && verified.lines > 50, "{verified:?}");
        let whole_log = |lines: &[String]| lines.iter().filter(|line| line.contains("nod_")).count() as u64;
        assert_eq!(whole_log(&part.lines), verified.lines);
    }
}

#[tokio::test]
async fn a_cut_tail_an_older_record_and_a_lost_log_are_found_by_what_is_outside() {
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.record(100).await;
    let older = one.export(&Filter::default()).await;
    one.record(50).await;
    let newer = one.export(&Filter::default()).await;
    let witnessed: Vec<String> = newer.evidence.checkpoints.clone();
    let mut with = newer.clone();
    with.anchor = Anchor { key: None, witnessed: witnessed.clone() };
    let verified = with.verify().unwrap();
    assert!(verified.anchored && verified.witnessed == 2, "{verified:?}");
    // The whole record, set back to what it was: its own evidence agrees, the witness does not.
    assert!(older.verify().is_ok());
    let mut back = older.clone();
    back.anchor.witnessed.clone_from(&witnessed);
    let fault = back.verify().unwrap_err();
    assert_eq!((fault.code(), index_of(&fault)), (12, 100), "{fault}");
    // Neither key nor witness.
    let mut alone = newer.clone();
    alone.anchor = Anchor::default();
    assert!(!alone.verify().unwrap().anchored);
    // A log that is missing as a whole.
    let mut two = node(&url, 2).await;
    two.record(10).await;
    let both = one.export(&Filter::default()).await;
    let root = one.root().await;
    let mut statement = StatementText::open(&both.evidence.statement).unwrap();
    statement.logs.pop();
    let mut without = both.clone();
    without.evidence.statement = statement.sign(root.signer());
    without.evidence.checkpoints.pop();
    without.evidence.proofs.pop();
    without.lines.truncate(150);
    let fault = without.verify().unwrap_err();
    assert_eq!(fault.code(), 11, "{fault}");
    assert!(fault.to_string().contains(&two.store.own_log().unwrap().node().to_string()), "{fault}");
}

#[tokio::test]
async fn another_history_under_the_same_keys_is_a_fork() {
    // The same installation twice: a database that was copied and went two ways.
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.record(40).await;
    let path = url.strip_prefix("sqlite://").unwrap();
    one.store.close().await;
    let copy = format!("{path}.copy");
    std::fs::copy(path, &copy).unwrap();
    let (mut here, mut there) = (node(&url, 1).await, node(&format!("sqlite://{copy}"), 1).await);
    (here.written, there.written) = (40, 40);
    here.record(10).await;
    // Another salt, another leaf.
    there.number = 1;
    there.written = 60;
    let log = there.store.own_log().unwrap();
    let events: Vec<_> = (0..10).map(|number| sealing(99).seal(&decision(200 + number, "/other"))).collect();
    let mut tx = there.store.begin().await.unwrap();
    tx.record_batch(log, &events).await.unwrap();
    tx.commit().await.unwrap();
    there.tree.grow(&there.store, there.clock.now()).await.unwrap();
    let mut exported = here.export(&Filter::default()).await;
    assert!(exported.verify().is_ok());
    exported.anchor.witnessed = there.export(&Filter::default()).await.evidence.checkpoints;
    let fault = exported.verify().unwrap_err();
    assert_eq!(fault.code(), 13, "{fault}");
    // Another root key is another installation.
    let other = node(&sqlite_database(), 7).await;
    exported.anchor = Anchor { key: Some(public(&other.store).await.unwrap()), witnessed: Vec::new() };
    assert_eq!(exported.verify().unwrap_err().code(), 10);
}

#[tokio::test]
async fn a_tree_that_was_altered_is_not_built_upon() {
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.record(30).await;
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    sqlx::query("update audit_tile set hashes = (select hashes from audit_tile where log = 0 limit 1) where log = 1")
        .execute(&pool)
        .await
        .unwrap();
    let root = one.root().await;
    let opened = LogTree::open(&one.store, &one.sealer, &root, one.clock.now(), &*one.entropy).await;
    assert!(matches!(opened, Err(TreeError::Inconsistent { .. })));
}

#[tokio::test]
async fn a_tree_grows_over_what_was_committed_however_it_got_its_number() {
    for url in databases() {
        let mut one = node(&url, 1).await;
        for (count, at_once) in [(3, true), (2, false), (5, true), (1, true), (4, false), (2, true)] {
            one.commit(count, at_once).await;
        }
        // What was rolled back has no number, and one that is known already takes none.
        let log = one.store.own_log().unwrap();
        let sealed = [sealing(1).seal(&decision(201, "/rolled-back"))];
        let mut tx = one.store.begin().await.unwrap();
        tx.record_batch(log, &sealed).await.unwrap();
        drop(tx);
        one.written -= 1;
        one.commit(3, true).await;
        one.record(1).await;
        let verified = one.export(&Filter::default()).await.verify().unwrap();
        assert_eq!((verified.lines, verified.anchored), (u64::from(one.written), true));
    }
}

#[tokio::test]
async fn a61_what_is_altered_between_its_commit_and_its_checkpoint_is_found() {
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.commit(5, true).await;
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let swapped = "update audit_event set leaf = (select leaf from audit_event where seq = 1) where seq = 3";
    sqlx::query(swapped).execute(&pool).await.unwrap();
    one.record(1).await;
    assert!(matches!(one.export(&Filter::default()).await.verify().unwrap_err().code(), 10 | 11));
}

#[tokio::test]
async fn a_log_key_is_followed_by_another_after_a_year_and_both_hold() {
    let mut one = node(&sqlite_database(), 1).await;
    one.record(10).await;
    one.clock.advance(Ttl::hours(24 * 366));
    let root = one.root().await;
    let now: Timestamp = one.clock.now();
    one.tree.tend(&one.store, &one.sealer, &root, now, &*one.entropy).await.unwrap();
    one.store.number_pending(one.store.own_log().unwrap(), now).await.unwrap();
    one.tree.grow(&one.store, now).await.unwrap();
    let exported = one.export(&Filter::default()).await;
    let verified = exported.verify().unwrap();
    assert_eq!(verified.lines, 11);
    assert!(exported.lines[10].contains("\"change\":\"key\""), "{}", exported.lines[10]);
    let keys: Vec<NoteKey> = exported
        .evidence
        .installation
        .iter()
        .filter_map(|leaf| doorward::audit::installation::Statement::parse(leaf)?.key)
        .map(|key| key.key)
        .collect();
    assert_ne!(keys.first(), keys.last());
}

#[tokio::test]
async fn pruned_events_keep_their_place_and_a_silent_pruning_is_found() {
    for url in databases() {
        let mut one = node(&url, 1).await;
        one.record(50).await;
        let log = one.store.own_log().unwrap();
        let cutoff = Timestamp::from_millis(1_795_341_600_123 + 20);
        let mut tx = one.store.begin().await.unwrap();
        let (count, next) = tx.event_prune(log, 0, 500, cutoff).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!((count, next), (20, 20));
        let silent = one.export(&Filter::default()).await;
        assert!(silent.lines[0].contains("\"withheld\":\"pruned\"") && !silent.lines[0].contains("alice"));
        assert_eq!(silent.verify().unwrap_err().code(), 10, "no event tells of the pruning");
        // Retention is a day at least: what tells of less is none of ours, whoever wrote it before it was numbered.
        for (number, hours) in [(0xee, 23), (0xef, 25)] {
            one.clock.advance(Ttl::hours(hours));
            let event = doorward::audit::Event::new(
                EventId::from_bytes([number; 16]),
                cutoff.plus(Ttl::hours(hours)),
                doorward::audit::EventType::AuditPruned,
                doorward::audit::Outcome::Success,
            )
            .with("before", cutoff.to_string());
            let mut tx = one.store.begin().await.unwrap();
            tx.event_append(&event).await.unwrap();
            tx.commit().await.unwrap();
            one.store.number_pending(log, one.clock.now()).await.unwrap();
            one.tree.grow(&one.store, one.clock.now()).await.unwrap();
            let told = one.export(&Filter::default()).await.verify();
            if hours < 24 {
                let fault = told.unwrap_err();
                assert_eq!(fault.code(), 10, "{fault}");
            } else {
                let verified = told.unwrap();
                assert_eq!((verified.lines, verified.pruned), (52, 20));
                assert_eq!(verified.pruned_before, Some(cutoff));
            }
        }
    }
}
