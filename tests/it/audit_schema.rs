//! The schema of events: what the record, the API and streams write is valid by it, and nothing else is.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use doorward::api::openapi;
use doorward::audit::line::{Withheld, line_of, withheld_line};
use doorward::audit::{EventType, Leaf, Sealed, schema};
use doorward::control::audit::retention;
use doorward::control::audit::tree::LogTree;
use doorward::control::audit::{Root, export};
use doorward::model::{NodeId, Ttl};
use doorward::store::Store;
use serde_json::{Value, json};

use crate::api_house::{House, ORIGIN};
use crate::audit_format::{every_kind, python};
use crate::support::{databases, temporary_folder};

/// What the validator of Python's `jsonschema` says of these; none where it is not installed.
fn validated(schema: &Value, lines: &[String]) -> Option<Result<String, String>> {
    let python = python("events were not checked against their schema")?;
    let folder = temporary_folder();
    let file = folder.path().join("event.schema.json");
    std::fs::write(&file, schema.to_string()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schema/validate.py");
    let mut command = Command::new(python);
    let command = command.arg(script).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for line in lines {
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(if output.status.success() { Ok(told) } else { Err(told) })
}

fn written(sealed: &Sealed, seq: i64) -> (String, Leaf) {
    let text = String::from_utf8(sealed.leaf(&NodeId::from_bytes([1; 16]), seq)).unwrap();
    let leaf = Leaf::parse(text.as_bytes()).unwrap();
    (text, leaf)
}

#[test]
fn a_line_of_every_type_is_valid_whole_and_without_its_content() {
    let mut lines = Vec::new();
    for (seq, sealed) in (0..).zip(every_kind()) {
        let (text, leaf) = written(&sealed, seq);
        lines.push(line_of(&text, &leaf, &sealed));
        lines.extend(Withheld::ALL.map(|why| withheld_line(&text, &leaf, why)));
    }
    let Some(told) = validated(&schema::line(), &lines) else { return };
    assert_eq!(told, Ok(format!("{} events, 0 faults\n", lines.len())));
}

#[test]
fn what_no_event_is_like_is_not_valid() {
    let sealed = &every_kind()[1];
    let (text, leaf) = written(sealed, 7);
    let good: Value = serde_json::from_str(&line_of(&text, &leaf, sealed)).unwrap();
    let withheld: Value = serde_json::from_str(&withheld_line(&text, &leaf, Withheld::Pruned)).unwrap();
    let changed = |from: &Value, pointer: &str, key: &str, value: Value| {
        let mut changed = from.clone();
        changed.pointer_mut(pointer).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
        changed.to_string()
    };
    let without = |key: &str| {
        let mut changed = good.clone();
        changed.as_object_mut().unwrap().remove(key);
        changed.to_string()
    };
    for bad in [
        changed(&good, "", "more", json!(1)),
        changed(&good, "/actor", "name", json!("alice")),
        changed(&good, "/request", "query", json!("a=b")),
        changed(&good, "", "type", json!("decision.perhaps")),
        changed(&good, "", "outcome", json!("maybe")),
        changed(&good, "", "id", json!("evt_1")),
        changed(&good, "", "seq", json!(-1)),
        changed(&good, "", "trace_id", json!("0AF7651916CD43DD8448EB211C80319C")),
        changed(&good, "/salts", "body", json!("short")),
        changed(&good, "/personal", "shoe", json!("42")),
        changed(&withheld, "", "body", json!("{}")),
        changed(&good, "", "withheld", json!("filtered")),
        without("leaf"),
        without("body"),
        without("actor"),
        without("time"),
    ] {
        let Some(told) = validated(&schema::line(), std::slice::from_ref(&bad)) else { return };
        assert!(told.is_err(), "{bad}");
    }
}

#[test]
fn every_type_says_in_a_sentence_what_it_is() {
    let sentences: BTreeSet<_> = EventType::ALL.iter().map(|kind| kind.about()).collect();
    assert_eq!(sentences.len(), EventType::ALL.len());
    assert!(sentences.iter().all(|text| text.ends_with('.') && !text.starts_with(' ')), "{sentences:?}");
    assert!(EventType::ALL.iter().all(|kind| kind.name().len() <= 32), "each fits a syslog message's id");
}

/// Signs in, asks, approves, uses, ends, bars, reads and is refused.
async fn lived(house: &House) {
    let (alice, _, _) = house.command_line("alice").await;
    let (bob, _, _) = house.command_line("bob").await;
    let (carol, _, _) = house.command_line("carol").await;
    let (dave, dave_answer, _) = house.command_line("dave").await;
    let asked = json!({ "entitlement": "ops-api/deploy-prod", "reason": "a=b \u{200b}x", "ticket": "OPS-1" });
    let mut grants = Vec::new();
    for answer in ["approve", "approve", "approve", "deny"] {
        let made = house.json(&alice, "/api/v1/requests", &asked).await;
        let path = format!("/api/v1/requests/{}/approvals", made.text("/id"));
        let body = json!({ "answer": answer, "hash": made.text("/hash"), "reason": "seen" });
        let answered = house.json(&bob, &path, &body).await;
        assert_eq!(answered.status, 200, "{answered:?}");
        grants.push(answered.text("/grant").to_owned());
    }
    let made = house.json(&alice, "/api/v1/requests", &asked).await;
    house.json(&alice, &format!("/api/v1/requests/{}/withdraw", made.text("/id")), &json!({})).await;
    house.json(&alice, &format!("/api/v1/grants/{}/extend", grants[0]), &json!({ "for": "5m" })).await;
    house.json(&alice, &format!("/api/v1/grants/{}/drop", grants[0]), &json!({})).await;
    house.json(&carol, &format!("/api/v1/grants/{}/revoke", grants[1]), &json!({ "reason": "why" })).await;
    let whom = json!({ "principal": "dev|dave", "reason": "lost" });
    let locked = house.json(&carol, "/api/v1/locks", &whom).await;
    assert_eq!(locked.status, 200);
    assert!(!locked.text("/principal/name").is_empty() && !locked.text("/principal/email").is_empty(), "{locked:?}");
    house.json(&carol, "/api/v1/locks/clear", &whom).await;
    house.json(&dave, "/api/v1/locks", &whom).await;
    house.refresh(&dave, dave_answer["refresh_token"].as_str().unwrap(), &[]).await;
    house.form(&alice, "/oauth2/token", &[("grant_type", "authorization_code"), ("code", "none")]).await;
    house.get(&carol, "/api/v1/audit/events").await;
    house.get(&carol, "/api/v1/audit/export").await;
}

#[tokio::test]
async fn a_lived_record_is_valid_as_it_is_exported_and_as_the_api_shows_it() {
    for url in databases() {
        let house = House::new(&url).await;
        lived(&house).await;
        let (desk, now) = (&house.desk, house.now());
        let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
        let mut tree = LogTree::open(&desk.store, &desk.sealer, &root, now, &*desk.entropy).await.unwrap();
        for log in desk.store.log_list().await.unwrap() {
            while desk.store.number_pending(log.log, now).await.unwrap() > 0 {}
        }
        let (carol, _, _) = house.command_line("carol").await;
        let shown = house.get(&carol, "/api/v1/audit/events?limit=1000").await;
        assert!(house.get(&carol, "/api/v1/audit/schema").await.body == schema::line());
        let shown: Vec<_> = shown.body["items"].as_array().unwrap().iter().map(Value::to_string).collect();
        house.clock.advance(Ttl::hours(48));
        retention::prune(desk, Ttl::hours(47), house.now()).await.unwrap();
        tree.grow(&desk.store, house.now()).await.unwrap();
        let mut begun = export::begin(&desk.store, root.key(), &Default::default(), house.now()).await.unwrap().export;
        let mut lines = Vec::new();
        while let Some(page) = begun.next().await.unwrap() {
            lines.extend(page);
        }
        let kinds: BTreeSet<_> = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
            .collect();
        assert!(kinds.len() >= 15, "{kinds:?}");
        let Some(told) = validated(&schema::line(), &lines) else { return };
        assert_eq!(told, Ok(format!("{} events, 0 faults\n", lines.len())));
        let document = openapi::describe(ORIGIN);
        let of_api = &document["components"]["schemas"]["AuditEvent"];
        let told = validated(of_api, &shown).unwrap();
        assert_eq!(told, Ok(format!("{} events, 0 faults\n", shown.len())));
    }
}

/// Names the folder with the databases that a run of tests left behind; `tests/run` does so at its end.
const RECORDS: &str = "DOORWARD_TEST_RECORDS";

/// Events of one database at most: some tests write a hundred thousand of one kind.
const LINES_MAX: usize = 5_000;

/// Lines of the events of a database that read and are as their leaves say: tests alter some on purpose.
async fn lines_of(url: &str) -> Option<Vec<String>> {
    const PAGE: u64 = 200;
    let store = Store::open(url).ok()?;
    let mut lines = Vec::new();
    for entry in store.log_list().await.ok()? {
        let size = u64::try_from(entry.size).ok()?;
        for from in (0..size).step_by(usize::try_from(PAGE).unwrap()) {
            let mut events = Vec::new();
            match store.event_range(entry.log, from, from + PAGE, 1000).await {
                Ok(page) => events = page,
                // One row of them can't be; the others are read one by one.
                Err(_) => {
                    for seq in from..from + PAGE {
                        events.extend(store.event_range(entry.log, seq, seq + 1, 1).await.unwrap_or_default());
                    }
                }
            }
            for event in events.iter().filter(|event| event.verify().is_ok()) {
                let text = std::str::from_utf8(event.leaf.as_deref()?).ok()?;
                lines.push(line_of(text, &Leaf::parse(text.as_bytes()).ok()?, &event.sealed));
            }
            if lines.len() >= LINES_MAX {
                break;
            }
        }
    }
    store.close().await;
    Some(lines)
}

#[tokio::test]
async fn every_record_that_a_run_of_tests_left_behind_is_valid() {
    let Some(folder) = std::env::var_os(RECORDS) else {
        println!("note: only what this topic's tests write is checked, since {RECORDS} is not set");
        return;
    };
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        // Read as a copy: nothing of what is looked at is changed.
        let copy = temporary_folder();
        let mut there = false;
        for name in ["doorward.db", "doorward.db-wal"] {
            there |= std::fs::copy(entry.path().join(name), copy.path().join(name)).is_ok();
        }
        if there {
            let url = format!("sqlite://{}", copy.path().join("doorward.db").display());
            let found = lines_of(&url).await.unwrap_or_default();
            lines.extend(found);
        }
    }
    let kinds: BTreeSet<_> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    println!("{} events of {} types: {kinds:?}", lines.len(), kinds.len());
    assert!(lines.len() >= 5_000 && kinds.len() >= 60, "the tests did not run, or left less than they do");
    let Some(told) = validated(&schema::line(), &lines) else { return };
    assert_eq!(told, Ok(format!("{} events, 0 faults\n", lines.len())));
}
