//! What `doctor` and a start see of a record whose database was altered: the tree is held against the
//! checkpoints that are kept and against those of a witness, in a look whose cost does not grow with it.

use std::sync::atomic::Ordering;

use doorward::audit::EventType;
use doorward::audit::checkpoint::LogName;
use doorward::audit::filter::Filter;
use doorward::config::Witness;
use doorward::control::audit::root::Root;
use doorward::control::audit::tree::LogTree;
use doorward::control::audit::tree_check::{self, Depth, Fault, Seen};
use doorward::model::{NodeId, Ttl};
use doorward::server::tree::Keeper;
use doorward::server::witness_file;

use crate::api_house::House;
use crate::audit_stream::{happens, numbered, quiet};
use crate::audit_verify::{Node, node};
use crate::leaf::{decision, sealing};
use crate::support::{databases, sqlite_database, temporary_folder};

const LOG: LogName = LogName::Node(NodeId::from_bytes([1; 16]));

async fn looked(node: &Node, witnessed: &[String]) -> Result<Seen, String> {
    let root = node.root().await;
    let all = tree_check::all(&node.store, root.key(), witnessed).await.unwrap();
    let mut of_node = None;
    for (log, seen) in all {
        match seen {
            Ok(seen) if log == LOG => of_node = Some(seen),
            Ok(_) => {}
            Err(fault) => return Err(format!("{log}: {fault}")),
        }
    }
    Ok(of_node.unwrap())
}

async fn alter(url: &str, statements: &[&str]) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    for statement in statements {
        let done = sqlx::query(sqlx::AssertSqlSafe((*statement).to_owned())).execute(&pool).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }
    pool.close().await;
}

/// A log of a thousand events under three checkpoints, and the newest checkpoints as a witness has them.
async fn grown(url: &str) -> (Node, Vec<String>) {
    let mut one = node(url, 1).await;
    for count in [300, 400, 300] {
        one.record(count).await;
    }
    let witnessed = one.export(&Filter::default()).await.evidence.checkpoints;
    (one, witnessed)
}

#[tokio::test]
async fn a_record_that_is_what_it_was_is_told_as_such() {
    for url in databases() {
        let (one, witnessed) = grown(&url).await;
        let seen = looked(&one, &witnessed).await.unwrap();
        // The checkpoint of nothing, that of the opening, is one of them.
        assert_eq!((seen.size, seen.checkpoints, seen.witnessed, seen.ahead), (1000, 4, 1, 0));
        assert_eq!(seen.leaves, 1000, "three full tiles and what is behind them");
        // At the start only checkpoints are looked at.
        let root = one.root().await;
        let quick = tree_check::one(&one.store, root.key(), LOG, &witnessed, Depth::Checkpoints).await.unwrap();
        assert_eq!((quick.leaves, quick.checkpoints, quick.witnessed), (0, 4, 1));
    }
}

#[tokio::test]
async fn what_was_altered_in_the_database_is_seen() {
    let cases: [(&[&str], &str); 9] = [
        (
            &[
                "update audit_event set leaf = (select leaf from audit_event where log = 1 and seq = 0) where log = 1 and seq = 999",
            ],
            "event 999 is not the one that was hashed",
        ),
        (
            &[
                "update audit_event set leaf = (select leaf from audit_event where log = 1 and seq = 0) where log = 1 and seq = 300",
            ],
            "event 300 is not the one that was hashed",
        ),
        (&["delete from audit_event where log = 1 and seq = 998"], "event 998 is missing"),
        (
            &[
                "update audit_tile set hashes = (select hashes from audit_tile where log = 1 and level = 0 and place = 0) where log = 1 and level = 0 and place = 1",
            ],
            "its first 300 events are not those that a checkpoint was signed over",
        ),
        (&["delete from audit_tile where log = 1 and level = 0 and place = 1"], "a tile is missing"),
        (
            &[
                "update audit_checkpoint set root = (select root from audit_checkpoint where log = 1 and size = 300) where log = 1 and size = 700",
            ],
            "the checkpoint of 700 events is not what its signed note says",
        ),
        (
            &[
                "update audit_checkpoint set note = (select note from audit_checkpoint where log = 0 limit 1) where log = 1 and size = 700",
            ],
            "the checkpoint of 700 events is not signed by a key of the log",
        ),
        (
            &["update audit_log set next_seq = 900 where number = 1"],
            "it has 900 events, and its last checkpoint is of 1000",
        ),
        (&["update audit_log_signer set certificate = 'none' where log = 1"], "not certified by the root key"),
    ];
    for (statements, part) in cases {
        let url = sqlite_database();
        let (one, witnessed) = grown(&url).await;
        alter(&url, statements).await;
        let told = looked(&one, &witnessed).await.unwrap_err();
        assert!(told.contains(part), "{statements:?}: {told}");
    }
}

#[tokio::test]
async fn a_tail_that_was_cut_with_its_checkpoint_is_seen_by_the_witness_alone() {
    for url in databases() {
        let mut one = node(&url, 1).await;
        one.record(300).await;
        let older = one.export(&Filter::default()).await.evidence.checkpoints;
        one.record(100).await;
        let newer = one.export(&Filter::default()).await.evidence.checkpoints;
        assert_eq!(looked(&one, &older).await.unwrap().witnessed, 1, "an older checkpoint is of the same tree");
        // Whoever owns the database sets everything back to where it was.
        let path = [
            "delete from audit_event where log = 1 and seq >= 300",
            "delete from audit_checkpoint where log = 1 and size > 300",
            "update audit_log set next_seq = 300 where number = 1",
        ];
        alter(&url, &path).await;
        let told = looked(&one, &newer).await.unwrap_err();
        assert!(told.contains("a witness has seen 400 events, and there are 300: it was cut off"), "{told}");
        alter(&url, &["delete from audit_checkpoint where log = 1"]).await;
        let told = looked(&one, &newer).await.unwrap_err();
        assert!(told.contains("a witness has a checkpoint of 400 events, and there is none here"), "{told}");
    }
}

#[tokio::test]
async fn another_history_is_seen_by_the_witness_alone() {
    // The same keys, and one event that is another.
    let (here, there) = (sqlite_database(), sqlite_database());
    let mut one = node(&here, 1).await;
    let mut two = node(&there, 1).await;
    let events = |at: u8, path: &str| -> Vec<_> {
        let sealing = sealing(1);
        (0..200).map(|number| sealing.seal(&decision(number, if number == at { path } else { "/" }))).collect()
    };
    one.keep(&events(150, "/one")).await;
    two.keep(&events(150, "/other")).await;
    let witnessed = one.export(&Filter::default()).await.evidence.checkpoints;
    assert_eq!(one.root().await.key(), two.root().await.key());
    assert!(looked(&two, &[]).await.is_ok(), "by itself it holds");
    let told = looked(&two, &witnessed[1..]).await.unwrap_err();
    assert!(told.contains("against a witness: its first 200 events are not those"), "{told}");
    // And one of another installation is none of this.
    let other = node(&sqlite_database(), 7).await;
    let told = looked(&other, &witnessed).await.unwrap_err();
    assert!(told.contains("is of another installation"), "{told}");
}

#[tokio::test]
async fn a_witness_file_gives_the_newest_of_each_log_and_passes_over_a_torn_end() {
    let (one, witnessed) = grown(&sqlite_database()).await;
    let folder = temporary_folder();
    let path = folder.path().join("witness.checkpoints");
    assert_eq!(witness_file::newest(&path).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    std::fs::write(&path, "").unwrap();
    assert!(witness_file::newest(&path).unwrap().is_empty());
    let kept: Vec<String> =
        one.store.checkpoints_before(LOG, 2000, 10).await.unwrap().into_iter().rev().map(|kept| kept.note).collect();
    // Long enough that only its end is read, which begins within a note.
    let long = format!("{}{}", kept.concat().repeat(2000), witnessed.concat());
    assert!(long.len() > 1_200_000);
    for torn in ["", "doorward-x/nod_1\n17\n", "doorward-x/nod_1\n17\nAAAA\n\n— doorward-x"] {
        std::fs::write(&path, format!("{long}{torn}")).unwrap();
        let mut found = witness_file::newest(&path).unwrap();
        found.sort();
        let mut expected = witnessed.clone();
        expected.sort();
        assert_eq!(found, expected, "{torn:?}");
        assert_eq!(looked(&one, &found).await.unwrap().witnessed, 1);
    }
    std::fs::write(&path, format!("{long}something else\n\n— x y\n")).unwrap();
    assert!(witness_file::newest(&path).is_err());
}

#[tokio::test]
async fn a_database_that_is_away_is_no_fault_of_the_record() {
    let (one, _) = grown(&sqlite_database()).await;
    let root = one.root().await;
    one.store.close().await;
    let seen = tree_check::one(&one.store, root.key(), LOG, &[], Depth::Leaves).await;
    assert!(matches!(seen, Err(Fault::Store(_))), "{seen:?}");
}

#[tokio::test]
async fn a_start_holds_the_record_against_its_witness_and_signs_nothing_over_one_that_was_cut() {
    for url in databases() {
        let house = House::new(&url).await;
        let (desk, folder) = (&house.desk, temporary_folder());
        let file = folder.path().join("witness.checkpoints");
        let start = async || {
            let keeper = Keeper::new(vec![Witness::File(file.clone())], Ttl::hours(24 * 400));
            keeper.open(desk, house.now()).await.unwrap();
            keeper.state.consistent.load(Ordering::Relaxed)
        };
        assert_eq!(start().await, 1, "there is no file yet");
        let root = Root::open(&desk.store, &desk.sealer).await.unwrap();
        let mut tree = LogTree::open(&desk.store, &desk.sealer, &root, house.now(), &*desk.entropy).await.unwrap();
        let (alice, _, _) = house.command_line("alice").await;
        assert_eq!(house.get(&alice, "/api/v1/whoami").await.status, 200);
        let log = desk.store.own_log().unwrap();
        while desk.store.number_pending(log, house.now()).await.unwrap() > 0 {}
        let size = tree.grow(&desk.store, house.now()).await.unwrap().size;
        assert!(size > 2, "{size}");
        let name = LogName::Node(*log.node());
        let newest = desk.store.checkpoint_last(name).await.unwrap().unwrap().note;
        std::fs::write(&file, &newest).unwrap();
        assert_eq!(start().await, 1);

        let statements = async || desk.store.checkpoint_last(LogName::Installation).await.unwrap().unwrap().size;
        let before = statements().await;
        alter(
            &url,
            &[
                "delete from audit_event where log = 1 and seq >= 1",
                "delete from audit_checkpoint where log = 1 and size > 0",
                "update audit_log set next_seq = 1 where number = 1",
            ],
        )
        .await;
        assert_eq!(start().await, 0);
        assert_eq!(statements().await, before, "nothing is signed over it");
    }
}

async fn keeper_of(house: &House) -> Keeper {
    let keeper = Keeper::new(Vec::new(), Ttl::hours(24 * 400));
    keeper.open(&house.desk, house.now()).await.unwrap();
    keeper
}

fn is_consistent(keeper: &Keeper) -> bool {
    keeper.state.consistent.load(Ordering::Relaxed) == 1
}

async fn happen(house: &House, numbers: std::ops::Range<u8>) {
    for number in numbers {
        happens(house, &numbered(house, number, EventType::LockSet)).await;
    }
}

/// The same in one batch, as decisions come: this process remembers what it numbered.
async fn recorded(house: &House, numbers: std::ops::Range<u8>) {
    let store = &house.desk.store;
    let sealing = store.sealing().unwrap();
    let events: Vec<_> = numbers.map(|number| sealing.seal(&numbered(house, number, EventType::LockSet))).collect();
    let mut tx = store.begin().await.unwrap();
    tx.record_batch(store.own_log().unwrap(), &events).await.unwrap();
    tx.commit().await.unwrap();
}

/// How many events are under the newest checkpoint, of a record that is what its checkpoints say.
async fn kept(house: &House) -> u64 {
    let root = Root::open(&house.desk.store, &house.desk.sealer).await.unwrap();
    let found = tree_check::all(&house.desk.store, root.key(), &[]).await.unwrap();
    let seen = found.into_iter().map(|(log, seen)| seen.unwrap_or_else(|fault| panic!("{log}: {fault}")));
    seen.filter(|seen| seen.log == LOG).map(|seen| seen.size).next().unwrap()
}

/// Takes the newest events away, as a failover does to a replica that was behind.
async fn lose_from(url: &str, size: u64, checkpoints: &str) {
    let events = format!("delete from audit_event where log = 1 and seq >= {size}");
    let next = format!("update audit_log set next_seq = {size} where number = 1");
    alter(url, &[events.as_str(), next.as_str()]).await;
    if !checkpoints.is_empty() {
        alter(url, &[checkpoints]).await;
    }
}

#[tokio::test]
async fn f3_nothing_is_signed_over_what_a_failover_lost_while_the_node_ran() {
    // No event came since, fewer than were lost, and more.
    for more in [0, 4, 15] {
        for url in databases() {
            let house = quiet(&url).await;
            let keeper = keeper_of(&house).await;
            happen(&house, 1..6).await;
            keeper.attend(&house.desk).await;
            let size = kept(&house).await;
            happen(&house, 10..20).await;
            keeper.attend(&house.desk).await;
            assert_eq!((kept(&house).await, is_consistent(&keeper)), (size + 10, true));

            let checkpoints = format!("delete from audit_checkpoint where log = 1 and size > {size}");
            lose_from(&url, size, &checkpoints).await;
            happen(&house, 30..30 + more).await;
            for _ in 0..3 {
                keeper.attend(&house.desk).await;
                assert!(!is_consistent(&keeper), "{more} more");
                assert_eq!(kept(&house).await, size, "nothing is signed");
            }
            // A new start holds what is there against witnesses only, and goes on from it.
            let again = keeper_of(&house).await;
            again.attend(&house.desk).await;
            assert_eq!((kept(&house).await, is_consistent(&again)), (size + u64::from(more), true));
            house.desk.store.close().await;
        }
    }
}

#[tokio::test]
async fn f3_what_was_lost_before_a_checkpoint_was_signed_over_it_is_told_and_the_tree_goes_on() {
    for url in databases() {
        let house = quiet(&url).await;
        let keeper = keeper_of(&house).await;
        keeper.attend(&house.desk).await;
        let size = kept(&house).await;
        recorded(&house, 10..16).await;
        lose_from(&url, size + 2, "").await;
        keeper.attend(&house.desk).await;
        assert!(!is_consistent(&keeper), "this process remembers more events than there are");
        assert_eq!(kept(&house).await, size);
        keeper.attend(&house.desk).await;
        assert_eq!((kept(&house).await, is_consistent(&keeper)), (size + 2, true));
        happen(&house, 30..33).await;
        keeper.attend(&house.desk).await;
        assert_eq!((kept(&house).await, is_consistent(&keeper)), (size + 5, true));
        house.desk.store.close().await;
    }
}

#[tokio::test]
async fn a_tree_that_another_process_of_the_node_let_grow_is_followed() {
    for url in databases() {
        let house = quiet(&url).await;
        let (one, two) = (keeper_of(&house).await, keeper_of(&house).await);
        let statements = async || house.desk.store.checkpoint_last(LogName::Installation).await.unwrap().unwrap().size;
        let before = statements().await;
        for (round, keeper) in [&one, &two, &two, &one].into_iter().enumerate() {
            let first = 10 + 10 * u8::try_from(round).unwrap();
            happen(&house, first..first + 3).await;
            keeper.attend(&house.desk).await;
        }
        two.attend(&house.desk).await;
        let log = house.desk.store.own_log().unwrap();
        let events = u64::try_from(house.desk.store.log_size(log).await.unwrap()).unwrap();
        assert_eq!((kept(&house).await, is_consistent(&one), is_consistent(&two)), (events, true, true));
        assert_eq!(statements().await, before, "none of them was opened anew");
        house.desk.store.close().await;
    }
}

#[tokio::test]
async fn f6_a_witness_that_is_a_pipe_keeps_no_start_waiting() {
    let folder = temporary_folder();
    let pipe = folder.path().join("witness.checkpoints");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(witness_file::newest(&pipe).unwrap_err().to_string().contains("no regular file"));
    let began = std::time::Instant::now();
    assert!(doorward::server::tree::witnessed(&[&Witness::File(pipe)]).await.is_empty());
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
}
