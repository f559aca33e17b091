//! Nothing is done unrecorded, and the record says no more than it may: a61 to a63.

use std::time::{Duration, Instant};

use doorward::audit::{EventType, PersonalField};
use doorward::model::Ttl;
use http::Method;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::fixture::{BOTH, Plan, Speaks, with_door};
use crate::support::databases;

/// Holds the record, as a database that hangs does.
async fn hold(url: &str) -> sqlx::AnyConnection {
    hold_tables(url, "audit_event, revocation").await
}

/// Holds these tables; of SQLite all that is written, for it knows no other way.
pub async fn hold_tables(url: &str, tables: &str) -> sqlx::AnyConnection {
    sqlx::any::install_default_drivers();
    let mut holder = sqlx::AnyConnection::connect(url).await.unwrap();
    let hold = if url.starts_with("sqlite") {
        "begin exclusive".to_owned()
    } else {
        format!("begin; lock table {tables} in access exclusive mode")
    };
    for statement in hold.split(';') {
        holder.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    }
    holder
}

#[test]
fn a61_with_a_spool_requests_pass_while_the_database_is_held_and_are_on_record_afterwards() {
    for database in databases() {
        let held = database.clone();
        with_door(Plan { database: Some(database), ..Plan::default() }, async |door| {
            let alice = door.sign_in("alice").await;
            let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
            assert_eq!(client.get("/x").await.status, 200);
            let mut holder = hold(&held).await;
            let mut decisions = Vec::new();
            for _ in 0..8 {
                let asked = Instant::now();
                let got = client.get("/held").await;
                assert_eq!(got.status, 200, "{held}: {got:?}");
                assert!(asked.elapsed() < Duration::from_secs(2), "{held}: {:?}", asked.elapsed());
                decisions.push(got.decision());
            }
            if held.starts_with("postgres") {
                // SQLite's readers see the feed all the same, so there is no doubt about revocations.
                door.clock.advance(Ttl::seconds(61));
                let got = client.get("/stale").await;
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "stale"), "{held}");
                decisions.push(got.decision());
            }
            holder.execute("rollback").await.unwrap();
            for decision in decisions {
                door.recorded(decision).await;
            }
        });
    }
}

#[test]
fn a61_while_the_database_is_held_nothing_passes_and_afterwards_it_does_by_itself() {
    for database in databases() {
        let held = database.clone();
        let environment = vec![("DOORWARD__AUDIT__SPOOL", "off".to_owned())];
        with_door(Plan { database: Some(database), environment, ..Plan::default() }, async |door| {
            let alice = door.sign_in("alice").await;
            let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
            assert_eq!(client.get("/x").await.status, 200);
            let before = door.raw.count();
            let mut holder = hold(&held).await;
            for _ in 0..2 {
                let asked = Instant::now();
                let got = client.get("/held").await;
                assert_eq!((got.status.as_u16(), got.reason().as_str()), (503, "audit_unavailable"), "{held}");
                assert!(asked.elapsed() < Duration::from_millis(2300), "{held}: {:?}", asked.elapsed());
            }
            assert_eq!(door.raw.count(), before, "{held}");
            holder.execute("rollback").await.unwrap();
            let freed = Instant::now();
            loop {
                let got = client.get("/again").await;
                if got.status == 200 {
                    door.recorded(got.decision()).await;
                    break;
                }
                assert!(freed.elapsed() < Duration::from_secs(10), "{held}: {got:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert!(door.raw.seen().iter().all(|seen| seen.path() != "/held"));
        });
    }
}

#[test]
fn a61_what_is_buffered_passes_no_longer_than_a_moment_unrecorded() {
    for database in databases() {
        let held = database.clone();
        let environment =
            vec![("DOORWARD__AUDIT__SPOOL", "off".to_owned()), ("DOORWARD__AUDIT__REQUESTS", "buffered".to_owned())];
        with_door(Plan { database: Some(database), environment, ..Plan::default() }, async |door| {
            let alice = door.sign_in("alice").await;
            let mut client = door.client("app", Some(&alice), Speaks::Http2).await;
            assert_eq!(client.get("/x").await.status, 200);
            let mut holder = hold(&held).await;
            let began = Instant::now();
            loop {
                let got = client.get("/held").await;
                if got.status == 503 {
                    assert_eq!(got.reason().as_str(), "audit_unavailable", "{held}");
                    break;
                }
                assert_eq!(got.status, 200, "{held}: {got:?}");
                assert!(began.elapsed() < Duration::from_secs(5), "{held}: unrecorded for {:?}", began.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            holder.execute("rollback").await.unwrap();
        });
    }
}

#[test]
fn every_answer_has_its_event() {
    with_door(Plan::default(), async |door| {
        let (alice, dave) = (door.sign_in("alice").await, door.sign_in("dave").await);
        for speaks in BOTH {
            for (service, person, path, status) in [
                ("app", Some(&alice), "/x", 200),
                ("app", Some(&alice), "/admin/x", 403),
                ("app", Some(&dave), "/x", 403),
                ("web", None, "/x", 401),
                ("app", Some(&alice), "/a%2fb", 400),
                ("app", Some(&alice), "/.doorward/none", 404),
            ] {
                let got = door.get(service, person, speaks, path).await;
                assert_eq!(got.status, status, "{path}");
                let event = door.recorded(got.decision()).await;
                let allowed = event.clear().kind == EventType::DecisionAllow;
                assert_eq!(allowed, status == 200, "{path}");
                event.verify().unwrap();
                if let Some(person) = person.filter(|_| status != 400 && status != 404) {
                    assert_eq!(event.personal(PersonalField::Principal), Some(person.principal.to_string().as_str()));
                }
            }
        }
        let got = door.bytes("app", Some(&alice), b"GET /x HTTP/1.1\r\n\r\n").await;
        let id = got.split("doorward-decision: ").nth(1).unwrap().split("\r\n").next().unwrap();
        door.recorded(doorward::model::DecisionId::parse(id).unwrap()).await;
    });
}

#[test]
fn a62_hostile_text_stays_one_record() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let long = format!("/{}", "a".repeat(10 * 1024));
        for speaks in BOTH {
            let mut client = door.client("app", Some(&alice), speaks).await;
            for path in ["/x%0d%0aInjected:%201", "/x%1b%5b31m", "/%e2%80%aeevil", "/x%00", "/=cmd%7c'calc'", &long] {
                let headers = [("user-agent", "a\"},{\"evil\":1}\u{7f}".trim_end_matches('\u{7f}'))];
                let got = client.ask(Method::GET, path, &headers, b"").await;
                let event = door.recorded(got.decision()).await;
                event.verify().unwrap();
                let path = event.personal(PersonalField::Path).unwrap_or_default().to_owned();
                let whole = format!("{}{path}", event.body);
                assert!(!whole.chars().any(|c| c.is_control() || c == '\u{202e}'), "{whole}");
                assert!(whole.len() < 16 * 1024, "{} bytes", whole.len());
                assert!(event.body.get("evil").is_none());
            }
        }
    });
}

#[test]
fn a63_no_secret_is_kept() {
    with_door(Plan::default(), async |door| {
        let alice = door.sign_in("alice").await;
        let token = super::tokens::Token::of(door, &alice).mint(door);
        let tail = token.rsplit('.').next().unwrap().to_owned();
        let bearer = format!("Bearer {token}");
        for speaks in BOTH {
            for (service, person) in [("app", Some(&alice)), ("web", None)] {
                let mut client = door.client(service, person, speaks).await;
                for headers in [
                    vec![("authorization", bearer.as_str())],
                    vec![
                        ("authorization", "Basic CANARY1xyz"),
                        ("cookie", "__Host-doorward=CANARY2xyz; own=CANARY3xyz"),
                    ],
                    vec![("doorward-token", "CANARY4xyz"), ("x-api-key", "CANARY5xyz")],
                ] {
                    client.ask(Method::POST, "/x?secret=CANARY6xyz", &headers, b"CANARY7xyz").await;
                }
                client.ask(Method::POST, "/a%2fb?secret=CANARY8xyz", &[], b"CANARY9xyz").await;
            }
        }
        door.bytes("app", Some(&alice), b"GET /CANARY0xyz?CANARYaxyz HTTP/1.1\r\nHost: a@b\r\nX: CANARYbxyz\r\n\r\n")
            .await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let mut texts = Vec::new();
        for entry in std::fs::read_dir(&door.dir).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            texts.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()));
        }
        assert!(texts.iter().any(|(name, _)| name.contains("doorward.db")));
        if let Some(address) = door.running().telemetry {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream
                .write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert!(got.starts_with(b"HTTP/1.1 200 "));
            texts.push(("metrics".to_owned(), got));
        }
        for (name, bytes) in texts {
            for secret in ["CANARY", tail.as_str()] {
                let found = bytes.windows(secret.len()).position(|part| part == secret.as_bytes());
                assert!(found.is_none(), "`{secret}` is in {name}");
            }
        }
    });
}
