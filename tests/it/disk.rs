//! What disks do (fault F6): full, failing to flush. Small disks of the test's own, which
//! only root can have, and libfiu for errors; where these are missing the test says that it was
//! skipped.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use doorward::audit::{EventType, PersonalField};
use doorward::store::{Keeping, Store};
use http::StatusCode;
use sqlx::Executor;
use tokio::task::JoinSet;

use crate::away::{ask, told};
use crate::crash::{Callers, HUNG, events, installation, terminate, upstream};
use crate::recorder::{event, hang, until};
use crate::spool::{MEGABYTE, Running, assert_proven, merges};
use crate::support::{SeededEntropy, databases, install_crypto, temporary_folder};

fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())
}

/// An ext4 file system in a file.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(folder: &Path, megabytes: u64) -> Option<Self> {
        let (image, at) = (folder.join("image"), folder.join("disk"));
        fs::create_dir(&at).unwrap();
        fs::File::create(&image).unwrap().set_len(megabytes * MEGABYTE).unwrap();
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", image.to_str().unwrap()])
            .and_then(|_| run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]));
        if made.is_none() {
            println!("skipped: a disk of its own needs root, mkfs.ext4 and a loop device");
        }
        made.map(|_| Self { at })
    }

    /// Fills it to the last byte; gives what to remove.
    fn fill(&self) -> PathBuf {
        let path = self.at.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [64 * 1024, 1024, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        let _ = file.sync_all();
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_a_full_disk_under_the_database_sends_decisions_to_the_room_that_the_spool_took_before() {
    let folder = temporary_folder();
    let Some(disk) = Disk::mount(folder.path(), 24) else { return };
    let url = format!("sqlite://{}", disk.at.join("full.db").display());
    let running = Running::start(&url, &disk.at.join("s.spool"), 4 * MEGABYTE).await;
    let entropy = SeededEntropy::new(60);
    assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    let filler = disk.fill();
    let (mut recorded, mut slowest) = (1, Duration::ZERO);
    // The database's own file has some room left; then it has none.
    while running.keeping() == Keeping::Database || recorded < 400 {
        let began = Instant::now();
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        slowest = slowest.max(began.elapsed());
        recorded += 1;
        assert!(recorded < 100_000, "the disk is never full");
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    fs::remove_file(filler).unwrap();
    until(|| async { running.keeping() == Keeping::Database }).await;
    let events = running.end().await;
    println!("full disk: {recorded} recorded, slowest {slowest:?}, {} merges", merges(&events).len());
    assert_eq!(events.len(), recorded + merges(&events).len());
    assert_proven(&events, merges(&events).last().unwrap());
}

/// libfiu's libraries, which give errors in the place of system calls.
fn libfiu() -> Option<String> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let folder = folders
        .flat_map(|folder| [folder.join("fiu"), folder])
        .find(|folder| folder.join("fiu_posix_preload.so").exists());
    if folder.is_none() {
        println!("skipped: libfiu is not installed (fiu-utils)");
    }
    folder.map(|folder| format!("{0}/fiu_run_preload.so {0}/fiu_posix_preload.so", folder.display()))
}

/// Both disks, of database and spool, fail each flush: nothing may pass, and all is well afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_with_every_flush_failing_nothing_passes_and_it_recovers_by_itself() {
    install_crypto();
    let Some(preload) = libfiu() else { return };
    let folder = temporary_folder();
    let url = format!("sqlite://{}", folder.path().join("flush.db").display());
    let mut tasks = JoinSet::new();
    let (upstream, served) = upstream(&mut tasks).await;
    let installation = installation(&url, upstream, &mut tasks).await;
    let pipe = folder.path().join("fiu").to_str().unwrap().to_owned();
    let mut child = installation.spawn_with(&[("LD_PRELOAD", &preload), ("FIU_CTRL_FIFO", &pipe)]);
    told(&installation, "/readyz", &["\"ready\""]).await;
    let callers = Callers::new(installation.sign_in().await, installation.door.port());
    assert_eq!(ask(&callers).await, Some(StatusCode::OK));
    let id = child.id().unwrap().to_string();
    let control = |command: &str| {
        run("fiu-ctrl", &["-f", &pipe, "-c", command, &id]).expect("libfiu obeys");
    };
    for call in ["fsync", "fdatasync"] {
        control(&format!("enable name=posix/io/sync/{call},failinfo=5"));
    }
    let before = served.lock().unwrap().len();
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(ask(&callers).await, Some(StatusCode::SERVICE_UNAVAILABLE), "{}", installation.told());
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(served.lock().unwrap().len(), before, "nothing passes unrecorded");
    assert!(child.try_wait().unwrap().is_none(), "it lives");
    for call in ["fsync", "fdatasync"] {
        control(&format!("disable name=posix/io/sync/{call}"));
    }
    let began = Instant::now();
    while ask(&callers).await != Some(StatusCode::OK) {
        assert!(began.elapsed() < HUNG, "{}", installation.told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("failing flushes: refused within {slowest:?}, again after {:?}", began.elapsed());
    told(&installation, "/readyz", &["\"ready\""]).await;
    terminate(&installation, &mut child).await;
    let store = Store::open(&url).unwrap();
    let allowed = events(&store).await.iter().filter(|event| event.clear().kind == EventType::DecisionAllow).count();
    assert!(allowed >= served.lock().unwrap().len());
}

/// The spool's disk does not confirm the mark that all of it was merged. The database is PostgreSQL, which
/// has a disk of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_what_is_spooled_after_a_merge_whose_mark_was_not_confirmed_outlives_a_kill() {
    install_crypto();
    let Some(preload) = libfiu() else { return };
    let Some(url) = databases().into_iter().find(|url| url.starts_with("postgres")) else { return };
    let folder = temporary_folder();
    let mut tasks = JoinSet::new();
    let (upstream, served) = upstream(&mut tasks).await;
    let installation = installation(&url, upstream, &mut tasks).await;
    let pipe = folder.path().join("fiu").to_str().unwrap().to_owned();
    let mut child = installation.spawn_with(&[("LD_PRELOAD", &preload), ("FIU_CTRL_FIFO", &pipe)]);
    told(&installation, "/readyz", &["\"ready\""]).await;
    let callers = Callers::new(installation.sign_in().await, installation.door.port());
    assert_eq!(ask(&callers).await, Some(StatusCode::OK));
    let mut holder = hang(&url).await;
    assert_eq!(ask(&callers).await, Some(StatusCode::OK), "{}", installation.told());
    let id = child.id().unwrap().to_string();
    let control = |command: &str| {
        run("fiu-ctrl", &["-f", &pipe, "-c", command, &id]).expect("libfiu obeys");
    };
    control("enable name=posix/io/sync/fdatasync,failinfo=5");
    holder.execute("rollback").await.unwrap();
    told(&installation, "/metrics", &["doorward_audit_state{state=\"database\"} 1"]).await;
    assert!(installation.told().contains("could not be emptied yet"), "{}", installation.told());
    control("disable name=posix/io/sync/fdatasync");
    let mut holder = hang(&url).await;
    assert_eq!(ask(&callers).await, Some(StatusCode::OK), "{}", installation.told());
    child.kill().await.unwrap();
    holder.execute("rollback").await.unwrap();
    (child, _) = installation.start().await;
    told(&installation, "/metrics", &["doorward_audit_spool_events 0"]).await;
    terminate(&installation, &mut child).await;
    let store = Store::open(&url).unwrap();
    let events = events(&store).await;
    let allowed: Vec<&str> = events
        .iter()
        .filter(|event| event.clear().kind == EventType::DecisionAllow)
        .filter_map(|event| event.personal(PersonalField::Path))
        .collect();
    let served = served.lock().unwrap().clone();
    assert_eq!(served.len(), 3);
    let missing: Vec<_> = served.iter().filter(|path| !allowed.contains(&path.as_str())).collect();
    assert!(missing.is_empty(), "served and not on record: {missing:?}");
}
