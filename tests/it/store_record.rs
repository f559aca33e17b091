//! The record in the database, on both engines: numbering without gaps, each event once.

use std::collections::BTreeSet;
use std::sync::Arc;

use doorward::audit::{Event, EventType, Outcome, PersonalField};
use doorward::model::{DecisionId, EventId, NodeId, Principal, SessionId, Timestamp, Ttl};
use doorward::store::{EventFilter, Log, Recorded, Store, StoreError, TablesFault};
use sqlx::{AnyConnection, Connection, Executor};

use crate::leaf::{decision, sealing};
use crate::support::{databases, free_port, temporary_folder};

const NOW: Timestamp = Timestamp::from_seconds(1_795_341_600);

/// A store with its tables and this node's log.
pub async fn opened(url: &str, node: u8) -> (Store, Log) {
    let store = Store::open(url).unwrap();
    store.migrate().await.unwrap();
    let log = store.log_open(NodeId::from_bytes([node; 16]), sealing(u64::from(node)), NOW).await.unwrap();
    (store, log)
}

fn state_event(number: u16) -> Event {
    let mut bytes = [0; 16];
    bytes[14..].copy_from_slice(&number.to_be_bytes());
    let mut event = Event::new(EventId::from_bytes(bytes), NOW, EventType::SessionStart, Outcome::Success);
    event.actor.principal = Principal::user("dev", "alice");
    event.actor.session = Some(SessionId::from_bytes(bytes));
    event
}

pub async fn whole_log(store: &Store, log: Log) -> Vec<Recorded> {
    let mut events = Vec::new();
    loop {
        let page = store.event_list_log(log, i64::try_from(events.len()).unwrap(), 300).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// Every number from 0 on is there once, every event is there once, every leaf is what it was, and
/// the log's next number is the next one.
pub async fn assert_gapless(store: &Store, log: Log) -> Vec<Recorded> {
    let events = whole_log(store, log).await;
    for (expected, event) in events.iter().enumerate() {
        assert_eq!(event.seq, Some(i64::try_from(expected).unwrap()));
        event.verify().unwrap();
    }
    let ids: BTreeSet<_> = events.iter().map(|event| event.clear().id).collect();
    assert_eq!(ids.len(), events.len());
    assert_eq!(store.log_size(log).await.unwrap(), i64::try_from(events.len()).unwrap());
    events
}

#[tokio::test]
async fn a_batch_is_numbered_in_its_order_and_read_back_whole() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let events: Vec<Event> = (0..200).map(|number| decision(number, &format!("/{number}"))).collect();
        let sealing = sealing(1);
        let sealed: Vec<_> = events.iter().map(|event| sealing.seal(event)).collect();
        let mut tx = store.begin().await.unwrap();
        assert_eq!(tx.record_batch(log, &sealed).await.unwrap(), 200);
        tx.commit().await.unwrap();
        let read = assert_gapless(&store, log).await;
        for (sealed, read) in sealed.iter().zip(&read) {
            assert_eq!(sealed, &read.sealed);
        }
        let found = store.decision_fetch(&DecisionId::from_bytes(*events[77].id.bytes())).await.unwrap().unwrap();
        assert_eq!(found.personal(PersonalField::Path), Some("/77"));
        assert_eq!(found.text("/request/host"), Some("ops-api.doorward.localhost"));
        assert_eq!(found.seq, Some(77));
        assert_eq!(store.decision_fetch(&DecisionId::from_bytes([0xaa; 16])).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_event_whose_id_is_known_takes_no_number() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let seal = |numbers: &[u8]| -> Vec<_> {
            numbers.iter().map(|number| sealing(2).seal(&decision(*number, "/"))).collect()
        };
        for (batch, new) in [
            (seal(&[1, 2, 3]), 3),
            (seal(&[1, 2, 3]), 0),
            (seal(&(0..100).collect::<Vec<_>>()), 97),
            (seal(&[120, 120, 3, 121]), 2),
        ] {
            let mut tx = store.begin().await.unwrap();
            assert_eq!(tx.record_batch(log, &batch).await.unwrap(), new);
            tx.commit().await.unwrap();
        }
        assert_eq!(assert_gapless(&store, log).await.len(), 102);
    }
}

#[tokio::test]
async fn an_event_commits_with_its_state_and_is_numbered_once_afterwards() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let mut tx = store.begin().await.unwrap();
        tx.event_append(&state_event(1)).await.unwrap();
        drop(tx);
        for number in [2, 3] {
            let mut tx = store.begin().await.unwrap();
            tx.event_append(&state_event(number)).await.unwrap();
            tx.commit().await.unwrap();
        }
        let before = store.event_fetch(&state_event(2).id).await.unwrap().unwrap();
        assert_eq!((before.seq, before.leaf), (None, None));
        assert_eq!(store.number_pending(log, NOW).await.unwrap(), 2);
        assert_eq!(store.number_pending(log, NOW).await.unwrap(), 0);
        assert_eq!(assert_gapless(&store, log).await.len(), 2);
        assert_eq!(store.event_fetch(&state_event(1).id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_rolled_back_transaction_leaves_no_gap() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        for number in 0..6 {
            let mut tx = store.begin().await.unwrap();
            tx.record_batch(log, &[sealing(3).seal(&decision(number, "/"))]).await.unwrap();
            if number % 2 == 0 {
                tx.commit().await.unwrap();
            }
        }
        assert_eq!(assert_gapless(&store, log).await.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_writers_and_sequencers_leave_no_gap() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let (other, other_log) = opened(&url, 2).await;
        assert_ne!(log, other_log);
        let (store, other) = (Arc::new(store), Arc::new(other));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40u16 {
            let (store, other) = (Arc::clone(&store), Arc::clone(&other));
            tasks.spawn(async move {
                let mut tx = store.begin().await.unwrap();
                tx.event_append(&state_event(number)).await.unwrap();
                if number % 4 == 3 {
                    drop(tx);
                } else {
                    tx.commit().await.unwrap();
                }
                store.number_pending(log, NOW).await.unwrap();
                let mut tx = other.begin().await.unwrap();
                let batch = [sealing(5).seal(&decision(u8::try_from(number).unwrap(), "/"))];
                tx.record_batch(other_log, &batch).await.unwrap();
                tx.commit().await.unwrap();
                // The other node takes over only what is old.
                other.number_pending(other_log, NOW).await.unwrap();
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        store.number_pending(log, NOW).await.unwrap();
        assert_eq!(assert_gapless(&store, log).await.len(), 30);
        assert_eq!(assert_gapless(&other, other_log).await.len(), 40);
    }
}

#[tokio::test]
async fn what_a_lost_node_left_unnumbered_is_numbered_by_another() {
    for url in databases() {
        let (lost, _) = opened(&url, 1).await;
        let mut tx = lost.begin().await.unwrap();
        tx.event_append(&state_event(1)).await.unwrap();
        tx.commit().await.unwrap();
        let (store, log) = opened(&url, 2).await;
        assert_eq!(store.number_pending(log, NOW.plus(Ttl::seconds(60))).await.unwrap(), 0);
        assert_eq!(store.number_pending(log, NOW.plus(Ttl::seconds(61))).await.unwrap(), 1);
        assert_eq!(assert_gapless(&store, log).await.len(), 1);
    }
}

#[tokio::test]
async fn a_log_goes_on_where_it_was_after_a_restart() {
    for url in databases() {
        for round in 0..3 {
            let (store, log) = opened(&url, 1).await;
            let mut tx = store.begin().await.unwrap();
            tx.record_batch(log, &[sealing(3).seal(&decision(round, "/"))]).await.unwrap();
            tx.commit().await.unwrap();
            assert_eq!(assert_gapless(&store, log).await.len(), usize::from(round) + 1);
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a64_what_is_altered_in_the_database_is_noticed() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let mut tx = store.begin().await.unwrap();
        tx.record_batch(log, &[sealing(3).seal(&decision(1, "/"))]).await.unwrap();
        tx.commit().await.unwrap();
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(&url).await.unwrap();
        let altered = [
            ("update audit_event set outcome = 'denied'", "update audit_event set outcome = 'success'"),
            ("update audit_event set actor = null", ""),
        ];
        for (change, back) in altered {
            sqlx::query(change).execute(&pool).await.unwrap();
            assert!(whole_log(&store, log).await[0].verify().is_err(), "{change}");
            if !back.is_empty() {
                sqlx::query(back).execute(&pool).await.unwrap();
                whole_log(&store, log).await[0].verify().unwrap();
            }
        }
        sqlx::query("update audit_event set personal = '{}'").execute(&pool).await.unwrap();
        let found = store.event_list_log(log, 0, 10).await;
        assert!(matches!(found, Err(StoreError::Inconsistent { column: "personal", .. })), "{found:?}");
        pool.close().await;
    }
}

#[tokio::test]
async fn events_are_listed_newest_first_by_what_is_asked() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let mut tx = store.begin().await.unwrap();
        let sealing = sealing(3);
        let sealed: Vec<_> = (0..10).map(|number| sealing.seal(&decision(number, "/"))).collect();
        tx.record_batch(log, &sealed).await.unwrap();
        tx.event_append(&state_event(1)).await.unwrap();
        tx.commit().await.unwrap();
        let ids = |found: Vec<Recorded>| found.into_iter().map(|event| event.clear().id).collect::<Vec<_>>();
        let all = EventFilter { kind: Some(EventType::DecisionAllow), ..EventFilter::default() };
        let first = ids(store.event_list(&all, 4).await.unwrap());
        assert_eq!(first, (6..10).rev().map(|number| decision(number, "/").id).collect::<Vec<_>>());
        let next = EventFilter { before: first.last().copied(), ..all };
        assert_eq!(ids(store.event_list(&next, 100).await.unwrap()).len(), 6);
        let session = EventFilter { session: state_event(1).actor.session, ..EventFilter::default() };
        assert_eq!(ids(store.event_list(&session, 100).await.unwrap()), [state_event(1).id]);
        let alice = sealing.pseudonyms().of(&Principal::user("dev", "alice").unwrap());
        let by = EventFilter { actor: Some(alice), from: Some(decision(8, "/").time), ..EventFilter::default() };
        assert_eq!(store.event_list(&by, 100).await.unwrap().len(), 2);
        let service = decision(1, "/").service;
        let about =
            EventFilter { service: service.as_ref(), to: Some(decision(3, "/").time), ..EventFilter::default() };
        assert_eq!(store.event_list(&about, 100).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn an_event_before_the_log_is_open_is_refused() {
    for url in databases() {
        let store = Store::open(&url).unwrap();
        store.migrate().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        assert!(matches!(tx.event_append(&state_event(1)).await, Err(StoreError::NoLog)));
    }
}

#[tokio::test]
async fn tables_of_an_earlier_version_are_known_and_brought_up_to_date() {
    for url in databases() {
        let store = Store::open(&url).unwrap();
        assert!(!store.has_tables().await.unwrap() && !store.is_of_earlier_version().await.unwrap());
        store.migrate().await.unwrap();
        assert!(store.has_tables().await.unwrap() && !store.is_of_earlier_version().await.unwrap());
        sqlx::any::install_default_drivers();
        let mut outside = AnyConnection::connect(&url).await.unwrap();
        // As it was before an index was made anew.
        for text in [
            "drop index audit_event_emergency_kind",
            "create index audit_event_emergency on audit_event (id) where type < 'c'",
            "delete from _sqlx_migrations where version = 24",
        ] {
            outside.execute(text).await.unwrap();
        }
        assert!(store.is_of_earlier_version().await.unwrap());
        store.migrate().await.unwrap();
        assert!(!store.is_of_earlier_version().await.unwrap());
    }
}

#[tokio::test]
async fn tables_that_are_not_this_versions_are_named_and_left_as_they_are() {
    sqlx::any::install_default_drivers();
    for url in databases() {
        let store = Store::open(&url).unwrap();
        store.ping().await.unwrap();
        let mut outside = AnyConnection::connect(&url).await.unwrap();
        let refused = async |fault: TablesFault| {
            assert_eq!(store.tables_fault().await.unwrap(), Some(fault.clone()));
            let error = store.migrate().await.unwrap_err();
            assert!(error.is_wrong(), "{error}");
            assert_eq!(error.to_string().matches(fault.remedy()).count(), 1, "{error}");
        };
        outside.execute("create table session (id bigint)").await.unwrap();
        refused(TablesFault::Foreign { table: "session".to_owned() }).await;
        assert!(!store.has_tables().await.unwrap(), "nothing of ours was left there");
        outside.execute("drop table session").await.unwrap();
        store.migrate().await.unwrap();
        assert_eq!(store.tables_fault().await.unwrap(), None);
        let more = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                    select 9999, description, success, checksum, execution_time from _sqlx_migrations where version = 1";
        outside.execute(more).await.unwrap();
        refused(TablesFault::Newer { version: 9999 }).await;
        outside.execute("delete from _sqlx_migrations where version = 9999").await.unwrap();
        let other = "update _sqlx_migrations set checksum = (select checksum from _sqlx_migrations where version = 1) \
                     where version = 2";
        outside.execute(other).await.unwrap();
        refused(TablesFault::Altered { version: 2 }).await;
        outside.execute("delete from _sqlx_migrations where version = 1").await.unwrap();
        outside.execute("update _sqlx_migrations set version = 1000 where version = 2").await.unwrap();
        outside.execute("delete from _sqlx_migrations where version < 1000").await.unwrap();
        refused(TablesFault::Foreign { table: "_sqlx_migrations".to_owned() }).await;
    }
}

#[tokio::test]
async fn a_database_that_is_not_reached_says_why_and_whether_waiting_helps() {
    let folder = temporary_folder();
    let file = folder.path().join("text.db");
    std::fs::write(&file, "this is a text and no database\n".repeat(300)).unwrap();
    let store = Store::open(&format!("sqlite://{}", file.display())).unwrap();
    for error in [store.ping().await.unwrap_err(), store.has_tables().await.unwrap_err()] {
        let told = error.to_string();
        assert!(told.contains("file is not a database") && !told.contains("timed out"), "{told}");
        assert!(error.is_wrong() && told.contains("[storage] url"), "{told}");
    }
    store.close().await;
    let store = Store::open(&format!("postgres://postgres@127.0.0.1:{}/none", free_port())).unwrap();
    let error = store.ping().await.unwrap_err();
    assert!(error.to_string().contains("refused") && !error.is_wrong(), "{error}");
    assert!(std::error::Error::source(&error).is_none(), "each cause is said once");
    store.close().await;
}
