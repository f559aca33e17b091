//! A gateway that is killed just after it sent a batch and before it could note that: the real binary,
//! SIGKILL, and what the receiver has compared with the record.

use std::collections::BTreeSet;
use std::time::Duration;

use doorward::model::Clock;
use doorward::server::ambient::SystemClock;
use doorward::store::Store;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::crash::{HUNG, Installation, installation, terminate, upstream};
use crate::support::{TestClock, databases};
use crate::syslog_sink::{Asks, SyslogSink};

const ROUNDS: usize = 4;

/// Adds a stream to `sink` to the configuration.
fn add_stream(installation: &Installation, sink: &SyslogSink) {
    let authority = installation.folder.path().join("log-ca.pem");
    std::fs::write(&authority, &sink.authority_pem).unwrap();
    let mut text = std::fs::read_to_string(&installation.path).unwrap();
    text.push_str(&format!(
        "\n[[audit.stream]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"localhost:{}\"\nca = \"log-ca.pem\"\n\
         allow_loopback = true\nfrom = \"beginning\"\nbatch = 3\ninterval = \"100ms\"\n",
        sink.port
    ));
    std::fs::write(&installation.path, text).unwrap();
}

/// The numbers that came, in their order, of the only log.
fn numbers(sink: &SyslogSink) -> Vec<u64> {
    let lines = sink.got().into_iter().map(|received| serde_json::from_str::<Value>(&received.text).unwrap());
    lines.map(|line| line["seq"].as_u64().unwrap()).collect()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < HUNG, "{what}");
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_is_killed_between_sending_and_noting_it_loses_nothing() {
    for database in databases() {
        let mut tasks = JoinSet::new();
        let (address, _) = upstream(&mut tasks).await;
        let installation = installation(&database, address, &mut tasks).await;
        let sink = SyslogSink::start(&TestClock::at(SystemClock.now()), Asks::Nothing).await;
        add_stream(&installation, &sink);
        for _ in 0..ROUNDS {
            let before = numbers(&sink).len();
            let (mut child, _) = installation.start().await;
            until("something comes", async || numbers(&sink).len() > before).await;
            child.kill().await.unwrap();
        }
        let (mut child, _) = installation.start().await;
        let store = Store::open(&database).unwrap();
        let mut size = 0;
        until("all of it comes", async || {
            let positions = store.stream_positions("siem").await.unwrap();
            assert_eq!(positions.len(), 1);
            size = positions[0].size;
            positions[0].lag() == 0 && size > 0
        })
        .await;
        terminate(&installation, &mut child).await;
        let came = numbers(&sink);
        assert!(came.len() > usize::try_from(size).unwrap(), "some came twice, else nothing was killed in time");
        let distinct: BTreeSet<u64> = came.iter().copied().collect();
        assert!((0..size).all(|seq| distinct.contains(&seq)), "{size} events, {distinct:?}");
        let mut first = Vec::new();
        for seq in came {
            if !first.contains(&seq) {
                first.push(seq);
            }
        }
        assert!(first.is_sorted(), "{first:?}");
        store.close().await;
    }
}
