//! The spool: decisions while the database is away, on both engines, and what a disk can do to them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use doorward::audit::spool::{chained, record_of};
use doorward::audit::{Event, EventType, Outcome};
use doorward::model::{Entropy, EventId, NodeId, Principal, PrincipalKind};
use doorward::store::{
    Keeping, Log, Recorded, Recorder, RecorderParts, RecorderSettings, RefusalRates, Spool, SpoolError, SpoolSettings,
    Store, Unrecorded, is_volatile,
};
use sqlx::Executor;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::leaf::sealing;
use crate::recorder::{NOW, anonymous, event, hang, refusal, until};
use crate::store_record::{assert_gapless, opened};
use crate::support::{SeededEntropy, TestClock, databases, temporary_folder};

pub const MEGABYTE: u64 = 1024 * 1024;

pub struct Running {
    store: Store,
    log: Log,
    pub recorder: Recorder,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

async fn spool_at(path: &Path, bytes: u64) -> Result<Spool, SpoolError> {
    Spool::open(SpoolSettings { path: path.to_owned(), bytes }, Arc::new(SeededEntropy::new(77))).await
}

impl Running {
    pub async fn start(url: &str, path: &Path, bytes: u64) -> Self {
        Self::start_with(url, spool_at(path, bytes).await.unwrap(), RecorderSettings::default()).await
    }

    async fn start_with(url: &str, spool: Spool, settings: RecorderSettings) -> Self {
        let (store, log) = opened(url, 1).await;
        Self::over(store, spool, settings, async |_| log).await
    }

    /// A recorder over a store whose log is opened, or was, by `open`.
    async fn over(
        store: Store,
        spool: Spool,
        settings: RecorderSettings,
        open: impl AsyncFnOnce(&Recorder) -> Log,
    ) -> Self {
        let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
        let clock = Arc::new(TestClock::at(NOW));
        let parts = RecorderParts { store: store.clone(), spool: Some(spool), sealing: sealing(1), settings, clock };
        let (recorder, _) = Recorder::start_with(parts, cancel.clone(), &tracker, &Handle::current());
        let log = open(&recorder).await;
        Self { store, log, recorder, cancel, tracker }
    }

    pub fn keeping(&self) -> Keeping {
        self.recorder.state().keeping
    }

    pub async fn end(self) -> Vec<Recorded> {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        assert_gapless(&self.store, self.log).await
    }
}

pub fn merges(events: &[Recorded]) -> Vec<&Recorded> {
    events.iter().filter(|event| event.clear().kind == EventType::AuditSpoolMerged).collect()
}

/// The events before the merge are what it says it merged: ids and chain.
pub fn assert_proven(events: &[Recorded], merge: &Recorded) {
    let data = &merge.body["data"];
    let count = usize::try_from(data["count"].as_u64().unwrap()).unwrap();
    let end = usize::try_from(merge.seq.unwrap()).unwrap();
    let spooled = &events[end - count..end];
    assert_eq!(data["first"], spooled[0].clear().id.to_string());
    assert_eq!(data["last"], spooled[count - 1].clear().id.to_string());
    let hex = |key: &str| data_encoding::HEXLOWER.decode(data[key].as_str().unwrap().as_bytes()).unwrap();
    let mut chain: [u8; 32] = hex("start").try_into().unwrap();
    for event in spooled {
        chain = chained(&chain, &record_of(&event.sealed));
    }
    assert_eq!(hex("chain"), chain);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a61_with_the_database_hanging_decisions_are_durable_in_the_spool_and_merged_in_order() {
    for url in databases() {
        let folder = temporary_folder();
        let running = Running::start(&url, &folder.path().join("s.spool"), MEGABYTE).await;
        let entropy = SeededEntropy::new(40);
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        let mut holder = hang(&url).await;
        let started = Instant::now();
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(running.keeping(), Keeping::Spool);
        // From now on nobody waits for the database.
        let started = Instant::now();
        let mut ids = Vec::new();
        for _ in 0..600 {
            let event = event(&entropy);
            ids.push(event.id.to_string());
            running.recorder.offer(event);
        }
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
        assert_eq!(running.recorder.state().spool.unwrap().events, 602);
        holder.execute("rollback").await.unwrap();
        until(|| async { running.keeping() == Keeping::Database }).await;
        assert_eq!(running.recorder.state().spool.unwrap().events, 0);
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        let events = running.end().await;
        // One before, 602 in the spool, the merge, one after.
        assert_eq!(events.len(), 605);
        let merged = merges(&events);
        assert_eq!(merged.len(), 1);
        assert_eq!((&merged[0].body["data"]["count"], &merged[0].body["data"]["added"]), (&602.into(), &602.into()));
        assert_proven(&events, merged[0]);
        let there: Vec<String> = events[2..602].iter().map(|event| event.clear().id.to_string()).collect();
        assert_eq!(there, ids);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_process_spooled_is_merged_at_the_next_start_once() {
    for url in databases() {
        let folder = temporary_folder();
        let path = folder.path().join("s.spool");
        let entropy = SeededEntropy::new(41);
        let running = Running::start(&url, &path, MEGABYTE).await;
        let mut holder = hang(&url).await;
        for _ in 0..5 {
            assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        }
        running.cancel.cancel();
        running.tracker.close();
        running.tracker.wait().await;
        let copy = folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        holder.execute("rollback").await.unwrap();
        drop((holder, running));
        // The second start finds the spool of a process that was killed after it had merged.
        for round in 0..2 {
            until(|| async { fs::copy(&copy, &path).is_ok() && spool_at(&path, MEGABYTE).await.is_ok() }).await;
            let again = Running::start(&url, &path, MEGABYTE).await;
            until(|| async { again.recorder.state().spool.unwrap().events == 0 }).await;
            let events = again.end().await;
            assert_eq!((events.len(), merges(&events).len()), (6, 1), "round {round}");
            assert_proven(&events, merges(&events)[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a71_junk_cannot_use_the_last_fifth_of_the_spool_and_the_emergency_path_has_the_rest() {
    let url = &databases()[0];
    let folder = temporary_folder();
    // The smallest spool there is: 64 KiB.
    let running = Running::start(url, &folder.path().join("s.spool"), 1).await;
    let entropy = SeededEntropy::new(42);
    let mut holder = hang(url).await;
    assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    let used = || {
        let spool = running.recorder.state().spool.unwrap();
        spool.bytes as f64 / spool.size as f64
    };
    while running.recorder.submit(anonymous(&entropy, "192.0.2.1")).await.is_ok() {}
    assert!((0.77..0.80).contains(&used()), "{}", used());
    assert_eq!(running.recorder.submit(refusal(&entropy, "dave")).await, Err(Unrecorded::Full), "nor can any refusal");
    while running.recorder.submit(event(&entropy)).await.is_ok() {}
    assert!((0.92..0.95).contains(&used()), "{}", used());
    let emergency = || {
        let mut event = event(&entropy);
        event.actor.principal = Some(Principal::stored(PrincipalKind::BreakGlass, "brk_0").unwrap());
        event
    };
    assert_eq!(running.recorder.submit(emergency()).await, Ok(()));
    assert_eq!(running.recorder.submit(event(&entropy)).await, Err(Unrecorded::Full));
    assert_eq!(
        running.recorder.submit_buffered(event(&entropy)).await,
        Err(Unrecorded::Full),
        "nor does it pass unkept"
    );
    while running.recorder.submit(emergency()).await.is_ok() {}
    assert!(used() > 0.97, "{}", used());
    holder.execute("rollback").await.unwrap();
    until(|| async { running.keeping() == Keeping::Database }).await;
    let events = running.end().await;
    assert_proven(&events, merges(&events)[0]);
}

/// A spool with five events of a database that was away, closed.
async fn five(url: &str, path: &Path) {
    let entropy = SeededEntropy::new(43);
    let running = Running::start(url, path, MEGABYTE).await;
    let holder = hang(url).await;
    for _ in 0..5 {
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    }
    running.cancel.cancel();
    running.tracker.close();
    running.tracker.wait().await;
    drop((holder, running));
    until(|| async { spool_at(path, MEGABYTE).await.is_ok() }).await;
}

fn altered(folder: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.to_string_lossy().contains(".altered-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_cut_off_and_an_altered_middle_is_kept_and_told() {
    let url = &databases()[0];
    let folder = temporary_folder();
    let path = folder.path().join("s.spool");
    five(url, &path).await;
    let whole = fs::read(&path).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for cut in [1, 20, 40] {
        let mut torn = whole.clone();
        torn[end - cut..end].fill(0);
        fs::write(&path, &torn).unwrap();
        assert_eq!(spool_at(&path, MEGABYTE).await.unwrap().state().events, 4, "the last {cut} bytes are gone");
        assert_eq!(altered(folder.path()).len(), 0);
    }
    // Every byte of every record counts.
    for at in (64..end).step_by(7) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&path, &flipped).unwrap();
        assert!(spool_at(&path, MEGABYTE).await.unwrap().state().events < 5, "byte {at}");
    }
    // Further from the end than a crash tears: all is kept for whoever looks into it.
    let mut far = vec![0; 3 * usize::try_from(MEGABYTE).unwrap()];
    far[..whole.len()].copy_from_slice(&whole);
    far[100] ^= 1;
    *far.last_mut().unwrap() = 1;
    fs::write(&path, &far).unwrap();
    assert_eq!(spool_at(&path, MEGABYTE).await.unwrap().state().events, 0);
    assert_eq!(fs::read(&altered(folder.path())[0]).unwrap(), far);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_a_spool_that_is_altered_while_the_database_is_away_is_kept_and_the_door_goes_on() {
    let url = &databases()[0];
    let folder = temporary_folder();
    let path = folder.path().join("s.spool");
    let running = Running::start(url, &path, MEGABYTE).await;
    let entropy = SeededEntropy::new(44);
    let mut holder = hang(url).await;
    for _ in 0..4 {
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    }
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", 80).unwrap();
    holder.execute("rollback").await.unwrap();
    until(|| async { running.keeping() == Keeping::Database }).await;
    assert_eq!(running.recorder.state().lost, 4);
    assert_eq!(altered(folder.path()).len(), 1);
    assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    let events = running.end().await;
    let lost = events.iter().find(|event| event.clear().kind == EventType::RecordLost).unwrap();
    assert_eq!(lost.body["data"]["count"], 4);
}

/// Chance that nobody gets before `release`: whoever needs some is as slow as a bad disk.
struct Slow {
    chance: SeededEntropy,
    held: Mutex<bool>,
    released: Condvar,
}

impl Slow {
    fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }
}

impl Entropy for Slow {
    fn fill(&self, target: &mut [u8]) {
        drop(self.released.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
        self.chance.fill(target);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_a_spool_that_is_read_too_late_when_the_database_is_back_is_merged_all_the_same() {
    for url in databases() {
        let folder = temporary_folder();
        let path = folder.path().join("s.spool");
        five(&url, &path).await;
        // All five are there, and far behind them something that makes whoever opens it take a copy.
        let mut kept = fs::read(&path).unwrap();
        kept.resize(3 * usize::try_from(MEGABYTE).unwrap(), 0);
        *kept.last_mut().unwrap() = 1;
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let disk = Arc::new(Slow { chance: SeededEntropy::new(78), held: Mutex::new(true), released: Condvar::new() });
        let chance: Arc<dyn Entropy> = Arc::<Slow>::clone(&disk);
        let spool = Spool::open(SpoolSettings { path: path.clone(), bytes: MEGABYTE }, chance).await.unwrap();
        fs::remove_dir(&path).unwrap();
        fs::write(&path, kept).unwrap();
        let settings = RecorderSettings { spool_look: Duration::from_millis(200), ..RecorderSettings::default() };
        let store = Store::open(&url).unwrap();
        let running = Running::over(store.clone(), spool, settings, async |recorder| {
            until(|| async { recorder.state().keeping == Keeping::Spool }).await;
            store.log_open(NodeId::from_bytes([1; 16]), sealing(1), NOW).await.unwrap()
        })
        .await;
        // The database is back and does not wait for the disk.
        until(|| async { running.keeping() == Keeping::Database }).await;
        assert_eq!(running.recorder.submit(event(&SeededEntropy::new(47))).await, Ok(()));
        assert_eq!(running.recorder.state().merged, 0);
        disk.release();
        until(|| async { running.recorder.state().merged == 5 && running.keeping() == Keeping::Database }).await;
        assert_eq!(running.recorder.state().spool.unwrap().events, 0);
        let events = running.end().await;
        assert_eq!((events.len(), merges(&events).len()), (7, 1));
        assert_proven(&events, merges(&events)[0]);
    }
}

#[tokio::test]
async fn f6_what_the_database_does_not_take_at_the_end_goes_to_the_spool_all_of_it() {
    for url in databases() {
        let folder = temporary_folder();
        let path = folder.path().join("s.spool");
        let entropy = SeededEntropy::new(48);
        let settings = RecorderSettings {
            batch_max: 4,
            pulse: Duration::from_secs(60),
            refusal_rates: RefusalRates { per_principal: 0, ..RefusalRates::default() },
            ..RecorderSettings::default()
        };
        let running = Running::start_with(&url, spool_at(&path, MEGABYTE).await.unwrap(), settings).await;
        let mut holder = hang(&url).await;
        // Too few to be written before the end; what was counted makes them more than one batch.
        (0..3).for_each(|_| running.recorder.offer(event(&entropy)));
        for number in 0..6 {
            assert_eq!(running.recorder.refused(refusal(&entropy, &format!("p{number}"))).await, Ok(()));
        }
        running.cancel.cancel();
        running.tracker.close();
        running.tracker.wait().await;
        let state = running.recorder.state();
        assert_eq!((state.rows, state.spooled, state.lost), (0, 9, 0));
        holder.execute("rollback").await.unwrap();
        drop((holder, running));
        until(|| async { spool_at(&path, MEGABYTE).await.is_ok() }).await;
        let again = Running::start(&url, &path, MEGABYTE).await;
        until(|| async { again.recorder.state().merged == 9 }).await;
        let events = again.end().await;
        assert_eq!((events.len(), merges(&events).len()), (10, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_a_full_spool_that_cannot_tell_what_was_lost_is_left_when_the_database_is_back() {
    for url in databases() {
        let folder = temporary_folder();
        let running = Running::start(&url, &folder.path().join("s.spool"), 1).await;
        let entropy = SeededEntropy::new(49);
        let mut holder = hang(&url).await;
        // Smaller than what tells of the loss.
        let small = || Event::new(EventId::fresh(NOW, &entropy), NOW, EventType::NodeStarted, Outcome::Success);
        while running.recorder.submit(small()).await.is_ok() {}
        running.recorder.offer(event(&entropy));
        until(|| async { running.recorder.state().lost == 1 }).await;
        holder.execute("rollback").await.unwrap();
        until(|| async { running.keeping() == Keeping::Database }).await;
        let events = running.end().await;
        assert_proven(&events, merges(&events)[0]);
        let lost = events.iter().find(|event| event.clear().kind == EventType::RecordLost).unwrap();
        assert_eq!(lost.body["data"]["count"], 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f6_the_database_is_noticed_again_while_decisions_never_stop_coming() {
    for url in databases() {
        let folder = temporary_folder();
        let spool = spool_at(&folder.path().join("s.spool"), 128 * MEGABYTE).await.unwrap();
        // One by one, so that some are always left.
        let settings = RecorderSettings { batch_max: 1, ..RecorderSettings::default() };
        let running = Running::start_with(&url, spool, settings).await;
        let entropy = SeededEntropy::new(50);
        let mut holder = hang(&url).await;
        assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
        let (recorder, enough) = (running.recorder.clone(), CancellationToken::new());
        let over = enough.clone();
        let asking = tokio::spawn(async move {
            while !over.is_cancelled() {
                if recorder.state().queued < 64 {
                    drop(recorder.submit(event(&entropy)));
                }
                tokio::task::yield_now().await;
            }
        });
        until(|| async { running.recorder.state().spooled > 50 }).await;
        holder.execute("rollback").await.unwrap();
        until(|| async { running.keeping() == Keeping::Database }).await;
        enough.cancel();
        asking.await.unwrap();
        assert_eq!(running.recorder.state().lost, 0);
        let events = running.end().await;
        assert_proven(&events, merges(&events)[0]);
    }
}

/// A small file system in memory, which only root can have; else the test says that it was skipped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let done = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(at)
            .output();
        if done.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        eprintln!("skipped: mounting a tmpfs needs root");
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_spool_in_memory_is_refused() {
    let folder = temporary_folder();
    let Some(memory) = Tmpfs::mount(&folder.path().join("memory"), 8) else {
        return;
    };
    assert!(is_volatile(&memory.0).unwrap());
    let Err(SpoolError::Volatile { folder }) = spool_at(&memory.0.join("s.spool"), MEGABYTE).await else {
        panic!("a spool in memory was taken");
    };
    assert_eq!(folder, memory.0);
}

#[tokio::test]
async fn one_process_has_the_spool() {
    let folder = temporary_folder();
    let path = folder.path().join("s.spool");
    let first = spool_at(&path, MEGABYTE).await.unwrap();
    assert!(matches!(spool_at(&path, MEGABYTE).await, Err(SpoolError::Taken)));
    drop(first);
    until(|| async { spool_at(&path, MEGABYTE).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a61_with_neither_database_nor_spool_all_are_refused_within_two_seconds_until_one_is_back() {
    let url = &databases()[0];
    let folder = temporary_folder();
    // A folder in the place of the file: it can't be opened until that is gone.
    let path = folder.path().join("s.spool");
    fs::create_dir(&path).unwrap();
    let running = Running::start(url, &path, MEGABYTE).await;
    let entropy = SeededEntropy::new(45);
    // The database alone is enough.
    assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    let mut holder = hang(url).await;
    let started = Instant::now();
    assert_eq!(running.recorder.submit(event(&entropy)).await, Err(Unrecorded::Away));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(running.keeping(), Keeping::Nowhere);
    fs::remove_dir(&path).unwrap();
    until(|| async { running.keeping() == Keeping::Spool }).await;
    assert_eq!(running.recorder.submit(event(&entropy)).await, Ok(()));
    holder.execute("rollback").await.unwrap();
    until(|| async { running.keeping() == Keeping::Database }).await;
    let events = running.end().await;
    assert_eq!((events.len(), merges(&events).len()), (3, 1));
}

#[test]
fn an_event_of_the_spool_is_read_back_as_it_was_sealed() {
    let entropy = SeededEntropy::new(46);
    let mut told = event(&entropy);
    told.actor.principal = Principal::user("dev", "ali\u{202e}ce\n\"x");
    let plain = Event::new(EventId::fresh(NOW, &entropy), NOW, EventType::NodeStarted, Outcome::Success);
    for event in [told, plain] {
        let sealed = sealing(1).seal(&event);
        assert_eq!(doorward::audit::spool::event_of(&record_of(&sealed)).unwrap(), sealed);
    }
    let mut junk = vec![0; 64];
    entropy.fill(&mut junk);
    assert!(doorward::audit::spool::event_of(&junk).is_err());
}
