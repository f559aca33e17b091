//! What is not there: an export may have no less content than the record had when it was made, a database no fewer
//! events than its logs have numbered, and whoever verifies is told of what.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use doorward::audit::checkpoint::{Checkpoint, LogName, origin};
use doorward::audit::evidence::StatementText;
use doorward::audit::filter::{Filter, FilterText};
use doorward::audit::installation::{Statement, StatementKind};
use doorward::audit::line::{Withheld, check_line, withheld_line};
use doorward::audit::merkle::{Frontier, leaf_hash};
use doorward::audit::verify::{Anchor, Fault, Place, Verified, Verifier};
use doorward::audit::{Event, EventType, Outcome};
use doorward::model::{EventId, Principal, Timestamp, Ttl};
use doorward::server::verify::{Unopened, open};
use serde_json::Value;

use crate::audit_report::{audit, exported, told};
use crate::audit_verify::{Exported, Node, node};
use crate::leaf::{decision, sealing};
use crate::support::{databases, sqlite_database, temporary_folder};

const BEGAN: i64 = 1_795_341_600_123;

async fn execute(url: &str, text: &'static str) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    sqlx::query(text).execute(&pool).await.unwrap();
    pool.close().await;
}

/// Events of two people, turn by turn.
async fn of_two(url: &str) -> Node {
    let mut one = node(url, 1).await;
    let made = |number: u8| {
        let mut event = decision(number, &format!("/{number}"));
        if number.is_multiple_of(2) {
            event.actor.principal = Principal::user("dev", "bob");
        }
        sealing(1).seal(&event)
    };
    let events: Vec<_> = (0..40).map(made).collect();
    assert_eq!(one.keep(&events).await, 40);
    one
}

fn line(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The line as it would be without its content.
fn hidden(text: &str, why: Withheld) -> String {
    withheld_line(line(text)["leaf"].as_str().unwrap(), &check_line(text).unwrap().leaf, why)
}

#[tokio::test]
async fn content_that_is_taken_from_an_export_is_missed_whatever_the_filter_and_the_word_for_it() {
    for url in databases() {
        let one = of_two(&url).await;
        let actor = line(&one.export(&Filter::default()).await.lines[1])["actor"]["id"].as_str().unwrap().to_owned();
        let session = Some("ses_144gi289144gi289144gi28914".to_owned());
        for filter in [
            FilterText { service: Some("ops-api".into()), ..FilterText::default() },
            FilterText { kind: Some("decision.allow".into()), ..FilterText::default() },
            FilterText { from: Some("2026-11-22T10:00:00.125Z".into()), ..FilterText::default() },
            FilterText { actor: Some(actor), ..FilterText::default() },
            FilterText { session, ..FilterText::default() },
        ] {
            let whole = one.export(&Filter::parse(&filter).unwrap()).await;
            let verified = whole.verify().unwrap();
            assert_eq!((&verified.filter, verified.made_at.is_empty()), (&filter, false));
            let there: Vec<usize> =
                (0..whole.lines.len()).filter(|at| line(&whole.lines[*at])["body"].is_string()).collect();
            assert!(there.len() >= 20, "{filter:?}");
            for why in Withheld::ALL {
                for places in [&there[..], &there[3..4]] {
                    let mut less = whole.clone();
                    places.iter().for_each(|at| less.lines[*at] = hidden(&whole.lines[*at], why));
                    let fault = less.verify().map(|verified| (filter.clone(), why, verified)).unwrap_err();
                    assert_eq!(fault.code(), 10, "{filter:?}, {why:?}: {fault}");
                }
            }
        }
        // An older export says nothing of what was gone, and holds as it did.
        let mut older = one.export(&Filter::default()).await;
        let mut statement = StatementText::open(&older.evidence.statement).unwrap();
        (statement.gone, statement.installation) = (None, None);
        older.evidence.statement = statement.sign(one.root().await.signer());
        assert!(!older.evidence.statement.contains("gone") && older.verify().is_ok());
    }
}

#[tokio::test]
async fn an_export_of_a_part_may_have_what_was_pruned_and_no_more() {
    for url in databases() {
        let mut one = of_two(&url).await;
        let (log, cutoff) = (one.store.own_log().unwrap(), Timestamp::from_millis(BEGAN + 20));
        let mut tx = one.store.begin().await.unwrap();
        assert_eq!(tx.event_prune(log, 0, 500, cutoff).await.unwrap(), (20, 20));
        tx.commit().await.unwrap();
        let service = FilterText { service: Some("ops-api".into()), ..FilterText::default() };
        let filter = Filter::parse(&service).unwrap();
        assert_eq!(one.export(&filter).await.verify().unwrap_err().code(), 10, "no event tells of it");
        let later = cutoff.plus(Ttl::hours(24));
        let event = Event::new(EventId::from_bytes([0xee; 16]), later, EventType::AuditPruned, Outcome::Success);
        one.keep(&[sealing(1).seal(&event.with("before", cutoff.to_string()))]).await;
        let verified = one.export(&filter).await.verify().unwrap();
        assert_eq!((verified.pruned, verified.filtered), (20, 1));
        // A row that no tree holds, and one that speaks of its own future or of less than a day ago, allow nothing.
        for (number, time) in [(0xef, later.plus(Ttl::hours(24 * 365))), (0xf0, later.minus(Ttl::millis(1)))] {
            let forged = Event::new(EventId::from_bytes([number; 16]), later, EventType::AuditPruned, Outcome::Success);
            one.keep(&[sealing(2).seal(&forged.with("before", time.to_string()))]).await;
        }
        let kept = one.store.pruned_before(|_, _| true).await.unwrap();
        assert_eq!(kept, Some(cutoff));
        assert_eq!(one.store.pruned_before(|_, _| false).await.unwrap(), None);
    }
}

#[tokio::test]
async fn personal_values_that_are_gone_by_no_erasure_are_missed() {
    let url = sqlite_database();
    let mut one = of_two(&url).await;
    execute(&url, "update audit_event set personal = '{}', salts = substr(salts, 1, 16)").await;
    let service = FilterText { service: Some("ops-api".into()), ..FilterText::default() };
    for filter in [FilterText::default(), service] {
        let fault = one.export(&Filter::parse(&filter).unwrap()).await.verify().unwrap_err();
        assert!(fault.code() == 10 && fault.to_string().contains("200 personal values"), "{fault}");
    }
    // An account of erasures that somebody wrote is none that is on record.
    execute(
        &url,
        "insert into audit_erasure (id, pseudonym, requested_at, requested_by, reason, state, events, fields, texts, \
         texts_left) values ('ers_x', 'usr_x', 0, 'usr_y', 'none', 'running', 40, 200, 0, 0)",
    )
    .await;
    assert_eq!(one.export(&Filter::default()).await.verify().unwrap_err().code(), 10);
    // What tells of it may stand behind the checkpoint still, and then does not. It is of the people whose they were.
    let [bob, alice] = two_of(&one).await;
    let mut number = 0xed;
    for (people, code) in [([(&alice, 200), (&alice, 0)], Some(10)), ([(&alice, 0), (&bob, 0)], None)] {
        for (person, fields) in people {
            number += 1;
            append(&one, erased(number, person, fields)).await;
        }
        for numbered in [false, true] {
            if numbered {
                one.store.number_pending(one.store.own_log().unwrap(), Timestamp::from_millis(BEGAN)).await.unwrap();
                one.keep(&[]).await;
            }
            let outcome = one.export(&Filter::default()).await.verify();
            match code {
                None => assert_eq!(outcome.unwrap().erased, 200),
                Some(code) => {
                    let fault = outcome.unwrap_err();
                    assert!(fault.code() == code && fault.to_string().contains(&bob), "{numbered}: {fault}");
                }
            }
        }
    }
}

/// The pseudonyms of the two people of the first two events.
async fn two_of(one: &Node) -> [String; 2] {
    let lines = one.export(&Filter::default()).await.lines;
    [0, 1].map(|at| line(&lines[at])["actor"]["id"].as_str().unwrap().to_owned())
}

/// What tells that so many values of this person were erased.
fn erased(number: u8, person: &str, fields: i64) -> Event {
    let time = Timestamp::from_millis(BEGAN);
    Event::new(EventId::from_bytes([number; 16]), time, EventType::AuditErased, Outcome::Success)
        .with("pseudonym", person)
        .with("fields", fields)
}

async fn append(one: &Node, event: Event) {
    let mut tx = one.store.begin().await.unwrap();
    tx.event_append(&event).await.unwrap();
    tx.commit().await.unwrap();
}

/// Takes the personal values of some events, as an erasure takes them.
async fn take_values(url: &str, which: &'static str) {
    let text: &'static str = match which {
        "alice" => {
            "update audit_event set personal = '{}', salts = substr(salts, 1, 16) \
             where actor = (select actor from audit_event where seq = 1)"
        }
        _ => "update audit_event set personal = '{}', salts = substr(salts, 1, 16) where seq = 2",
    };
    execute(url, text).await;
}

#[tokio::test]
async fn a_value_that_is_gone_must_be_of_somebody_who_was_erased_and_not_only_one_of_as_many() {
    for url in databases() {
        let mut one = of_two(&url).await;
        let [bob, alice] = two_of(&one).await;
        take_values(&url, "alice").await;
        // Ten values more than are gone: of events that went as a whole when their values had gone.
        execute(
            &url,
            "insert into audit_erasure (id, pseudonym, requested_at, requested_by, reason, state, events, fields, texts, \
             texts_left) select 'ers_x', actor, 0, 'usr_y', 'none', 'running', 20, 110, 0, 0 from audit_event where seq = 1",
        )
        .await;
        append(&one, erased(0xee, &alice, 110)).await;
        one.store.number_pending(one.store.own_log().unwrap(), Timestamp::from_millis(BEGAN)).await.unwrap();
        one.keep(&[]).await;
        let service = FilterText { service: Some("ops-api".into()), ..FilterText::default() };
        let filters = [FilterText::default(), service].map(|filter| Filter::parse(&filter).unwrap());
        for filter in &filters {
            let whole = one.export(filter).await;
            let verified = whole.verify().unwrap();
            assert_eq!((verified.erased, verified.erased_of_unknown), (100, false));
            // An older export names nobody: where its events don't either, whoever verifies is told so.
            let mut older = whole;
            let mut statement = StatementText::open(&older.evidence.statement).unwrap();
            let gone = statement.gone.as_mut().unwrap();
            (gone.people, gone.people_ahead) = (None, None);
            older.evidence.statement = statement.sign(one.root().await.signer());
            assert_eq!(older.verify().unwrap().erased_of_unknown, !filter.is_all());
        }
        // Five of bob's, which are no more than the account of erasures has room for.
        take_values(&url, "bob").await;
        for filter in &filters {
            let fault = one.export(filter).await.verify().unwrap_err();
            assert!(fault.code() == 10 && fault.to_string().contains(&bob), "{fault}");
            assert!(fault.to_string().contains("event 2 of "), "{fault}");
        }
    }
}

/// Logs are pruned one after the other.
#[tokio::test]
async fn an_account_of_an_erasure_may_be_pruned_before_the_event_that_it_took() {
    for url in databases() {
        let mut one = of_two(&url).await;
        let [bob, _] = two_of(&one).await;
        let at = |number: i64| Timestamp::from_millis(BEGAN + number);
        let told = Event::new(EventId::from_bytes([0xe0; 16]), at(0), EventType::AuditPersonErased, Outcome::Success);
        let told = told.with("pseudonym", bob).with("texts", 1_i64).with("texts_left", 0_i64);
        assert_eq!(one.keep(&[sealing(1).seal(&told)]).await, 41);
        execute(&url, "update audit_event set body = '{}', personal = '{}', salts = substr(salts, 1, 0) where seq = 3")
            .await;
        execute(
            &url,
            "insert into audit_erasure (id, pseudonym, requested_at, requested_by, reason, state, events, fields, texts, \
             texts_left) values ('ers_x', 'usr_x', 0, 'usr_y', 'none', 'running', 0, 0, 1, 0)",
        )
        .await;
        assert_eq!(one.export(&Filter::default()).await.verify().unwrap().erased_events, 1);
        execute(&url, "update audit_event set body = '', personal = '{}', salts = substr(salts, 1, 0) where seq = 40")
            .await;
        let later = at(1).plus(Ttl::hours(24));
        let pruned = Event::new(EventId::from_bytes([0xee; 16]), later, EventType::AuditPruned, Outcome::Success);
        one.keep(&[sealing(1).seal(&pruned.with("before", at(1).to_string()))]).await;
        let verified = one.export(&Filter::default()).await.verify().unwrap();
        assert_eq!((verified.erased_events, verified.pruned, verified.pruned_before), (1, 1, Some(at(1))));
    }
}

/// As `doorward audit verify` does it, at a time.
async fn of_database(url: &str, now: Timestamp) -> Result<Verified, Fault> {
    let mut record = match open(url, None, now).await {
        Ok(record) => record,
        Err(Unopened::Fault(fault)) => return Err(fault),
        Err(Unopened::Failed(text) | Unopened::Nothing(text)) => panic!("{text}"),
    };
    let mut verifier = Verifier::of_statement(&record.statement, &record.evidence, &Anchor::default())?;
    loop {
        match record.export.next().await {
            Ok(None) => break,
            Ok(Some(lines)) => lines.iter().try_for_each(|line| verifier.take(check_line(line)))?,
            Err(error) => return Err(Fault::Altered { at: verifier.next().unwrap(), what: error.to_string() }),
        }
    }
    let mut verified = verifier.end()?;
    verified.ahead = record.ahead().await?;
    Ok(verified)
}

#[tokio::test]
async fn events_behind_the_last_checkpoint_are_counted_and_may_be_of_a_moment_only() {
    for url in databases() {
        let mut one = node(&url, 1).await;
        for count in [49, 51] {
            one.record(count).await;
        }
        let now = Timestamp::from_millis(BEGAN + 1_000);
        let verified = of_database(&url, now).await.unwrap();
        assert_eq!((verified.lines, verified.ahead), (100, 0));
        execute(&url, "delete from audit_checkpoint where log = 1 and size > 49").await;
        // A node that was killed leaves as much, whenever that was.
        let verified = of_database(&url, now).await.unwrap();
        assert_eq!((verified.lines, verified.ahead), (49, 51));
        // None goes on for minutes like that.
        let mut late = decision(7, "/late");
        late.time = Timestamp::from_millis(BEGAN + 120_000);
        late.id = EventId::from_bytes([0x42; 16]);
        let mut tx = one.store.begin().await.unwrap();
        tx.record_batch(one.store.own_log().unwrap(), &[sealing(1).seal(&late)]).await.unwrap();
        tx.commit().await.unwrap();
        let fault = of_database(&url, now).await.unwrap_err();
        assert!(
            fault.code() == 12 && fault.to_string().contains("event 49") && fault.to_string().contains("52 events"),
            "{fault}"
        );
        execute(&url, "update audit_event set type = 'junk' where seq = 60").await;
        let fault = of_database(&url, now).await.unwrap_err();
        assert!(fault.code() == 10 && fault.to_string().contains("event 60 "), "{fault}");
        execute(&url, "delete from audit_event where seq > 59").await;
        let fault = of_database(&url, now).await.unwrap_err();
        assert!(fault.code() == 11 && fault.to_string().contains("event 60 "), "{fault}");
    }
}

/// What looks at evidence must leave it as it is.
#[tokio::test]
async fn a_database_that_is_verified_is_not_written_whatever_its_journal_and_none_is_made() {
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.record(30).await;
    one.store.close().await;
    let folder = temporary_folder();
    let (file, now) = (folder.path().join("copy.db"), Timestamp::from_millis(BEGAN));
    let copy = format!("sqlite://{}", file.display());
    for journal in ["pragma journal_mode = wal", "pragma journal_mode = delete"] {
        std::fs::copy(url.strip_prefix("sqlite://").unwrap(), &file).unwrap();
        execute(&copy, journal).await;
        let before = std::fs::read(&file).unwrap();
        for mode in [0o700, 0o500] {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            for url in [copy.clone(), format!("{copy}?mode=rwc")] {
                assert_eq!(of_database(&url, now).await.unwrap().lines, 30, "{journal}, {mode:o}");
            }
            assert!(std::fs::read(&file).unwrap() == before, "{journal}, {mode:o}");
        }
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    let none = folder.path().join("none.db");
    let (code, _, said) = verify(folder.path(), &[&format!("sqlite://{}", none.display())]);
    assert!(code == Some(2) && said.contains("there is no database"), "{said}");
    assert!(!none.exists());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_by_its_own_number() {
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.record(30).await;
    execute(&url, "update audit_event set type = 'junk' where seq = 7").await;
    let fault = of_database(&url, Timestamp::from_millis(BEGAN)).await.unwrap_err();
    assert!(fault.code() == 10 && fault.to_string().contains("event 7 of "), "{fault}");
}

#[tokio::test]
async fn what_is_damaged_beside_the_events_of_a_database_has_its_code() {
    for (change, code) in [
        ("delete from audit_checkpoint where log = 0", 11),
        ("delete from audit_checkpoint where log = 1", 11),
        ("update audit_checkpoint set root = substr(root, 2) where log = 0", 10),
        ("update audit_checkpoint set root = substr(root, 2) where log = 1", 10),
        ("update audit_log set node = 'nod_x'", 10),
    ] {
        let url = sqlite_database();
        let mut one = node(&url, 1).await;
        one.record(10).await;
        execute(&url, change).await;
        let fault = of_database(&url, Timestamp::from_millis(BEGAN)).await.unwrap_err();
        assert_eq!(fault.code(), code, "{change}: {fault}");
    }
}

#[tokio::test]
async fn an_export_of_a_time_has_events_whose_ids_are_of_another() {
    for url in databases() {
        let mut one = node(&url, 1).await;
        one.record(20).await;
        // The end of a stream, as it was recorded once: under the time of its request.
        let mut end = decision(210, "/stream");
        end.time = end.time.plus(Ttl::hours(3));
        let end_id = end.id;
        one.keep(&[sealing(1).seal(&end)]).await;
        let from = Timestamp::from_millis(BEGAN).plus(Ttl::hours(2));
        for to in [None, Some(from.plus(Ttl::hours(2)))] {
            let exported = one.export(&Filter { from: Some(from), to, ..Filter::default() }).await;
            assert_eq!(exported.lines.len(), 1, "{to:?}");
            assert!(exported.lines[0].contains(&end_id.to_string()) && exported.verify().is_ok());
        }
        let none = Filter { from: Some(from), to: Some(from.plus(Ttl::minutes(5))), ..Filter::default() };
        assert_eq!(one.export(&none).await.lines.len(), 0);
    }
}

#[tokio::test]
async fn an_older_installation_log_does_not_go_with_newer_events() {
    let url = sqlite_database();
    let mut one = node(&url, 1).await;
    one.record(10).await;
    let older = one.export(&Filter::default()).await;
    one.store.close().await;
    // Each start of a node is a statement.
    let mut again = node(&url, 1).await;
    again.written = 10;
    again.record(10).await;
    let mut mixed = again.export(&Filter::default()).await;
    assert!(mixed.verify().is_ok() && mixed.evidence.installation.len() > older.evidence.installation.len());
    mixed.evidence.installation = older.evidence.installation;
    mixed.evidence.checkpoints[0].clone_from(&older.evidence.checkpoints[0]);
    assert_eq!(mixed.verify().unwrap_err().code(), 12);
}

#[tokio::test]
async fn two_roots_for_one_size_in_the_installation_log_are_a_fork() {
    let mut one = node(&sqlite_database(), 1).await;
    one.record(10).await;
    let mut exported: Exported = one.export(&Filter::default()).await;
    let root = one.root().await;
    let log = *one.store.own_log().unwrap().node();
    for hash in [[1; 32], [2; 32]] {
        let seq = exported.evidence.installation.len() as u64;
        let (time, kind) = (Timestamp::from_millis(BEGAN), StatementKind::Sized);
        exported.evidence.installation.push(Statement { seq, time, kind, log, size: 5, root: hash, key: None }.leaf());
    }
    let mut tree = Frontier::default();
    exported.evidence.installation.iter().for_each(|leaf| tree.push(leaf_hash(leaf.as_bytes())));
    let origin = origin(root.key().name(), LogName::Installation);
    exported.evidence.checkpoints[0] =
        Checkpoint { origin, size: tree.size(), root: tree.root() }.sign(root.log_signer());
    let fault = exported.verify().unwrap_err();
    assert_eq!((fault.code(), fault.place()), (13, &Place::Log(LogName::Node(log))), "{fault}");
}

fn verify(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = audit(folder, "verify", arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), told(&output))
}

#[tokio::test]
async fn who_verifies_is_told_when_it_was_exported_and_what_was_asked_for() {
    let folder = temporary_folder();
    let service = FilterText { service: Some("ops-api".into()), ..FilterText::default() };
    for (filter, said) in [(FilterText::default(), "everything"), (service, "only service ops-api")] {
        let (text, key) = exported(&Filter::parse(&filter).unwrap()).await;
        std::fs::write(folder.path().join("record.jsonl"), text).unwrap();
        let (code, out, _) = verify(folder.path(), &["record.jsonl", "--key", &key]);
        assert!(code == Some(0) && out.ends_with(&format!("; as of 2026-11-22T22:00:00.000Z, {said}\n")), "{out}");
        let (_, out, _) = verify(folder.path(), &["record.jsonl", "--key", &key, "-o", "json"]);
        let page: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(page["made_at"], "2026-11-22T22:00:00.000Z");
        assert_eq!(page["filter"]["service"].as_str(), filter.service.as_deref(), "{page}");
    }
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    let (code, _, said) = verify(folder.path(), &["record.jsonl", "--key", "empty"]);
    assert!(code == Some(2) && said.contains("names no key"), "{said}");
}
