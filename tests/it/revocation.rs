//! The feed that every node follows, locks, and the opening of the record, on both engines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use doorward::audit::{Actor, EventType, PersonalField};
use doorward::control::lock::{self, LockError};
use doorward::control::lock_by_caller::{self, ChangeLockError};
use doorward::control::record::{self, OpenRecordError};
use doorward::credential::seal::Sealer;
use doorward::identity::directory::Directory;
use doorward::model::{
    Clock, Entropy, Grant, GrantEnd, GrantId, GrantState, NodeId, OpenedAction, Person, Principal, RequestId,
    SessionId, Timestamp, Ttl,
};
use doorward::store::{EventFilter, RevocationKind, Store};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};

use crate::access_world::{Node, Rules, asked, caller, cut, entitlement, groups, principal};
use crate::store_record::opened;
use crate::support::{SeededEntropy, TestClock, databases};

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
async fn the_reason_of_a_lock_has_its_bound_in_characters_as_every_reason_has() {
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let (entropy, bob) = (SeededEntropy::new(1), Principal::user("dev", "bob").unwrap());
        let longer = "ж".repeat(1001);
        let refused = lock::set(&store, Actor::default(), &bob, &longer, NOW, &entropy).await;
        assert!(matches!(refused, Err(LockError::Reason)));
        let longest = "ж".repeat(1000);
        assert_eq!(lock::set(&store, Actor::default(), &bob, &longest, NOW, &entropy).await.unwrap().reason, longest);
        lock::clear(&store, Actor::default(), &bob, &longest, NOW, &entropy).await.unwrap();
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

/// Two nodes on one database.
async fn two_nodes(url: &str, clock: &TestClock, seed: u64) -> [Node; 2] {
    let nodes = [Node::start(url, clock, 1, seed).await, Node::start(url, clock, 2, seed + 1).await];
    for node in &nodes {
        node.desk().policies.store(Rules::default().set());
    }
    nodes
}

async fn bar(node: &Node, name: &str, now: Timestamp) {
    let desk = node.desk();
    lock::set(&desk.store, Actor::default(), &principal(name), "a test", now, &*desk.entropy).await.unwrap();
}

async fn unbar(node: &Node, name: &str) {
    let (desk, now) = (node.desk(), node.now());
    lock::clear(&desk.store, Actor::default(), &principal(name), "a test", now, &*desk.entropy).await.unwrap();
}

async fn prune(node: &Node, before: Timestamp) -> u64 {
    let mut tx = node.desk().store.begin().await.unwrap();
    let pruned = tx.revocation_prune(before).await.unwrap();
    tx.commit().await.unwrap();
    pruned
}

fn barred(node: &Node) -> Vec<&'static str> {
    let names = ["dev0", "dev1", "dev2", "dev3"];
    names.into_iter().filter(|name| node.desk().directory.is_locked(&principal(name))).collect()
}

fn is_live(node: &Node, id: SessionId) -> bool {
    node.desk().directory.session(id).is_some_and(|known| known.session.is_live(node.now()))
}

#[tokio::test]
async fn f12_a_node_that_was_away_for_longer_than_entries_are_kept_hears_of_everything_all_the_same() {
    for (seed, more) in [(600, false), (610, true)] {
        for url in databases() {
            let clock = TestClock::new();
            let [here, mut away] = two_nodes(&url, &clock, seed).await;
            let session = here.sign_in("dev0", groups("dev0")).await.unwrap();
            let owner = here.sign_in("owner", groups("owner")).await.unwrap();
            let (dev, owning) = (here.caller(session).await.unwrap(), here.caller(owner).await.unwrap());
            let (_, held) = here.ask(&dev, &asked("auto", Ttl::minutes(20))).await.unwrap();
            let (_, stays) = here.ask(&dev, &asked("auto", Ttl::minutes(30))).await.unwrap();
            bar(&here, "dev2", here.now()).await;
            for id in [session, owner] {
                let found = away.desk().store.session_fetch(id).await.unwrap().unwrap();
                away.desk().directory.insert(found.session);
            }
            away.follow().await;
            assert_eq!((away.held("dev0").len(), barred(&away)), (2, vec!["dev2"]));
            let streams = away.desk().directory.session(session).unwrap().streams.clone();
            // Only where something is missing is all of it read: what the database does not know stays.
            away.desk().directory.lock(&principal("dev3"));
            away.follow().await;
            assert_eq!(barred(&away), ["dev2", "dev3"]);

            let (desk, now) = (here.desk(), here.now());
            lock::clear(&desk.store, Actor::default(), &principal("dev2"), "found", now, &*desk.entropy).await.unwrap();
            bar(&here, "dev1", now).await;
            here.revoke(&owning, held.unwrap().id).await.unwrap();
            here.sign_out(session).await;
            let mut tx = desk.store.begin().await.unwrap();
            tx.token_revoke("withdrawn", now.plus(Ttl::minutes(15)), now).await.unwrap();
            tx.commit().await.unwrap();
            clock.advance(Ttl::seconds(1));
            assert!(prune(&here, clock.now()).await >= 5);
            if more {
                bar(&here, "dev3", clock.now()).await;
            }
            away.follow().await;
            let directory = &away.desk().directory;
            assert_eq!(barred(&away), if more { vec!["dev1", "dev3"] } else { vec!["dev1"] });
            assert_eq!(away.held("dev0").into_iter().map(|(id, ..)| id).collect::<Vec<_>>(), [stays.unwrap().id]);
            assert!(!is_live(&away, session) && streams.is_cancelled());
            assert!(is_live(&away, owner));
            assert!(directory.is_token_revoked("withdrawn"));
            assert_eq!(directory.confirmed_at(), clock.now());
            for node in [&here, &away] {
                node.desk().store.close().await;
            }
        }
    }
}

#[tokio::test]
async fn f12_an_entry_that_went_from_between_others_or_from_a_database_that_was_put_back_is_missed_by_nobody() {
    for url in databases() {
        let clock = TestClock::new();
        let [here, mut away] = two_nodes(&url, &clock, 620).await;
        let first = here.desk().store.revocation_latest().await.unwrap() + 1;
        // A node whose clock is behind writes what the next one prunes.
        bar(&here, "dev0", here.now()).await;
        bar(&here, "dev1", here.now().minus(Ttl::hours(25))).await;
        bar(&here, "dev2", here.now()).await;
        assert_eq!(prune(&here, here.now().minus(Ttl::hours(24))).await, 1);
        away.follow().await;
        assert_eq!(barred(&away), ["dev0", "dev1", "dev2"]);

        // The last entries are lost with their database, and their numbers are given again.
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&url).await.unwrap();
        for statement in [
            format!("delete from revocation where number > {first}"),
            "delete from principal_lock where principal_id <> 'dev|dev0'".to_owned(),
            format!("update counter set value = {first} where name = 'revocation'"),
        ] {
            connection.execute(AssertSqlSafe(statement)).await.unwrap();
        }
        connection.close().await.unwrap();
        bar(&here, "dev3", here.now()).await;
        away.follow().await;
        assert_eq!(barred(&away), ["dev0", "dev3"]);
        for node in [&here, &away] {
            node.desk().store.close().await;
        }
    }
}

#[tokio::test]
async fn a28_a_bar_stands_for_as_long_as_the_database_does_not_say_that_it_was_lifted() {
    for url in databases() {
        let clock = TestClock::new();
        let [here, mut away] = two_nodes(&url, &clock, 640).await;
        bar(&here, "dev0", here.now()).await;
        away.follow().await;
        // Lifted and set again, it stands, wherever a database that hangs breaks the reading off.
        unbar(&here, "dev0").await;
        bar(&here, "dev0", here.now()).await;
        let mut polls = 1;
        while cut(polls, away.follow()).await.is_none() {
            assert_eq!(barred(&away), ["dev0"], "after {polls}");
            polls += 1;
        }
        assert_eq!(barred(&away), ["dev0"]);
        // Broken off, the reading begins again where it was, and a bar that was lifted for good goes.
        unbar(&here, "dev0").await;
        let mut polls = 1;
        while cut(polls, away.follow()).await.is_none() {
            polls += 1;
        }
        assert!(barred(&away).is_empty());
        for node in [&here, &away] {
            node.desk().store.close().await;
        }
    }
}

#[tokio::test]
async fn a_bar_that_only_one_node_knows_goes_with_an_unlock_and_one_in_doubt_is_asked_for_anew() {
    for url in databases() {
        let clock = TestClock::new();
        let [mut here, away] = two_nodes(&url, &clock, 650).await;
        let owner = caller(&here, "owner").await;
        let desk = Arc::clone(here.desk());
        let directory = &desk.directory;
        directory.lock(&principal("dev1"));
        let name = principal("dev1").to_string();
        let told = lock_by_caller::clear(&desk, &owner, &name, "found", here.now()).await;
        assert!(matches!(told, Err(ChangeLockError::Lock(LockError::NotLocked { .. }))), "{told:?}");
        assert!(barred(&here).is_empty());
        // One that stands in the database is obeyed here, and was not lifted since.
        bar(&away, "dev1", here.now()).await;
        let told = lock_by_caller::set(&desk, &owner, &name, "stolen", here.now()).await;
        assert!(matches!(told, Err(ChangeLockError::Lock(LockError::AlreadyLocked { .. }))), "{told:?}");
        assert_eq!(barred(&here), ["dev1"]);
        // What no entry tells of is read where there is doubt, and only there.
        directory.lock(&principal("dev2"));
        here.follow().await;
        assert_eq!(barred(&here), ["dev1", "dev2"]);
        directory.doubt_locks();
        here.follow().await;
        assert_eq!(barred(&here), ["dev1"]);
        directory.lock(&principal("dev2"));
        here.follow().await;
        assert_eq!(barred(&here), ["dev1", "dev2"]);
        for node in [&here, &away] {
            node.desk().store.close().await;
        }
    }
}

#[test]
fn a28_of_two_bars_the_answer_to_the_first_lifts_only_that() {
    let (directory, dev) = (Directory::default(), principal("dev0"));
    directory.lock(&dev);
    let first = directory.bar(&dev).unwrap();
    // Set again while the database was asked of the first.
    directory.lock(&dev);
    directory.unlock_if(&dev, first);
    assert!(directory.is_locked(&dev));
    directory.unlock_if(&dev, directory.bar(&dev).unwrap());
    assert!(!directory.is_locked(&dev));
}

#[tokio::test]
async fn a28_a_view_of_a_session_that_was_read_before_its_end_or_change_is_never_entered_after_it() {
    for url in databases() {
        let clock = TestClock::new();
        let [here, mut away] = two_nodes(&url, &clock, 630).await;
        let store = &here.desk().store;
        // Two looks into the store find them as they are, and are held up.
        let mut views = Vec::new();
        for name in ["dev0", "dev1"] {
            let id = here.sign_in(name, groups(name)).await.unwrap();
            views.push(away.desk().store.session_fetch(id).await.unwrap().unwrap().session);
        }
        let (ended, changed) = (views[0].id, views[1].id);
        here.sign_out(ended).await;
        let mut tx = store.begin().await.unwrap();
        tx.session_regroup(changed, &[], here.now()).await.unwrap().unwrap();
        tx.revocation_append(RevocationKind::SessionChanged, &changed.to_string(), here.now()).await.unwrap();
        tx.commit().await.unwrap();
        away.follow().await;
        let directory = Arc::clone(&away.desk().directory);
        for view in views {
            directory.insert(view);
        }
        assert!(!is_live(&away, ended));
        assert_eq!(directory.session(changed).unwrap().session.groups, Vec::<String>::new());
        // What is known of them is bounded by their time.
        clock.advance(Ttl::hours(24 * 400));
        directory.sweep(away.now());
        assert!(directory.session(ended).is_none() && directory.session(changed).is_none());
        for node in [&here, &away] {
            node.desk().store.close().await;
        }
    }
}

#[test]
fn a28_a_grant_that_ends_while_it_is_entered_is_over() {
    const ROUNDS: usize = 10_000;
    let (entropy, directory) = (SeededEntropy::new(1), Directory::default());
    let (entropy, from, until): (&dyn Entropy, _, _) = (&entropy, NOW, NOW.plus(Ttl::minutes(10)));
    let grants: Vec<Grant> = (0..ROUNDS)
        .map(|number| Grant {
            id: GrantId::fresh(from, entropy),
            request: RequestId::fresh(from, entropy),
            entitlement: entitlement("one"),
            holder: Person {
                principal: Principal::user("dev", &format!("dev{number}")).unwrap(),
                email: None,
                email_verified: false,
                name: None,
            },
            params: BTreeMap::new(),
            actions: vec![OpenedAction::parse("write").unwrap()],
            emergency: false,
            reviews: 0,
            created_at: from,
            starts_at: from,
            length: until.since(from),
            state: GrantState::Active { from, until },
            end_reason: None,
            idle: None,
            used_at: None,
        })
        .collect();
    let over = GrantState::Over { from: Some(from), until: Some(until), end: GrantEnd::Revoked, at: from };
    let ends: Vec<Grant> = grants.iter().map(|grant| Grant { state: over, ..grant.clone() }).collect();
    // Both begin each round together, the one a little later than the other and each time a little more so.
    let begun = AtomicUsize::new(0);
    let each = |views: &[Grant], late: &dyn Fn(usize) -> usize| {
        for (round, view) in views.iter().enumerate() {
            begun.fetch_add(1, Ordering::AcqRel);
            let mut looks = 0_u32;
            while begun.load(Ordering::Acquire) < 2 * (round + 1) {
                looks += 1;
                if looks.is_multiple_of(1000) { std::thread::yield_now() } else { std::hint::spin_loop() }
            }
            (0..late(round)).for_each(|_| std::hint::spin_loop());
            directory.grant_enter(view);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| each(&grants, &|_| 0));
        each(&ends, &|round| round % 64);
    });
    let live = grants.iter().filter(|grant| directory.grant(&grant.holder.principal, grant.id).is_some()).count();
    assert_eq!(live, 0, "of {ROUNDS}");
}
