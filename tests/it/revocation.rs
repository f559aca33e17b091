//! The feed that every node follows, locks, and the opening of the record, on both engines.

use std::sync::Arc;

use doorward::audit::{Actor, EventType, PersonalField};
use doorward::control::lock::{self, LockError};
use doorward::control::record::{self, OpenRecordError};
use doorward::credential::seal::Sealer;
use doorward::model::{NodeId, Principal, Timestamp};
use doorward::store::{EventFilter, RevocationKind, Store};

use crate::store_record::opened;
use crate::support::{SeededEntropy, databases};

const NOW: Timestamp = Timestamp::from_seconds(1_795_341_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_is_numbered_in_the_order_of_commits_and_a_roll_back_leaves_no_gap() {
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..30 {
            let store = store.clone();
            tasks.spawn(async move {
                let mut tx = store.begin().await.unwrap();
                tx.revocation_append(RevocationKind::SessionEnded, &format!("ses_{number}"), NOW).await.unwrap();
                if number % 3 != 0 {
                    tx.commit().await.unwrap();
                }
            });
        }
        // A follower that never goes back must see every entry.
        let (mut seen, mut last) = (Vec::new(), 0);
        while seen.len() < 20 {
            for entry in store.revocation_since(last, 3).await.unwrap() {
                assert_eq!(entry.number, last + 1);
                last = entry.number;
                seen.push(entry.subject);
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(store.revocation_latest().await.unwrap(), 20);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 20);
        let mut tx = store.begin().await.unwrap();
        assert_eq!(tx.revocation_prune(Timestamp::from_millis(NOW.millis() + 1)).await.unwrap(), 20);
        tx.commit().await.unwrap();
        assert_eq!(store.revocation_latest().await.unwrap(), 20);
    }
}

#[tokio::test]
async fn a_lock_is_set_once_told_recorded_and_lifted() {
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let entropy = SeededEntropy::new(1);
        let bob = Principal::user("dev", "bob").unwrap();
        let carol = Actor { principal: Principal::user("dev", "carol"), ..Actor::default() };
        let by = || carol.clone();
        let none = lock::clear(&store, by(), &bob, "mistake", NOW, &entropy).await;
        assert!(matches!(none, Err(LockError::NotLocked { .. })));
        let none = lock::set(&store, by(), &bob, "  ", NOW, &entropy).await;
        assert!(matches!(none, Err(LockError::Reason)));

        let set = lock::set(&store, by(), &bob, "laptop stolen", NOW, &entropy).await.unwrap();
        assert_eq!(store.lock_fetch(&bob).await.unwrap(), Some(set.clone()));
        let twice = lock::set(&store, by(), &bob, "again", NOW, &entropy).await;
        assert!(matches!(twice, Err(LockError::AlreadyLocked { .. })));
        assert_eq!(lock::list(&store).await.unwrap(), [set]);
        lock::clear(&store, by(), &bob, "found", NOW, &entropy).await.unwrap();
        assert_eq!(lock::list(&store).await.unwrap(), []);
        lock::set(&store, by(), &bob, "stolen again", NOW, &entropy).await.unwrap();

        let feed = store.revocation_since(0, 10).await.unwrap();
        let told: Vec<_> = feed.iter().map(|entry| (entry.kind, entry.subject.as_str())).collect();
        let name = bob.to_string();
        assert_eq!(
            told,
            [
                (RevocationKind::LockSet, &*name),
                (RevocationKind::LockCleared, &*name),
                (RevocationKind::LockSet, &*name),
            ]
        );
        let events = store.event_list(&EventFilter::default(), 10).await.unwrap();
        assert_eq!(events.len(), 3);
        let cleared = events.iter().find(|event| event.clear().kind == EventType::LockCleared).unwrap();
        assert_eq!(cleared.personal(PersonalField::Subject), Some(&*name));
        assert_eq!(cleared.text("/data/reason"), Some("found"));
    }
}

#[tokio::test]
async fn the_record_opens_with_the_key_that_it_was_made_with() {
    for url in databases() {
        let sealer = Sealer::new(&[5; 32]).unwrap();
        let alice = Principal::user("dev", "alice").unwrap();
        let mut pseudonyms = Vec::new();
        for seed in 0..3 {
            let store = Store::open(&url).unwrap();
            store.migrate().await.unwrap();
            let node = NodeId::from_bytes([1; 16]);
            record::open(&store, &sealer, node, NOW, Arc::new(SeededEntropy::new(seed))).await.unwrap();
            pseudonyms.push(store.pseudonym(&alice).unwrap());
        }
        assert!(pseudonyms.iter().all(|pseudonym| *pseudonym == pseudonyms[0]));
        let store = Store::open(&url).unwrap();
        let other = Sealer::new(&[6; 32]).unwrap();
        let node = NodeId::from_bytes([1; 16]);
        let refused = record::open(&store, &other, node, NOW, Arc::new(SeededEntropy::new(1))).await;
        assert!(matches!(refused, Err(OpenRecordError::Sealed(_))), "{refused:?}");
    }
}
