//! The worst day with the real binary: PostgreSQL and the provider are stopped, the node starts again
//! without either; three of five custodians open the door with what they have, one of them with the
//! real `ssh-keygen`; the work is done; both come back, and everything is in a record that verifies.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use doorward::audit::{EventType, PersonalField};
use doorward::server::dev::door::DOMAIN;
use doorward::store::{Recorded, Store};
use serde_json::Value;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::away::{Cluster, Database, told};
use crate::crash::{Installation, PROGRAM, assert_whole, events, installation, terminate, upstream};

/// How long custodians may need from nothing to the first answer.
const MINUTE: Duration = Duration::from_secs(60);

struct Hand<'a> {
    installation: &'a Installation,
    folder: PathBuf,
}

struct Done {
    code: i32,
    out: String,
    told: String,
}

impl Hand<'_> {
    async fn run(&self, arguments: &[&str]) -> Done {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DOORWARD_HOME", self.folder.join("home"))
            .env("DOORWARD_CA", self.installation.folder.path().join("keys/ca.crt"))
            .env("DOORWARD_PASSPHRASE", "correct horse")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Done { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), told: text(&output.stderr) }
    }

    async fn done(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments).await;
        assert_eq!(done.code, 0, "{arguments:?}: {}\n{}", done.told, self.installation.told());
        done.out
    }
}

async fn ssh_keygen(folder: &Path, arguments: &[&str]) {
    let done = Command::new("ssh-keygen").args(arguments).current_dir(folder).output().await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a59_with_provider_and_database_stopped_three_of_five_open_and_all_of_it_is_on_record() {
    let Some(cluster) = Cluster::new().await else { return };
    let mut database = Database::Postgres(cluster);
    let (mut up, mut provider) = (JoinSet::new(), JoinSet::new());
    let (upstream, served) = upstream(&mut up).await;
    let installation = installation(database.url(), upstream, &mut provider).await;
    let hand = Hand { installation: &installation, folder: installation.folder.path().to_path_buf() };
    let config = installation.path.to_str().unwrap().to_owned();
    std::fs::write(hand.folder.join("passphrase"), "correct horse\n").unwrap();
    ssh_keygen(&hand.folder, &["-q", "-t", "ed25519", "-N", "", "-C", "ann", "-f", "ann"]).await;
    let init = ["breakglass", "init", "--threshold", "3", "--custodian", "ann=ann.pub", "--generate", "4", "--out"];
    hand.done(&[&init[..], &["keys5", "--passphrase-file", "passphrase", "--config", &config]].concat()).await;
    // A first start, so that keys and node are known; then all of it is gone.
    let (mut child, _) = installation.start().await;
    child.kill().await.unwrap();
    database.stop().await;
    provider.shutdown().await;

    let began = Instant::now();
    child = installation.spawn();
    told(&installation, "/readyz", &["\"degraded\"", "\"emergency\""]).await;
    let open =
        ["breakglass", "open", "--all", "--reason", "all is down", "--for", "10m", "--opener", "erin", "-o", "json"];
    let opened = hand.done(&[&open[..], &["--challenge-out", "c.txt", "--config", &config]].concat()).await;
    let opened: Value = serde_json::from_str(&opened).unwrap();
    let id = opened["id"].as_str().unwrap().to_owned();
    ssh_keygen(&hand.folder, &["-q", "-Y", "sign", "-n", "doorward-breakglass", "-f", "ann", "c.txt"]).await;
    std::fs::rename(hand.folder.join("c.txt.sig"), hand.folder.join("ann.sig")).unwrap();
    for number in ["1", "2"] {
        let (key, out) = (format!("keys5/custodian-{number}"), format!("{number}.sig"));
        hand.done(&["breakglass", "sign", "--key", &key, "--challenge", "c.txt", "--out", &out]).await;
    }
    let few = ["breakglass", "open", "--resume", &id, "--signature", "ann.sig", "--signature", "1.sig"];
    let refused = hand.run(&few).await;
    assert_eq!(refused.code, 1, "{}", refused.told);
    assert!(refused.told.contains("2 of 3 custodians have signed (ann, custodian-1)"), "{}", refused.told);
    hand.done(&[&few[..], &["--signature", "2.sig"]].concat()).await;
    let url = format!("https://ops-api.{DOMAIN}:{}/status", installation.door.port());
    let answer = hand.done(&["--profile", "breakglass", "curl", "-s", &url]).await;
    assert_eq!(answer, "served\n");
    let took = began.elapsed();
    assert!(took < MINUTE, "{took:?}");
    println!("from nothing to the first answer {took:?}");
    // The node starts once more, still without anything: what was signed still opens.
    child.kill().await.unwrap();
    child = installation.spawn();
    told(&installation, "/readyz", &["\"degraded\"", "\"emergency\""]).await;
    assert_eq!(hand.done(&["--profile", "breakglass", "curl", "-s", &url]).await, "served\n");
    hand.done(&["breakglass", "close", &id]).await;
    // Nor is it gone on with here: whoever needs the door again begins again.
    let again = hand.run(&[&few[..], &["--signature", "2.sig"]].concat()).await;
    assert_eq!((again.code, again.out.as_str()), (1, ""), "{}", again.told);
    assert!(again.told.contains("was closed at"), "{}", again.told);
    let refused = hand.run(&["--profile", "breakglass", "curl", "-s", &url]).await;
    assert!(refused.out.contains("session_ended"), "{}", refused.out);
    child.kill().await.unwrap();
    child = installation.spawn();
    told(&installation, "/readyz", &["\"degraded\"", "\"emergency\""]).await;
    let refused = hand.run(&["--profile", "breakglass", "curl", "-s", &url]).await;
    assert!(refused.out.contains("session_ended"), "closed is closed after a start: {}", refused.out);

    database.start().await;
    told(&installation, "/readyz", &["\"ready\"", "\"normal\""]).await;
    told(&installation, "/metrics", &["doorward_audit_spool_events 0", "doorward_audit_lost_total 0"]).await;
    terminate(&installation, &mut child).await;
    let store = Store::open(database.url()).unwrap();
    let events = events(&store).await;
    let of = |kind| events.iter().filter(move |event| event.clear().kind == kind).collect::<Vec<&Recorded>>();
    let paths: Vec<_> =
        of(EventType::DecisionAllow).iter().filter_map(|event| event.personal(PersonalField::Path)).collect();
    assert_eq!(paths, ["/status", "/status"], "both requests are allowed on record");
    assert_eq!(served.lock().unwrap().len(), 1);
    // Counted once however often the node started.
    let opened = of(EventType::BreakGlassOpened);
    assert_eq!(opened.len(), 1);
    assert_eq!(opened[0].text("/data/reason"), Some("all is down"));
    let closed = of(EventType::BreakGlassClosed);
    assert_eq!(closed.iter().map(|event| event.text("/data/by")).collect::<Vec<_>>(), [Some("the client key")]);
    assert_whole(&installation, &store, &events).await;
}
