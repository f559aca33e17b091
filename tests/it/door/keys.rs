//! Keys that change while the door runs: f11.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use doorward::config;
use doorward::server::ambient::SystemEntropy;
use doorward::server::run::{Running, Start, start};
use doorward::store::RevocationKind;

use super::fixture::{Plan, with_stopping_door};

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..300 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}");
}

/// Another node says that it has made a key; gives the version of the keys that this one then has.
async fn changed(running: &Running) -> u64 {
    let (desk, snapshot) = (&running.desk, &running.shared.snapshot);
    let before = snapshot.load().generation;
    let mut tx = desk.store.begin().await.unwrap();
    tx.revocation_append(RevocationKind::KeysChanged, "key_of_another_node", desk.clock.now()).await.unwrap();
    tx.commit().await.unwrap();
    until("the keys were not read again", || snapshot.load().generation > before).await;
    snapshot.load().keys.version
}

#[test]
fn f11_each_change_of_keys_is_told_apart_from_the_one_before_after_a_start_without_the_database_too() {
    with_stopping_door(Plan::default(), async |mut door| {
        let running = door.running.take().unwrap();
        let first = running.shared.snapshot.load().keys.version;
        assert_eq!([changed(&running).await, changed(&running).await], [first + 1, first + 2]);
        tokio::task::block_in_place(|| running.stop());
        // In the place of the database is something that is none.
        let (file, aside) = (door.dir.join("doorward.db"), door.dir.join("doorward.gone"));
        std::fs::rename(&file, &aside).unwrap();
        std::fs::create_dir(&file).unwrap();
        let variables = [
            ("DOORWARD__SERVER__THREADS", "1"),
            ("DOORWARD__SERVER__DRAIN", "0s"),
            ("DOORWARD__TELEMETRY__LISTEN", "127.0.0.1:0"),
        ];
        let environment: config::Environment =
            variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let config = config::load(&door.dir.join("doorward.toml"), &environment).unwrap();
        let (clock, entropy) = (Arc::new(door.clock.clone()), Arc::new(SystemEntropy));
        let begin = Start { config, environment, listener: None, clock, entropy };
        let running = tokio::task::block_in_place(|| start(begin)).unwrap_or_else(|error| panic!("{error}"));
        let is_emergency = || running.shared.emergency.load(Ordering::Acquire);
        assert!(is_emergency());
        let mut versions = vec![running.shared.snapshot.load().keys.version];
        std::fs::remove_dir(&file).unwrap();
        std::fs::rename(&aside, &file).unwrap();
        until("the database is back, and nobody saw it", || !is_emergency()).await;
        versions.push(running.shared.snapshot.load().keys.version);
        for _ in 0..2 {
            versions.push(changed(&running).await);
        }
        // What is remembered of tokens is remembered by this number.
        assert!(versions.is_sorted_by(|earlier, later| earlier < later), "{versions:?}");
        door.running = Some(running);
        door
    });
}
