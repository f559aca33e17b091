//! The spool: a local file that takes decisions while the database is away.
//!
//! All that touches the disk happens on a thread of its own, and whoever asks it waits only so
//! long: a disk that hangs is an answer too. While the thread has not come back from one piece of
//! work it is given no other, so a hanging disk holds one thread and nothing else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::spool_file::{BATCH_BYTES_MAX, Place, Room, SpoolError, SpoolFile, Tail};
use crate::audit::Sealed;
use crate::audit::spool::{Chain, record_of};
use crate::model::Entropy;

/// How long the disk may take for one piece of work.
const DISK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long it may take to open the file at start: all of it is read.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that are read and merged at once at most.
pub(in crate::store) const PAGE_EVENTS: usize = 256;

/// A process that is just ending gives its spool up in so many tries.
const TAKEN_TRIES: u32 = 20;
const TAKEN_PAUSE: Duration = Duration::from_millis(50);

/// Where the spool is and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// The file.
    pub path: PathBuf,
    /// The room that is taken for it.
    pub bytes: u64,
}

/// How the spool is doing.
#[derive(Debug, Clone, Default)]
pub struct SpoolState {
    /// Events in it.
    pub events: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Bytes that there are for them.
    pub size: u64,
    /// Why it is of no use at the moment.
    pub error: Option<Arc<str>>,
}

/// The spool of this node. Clones are the same.
#[derive(Clone)]
pub struct Spool(Arc<Shared>);

struct Shared {
    work: SyncSender<Work>,
    /// The thread has something to do; it is given nothing else until it is done.
    busy: AtomicBool,
    state: Mutex<SpoolState>,
}

type Job = Box<dyn FnOnce(&mut Disk) + Send>;

struct Work(Job);

/// Events of the spool, read back.
pub(in crate::store) struct Page {
    pub events: Vec<Sealed>,
    /// The beginning of the chain.
    pub start: Chain,
    /// Behind the last of them.
    pub next: Place,
    /// Whether there is nothing behind.
    pub last: bool,
}

impl Spool {
    /// Opens the spool with what is in it. One that can't be opened now is tried again whenever it
    /// is needed; `state` says why it could not.
    ///
    /// # Errors
    /// When there can be none here at all: it would lie in memory, another process has it, or no
    /// thread can be had.
    pub async fn open(settings: SpoolSettings, entropy: Arc<dyn Entropy>) -> Result<Self, SpoolError> {
        // One piece of work at a time; the place is for the one that is being handed over.
        let (work, todo) = sync_channel(1);
        let shared = Arc::new(Shared { work, busy: AtomicBool::new(false), state: Mutex::default() });
        let disk = Disk { settings, entropy, file: None, shared: Arc::downgrade(&shared) };
        // Not joined: it ends when the last handle goes, unless the disk holds it, and then nobody may wait for it.
        std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || disk.run(&todo))
            .map_err(|cause| SpoolError::Disk { doing: "starting the thread of", cause })?;
        let spool = Self(shared);
        let mut opened = spool.ask(OPEN_TIMEOUT, |disk| disk.file().map(drop)).await;
        for _ in 0..TAKEN_TRIES {
            if !matches!(opened, Err(SpoolError::Taken)) {
                break;
            }
            tokio::time::sleep(TAKEN_PAUSE).await;
            opened = spool.ask(OPEN_TIMEOUT, |disk| disk.file().map(drop)).await;
        }
        match opened {
            Err(error @ (SpoolError::Volatile { .. } | SpoolError::Taken)) => Err(error),
            Err(error) => {
                tracing::error!(%error, "the spool can't be used yet; it is tried again");
                Ok(spool)
            }
            Ok(()) => Ok(spool),
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn state(&self) -> SpoolState {
        self.0.lock().clone()
    }

    /// Makes events durable. Says of each whether there was room for it.
    pub(in crate::store) async fn append(&self, events: &[(Sealed, Room)]) -> Result<Vec<bool>, SpoolError> {
        let records: Vec<(Vec<u8>, Room)> = events.iter().map(|(event, room)| (record_of(event), *room)).collect();
        self.ask(DISK_TIMEOUT, move |disk| disk.append(records)).await
    }

    /// Asks the disk for a sign of life.
    pub(in crate::store) async fn probe(&self) -> Result<(), SpoolError> {
        self.ask(DISK_TIMEOUT, |disk| disk.file()?.probe()).await
    }

    /// A page of events behind `from`, or from the beginning.
    pub(in crate::store) async fn read(&self, from: Option<Place>) -> Result<Page, SpoolError> {
        self.ask(DISK_TIMEOUT * 2, move |disk| {
            let file = disk.file()?;
            let from = from.unwrap_or_else(|| file.start_place());
            let (events, next) = file.read(from, PAGE_EVENTS)?;
            let last = next.at >= file.end().at;
            Ok(Page { events, start: file.start_place().chain, next, last })
        })
        .await
    }

    /// Whether its first page is read in time, be it what was written or not.
    pub(in crate::store) async fn answers_reads(&self) -> bool {
        matches!(self.read(None).await, Ok(_) | Err(SpoolError::Altered { .. }))
    }

    /// Empties it.
    pub(in crate::store) async fn clear(&self) -> Result<(), SpoolError> {
        self.ask(DISK_TIMEOUT * 2, |disk| {
            let entropy = Arc::clone(&disk.entropy);
            disk.file()?.clear(&*entropy)
        })
        .await
    }

    /// Gives up what is in it: it can't be read back. All of it is kept under another name.
    pub(in crate::store) async fn set_aside(&self) -> Result<PathBuf, SpoolError> {
        self.ask(OPEN_TIMEOUT, |disk| {
            let entropy = Arc::clone(&disk.entropy);
            let file = disk.file()?;
            let kept = match file.keep_aside(&*entropy)? {
                Tail::Altered { kept } => kept,
                Tail::Whole | Tail::Torn => PathBuf::new(),
            };
            file.clear(&*entropy)?;
            Ok(kept)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&mut Disk) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        if self.0.busy.swap(true, Ordering::AcqRel) {
            return Err(SpoolError::Hangs);
        }
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |disk| {
            let done = job(disk);
            disk.note(done.as_ref().err());
            disk.free();
            // Whoever asked may have stopped waiting.
            let _ = reply.send(done);
        });
        if self.0.work.try_send(Work(job)).is_err() {
            return Err(SpoolError::Hangs);
        }
        match timeout(limit, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) | Err(_) => {
                self.0.lock().error = Some(SpoolError::Hangs.to_string().into());
                Err(SpoolError::Hangs)
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, SpoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Disk {
    settings: SpoolSettings,
    entropy: Arc<dyn Entropy>,
    file: Option<SpoolFile>,
    shared: std::sync::Weak<Shared>,
}

impl Disk {
    fn run(mut self, todo: &Receiver<Work>) {
        while let Ok(Work(job)) = todo.recv() {
            job(&mut self);
        }
    }

    // ORDER: before the answer, so that whoever gets it can ask again.
    fn free(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.busy.store(false, Ordering::Release);
        }
    }

    /// The file, opened if it is not, and emptied if that was still to be done.
    fn file(&mut self) -> Result<&mut SpoolFile, SpoolError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let (file, tail) = SpoolFile::open(&self.settings.path, self.settings.bytes, &*self.entropy)?;
                match tail {
                    Tail::Whole => {}
                    Tail::Torn => {
                        tracing::warn!("the spool's last batch was torn by a crash; nobody was answered for it")
                    }
                    Tail::Altered { kept } => tracing::error!(
                        kept = %kept.display(),
                        "the spool was altered or damaged; what can still be proven is merged, and the file is kept"
                    ),
                }
                file
            }
        };
        let file = self.file.insert(file);
        file.finish_clearing(&*self.entropy)?;
        Ok(file)
    }

    fn append(&mut self, records: Vec<(Vec<u8>, Room)>) -> Result<Vec<bool>, SpoolError> {
        let file = self.file()?;
        let mut taken = Vec::with_capacity(records.len());
        let (mut batch, mut bytes) = (Vec::new(), 0_usize);
        for (record, room) in records {
            if bytes + record.len() + 36 > BATCH_BYTES_MAX {
                file.append(&batch)?;
                batch.clear();
                bytes = 0;
            }
            let fits = file.has_room(bytes as u64, record.len(), room);
            taken.push(fits);
            if fits {
                bytes += record.len() + 36;
                batch.push(record);
            }
        }
        if !batch.is_empty() {
            file.append(&batch)?;
        }
        Ok(taken)
    }

    fn note(&self, error: Option<&SpoolError>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut state = shared.lock();
        if let Some(file) = &self.file {
            let end = file.end();
            state.events = end.count;
            state.bytes = end.at - file.start_place().at;
            state.size = file.size();
        }
        state.error = error.map(|error| error.to_string().into());
    }
}
