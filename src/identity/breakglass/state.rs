//! What one node knows of the emergency path: the rules in force, openings that it has seen or heard
//! of, and those that were closed. Shared by all of its threads.
//!
//! INVARIANTS: a closing is on the disk before it is obeyed, and is read back at the next start; what
//! is closed is never open again here.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use papaya::HashMap;
use tokio::sync::{mpsc, oneshot};

use super::closing::ClosedBy;
use super::quorum::{Opening, OpeningRules};
use super::refusals::Refusals;
use crate::model::breakglass::DURATION_MAX;
use crate::model::{BreakGlassId, EventId, Timestamp, Ttl};

/// Closings of one signer that are kept at most beside those of openings that are known here. They give way once
/// nothing could be open under them any more: a custodian alone can close any number of ids, and so keeps nobody
/// else from closing.
const CLOSED_BY_ONE_MAX: usize = 1_000;
/// How long an opening must be over for its closing to be forgotten: clocks differ.
const OVER_FOR: Ttl = Ttl::minutes(10);
/// Openings that are remembered at most beyond their end.
const KNOWN_MAX: usize = 1_000;

/// What an installation says of its emergency path.
#[derive(Debug, Clone)]
pub struct InForce {
    /// What challenges are judged by.
    pub rules: OpeningRules,
    /// Whether an opening that nobody has reviewed makes the next one need one custodian more.
    pub review_blocks: bool,
    /// How old the last drill may be.
    pub drill_every: Ttl,
}

/// An opening as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownOpening {
    /// Its id.
    pub id: BreakGlassId,
    /// SHA-256 of its challenge's text; `None` where the record has none.
    pub challenge: Option<[u8; 32]>,
    /// Who opened.
    pub opener: String,
    /// What for.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// Who signed.
    pub custodians: Vec<String>,
    /// When it ends by itself.
    pub expires: Timestamp,
}

impl KnownOpening {
    /// What is told of an opening that was judged here.
    #[must_use]
    pub fn of(opening: &Opening) -> Self {
        let challenge = &opening.challenge;
        Self {
            id: challenge.id,
            challenge: Some(opening.sha256),
            opener: challenge.opener.clone(),
            scope: challenge.scope.to_string(),
            reason: challenge.reason.clone(),
            custodians: opening.custodians.clone(),
            expires: challenge.expires,
        }
    }
}

/// Something to be told at once on every channel that still works.
#[derive(Debug, Clone)]
pub struct Happening {
    /// The id of the event that records it.
    pub event: EventId,
    /// The event's type.
    pub kind: &'static str,
    /// When.
    pub time: Timestamp,
    /// Which opening or drill.
    pub opening: KnownOpening,
    /// Who did it, where it is not the opener.
    pub by: Option<String>,
}

/// What became of a test message on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelOutcome {
    /// The receiver took it.
    Taken,
    /// It did not: why.
    Failed(String),
    /// The channel is not told of openings, so it got none.
    NotAsked,
}

/// One channel as a drill found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelTest {
    /// Its name.
    pub channel: String,
    /// What became of the message.
    pub outcome: ChannelOutcome,
}

/// A happening on its way to the channels, and where to say what became of it.
#[derive(Debug)]
pub struct Told {
    /// What happened.
    pub happening: Happening,
    /// Set where it is a test: who waits for what each channel did.
    pub answer: Option<oneshot::Sender<Vec<ChannelTest>>>,
}

/// The emergency path on one node.
#[derive(Debug, Default)]
pub struct EmergencyState {
    in_force: ArcSwapOption<InForce>,
    known: HashMap<BreakGlassId, Arc<KnownOpening>>,
    /// Those that were closed, with who closed; those of before the start count for nobody.
    closed: HashMap<BreakGlassId, Option<ClosedBy>>,
    /// Closings that the disk has not taken yet.
    unsaved: HashMap<BreakGlassId, ()>,
    drills: HashMap<BreakGlassId, ()>,
    unreviewed: HashMap<BreakGlassId, ()>,
    /// Those that were used here and that the rules in force do not hold for any more.
    fallen: HashMap<BreakGlassId, ()>,
    over: HashMap<BreakGlassId, ()>,
    drilled_at: AtomicI64,
    file: Mutex<Option<PathBuf>>,
    happened: OnceLock<mpsc::Sender<Told>>,
    /// Failed uses, as far as people are told of them.
    pub refusals: Refusals,
}

impl EmergencyState {
    /// The rules in force; none where there is no emergency path.
    #[must_use]
    pub fn in_force(&self) -> Option<Arc<InForce>> {
        self.in_force.load_full()
    }

    /// Puts rules in force.
    pub fn put_in_force(&self, rules: Option<Arc<InForce>>) {
        self.in_force.store(rules);
    }

    /// Keeps closings in this file from now on, and obeys those that are in it.
    ///
    /// # Errors
    /// When the file is there and can't be read, or a line of it is no closing.
    pub fn keep_in(&self, path: PathBuf) -> io::Result<()> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        // A last line without its end was being written when the machine stopped: nobody was told. It
        // goes, so that the next one does not stand behind it.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            OpenOptions::new().write(true).open(&path)?.set_len(u64::try_from(whole).unwrap_or(0))?;
        }
        for (index, line) in text.split_inclusive('\n').filter(|line| line.ends_with('\n')).enumerate() {
            let read = || {
                let (id, time) = line.trim_end().split_once(' ')?;
                Some((BreakGlassId::parse(id).ok()?, Timestamp::parse(time)?))
            };
            let (id, _) = read().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {} is not `brk_… TIME`", index + 1))
            })?;
            self.closed.pin().insert(id, None);
        }
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
        Ok(())
    }

    /// Whether one more closing of this signer can be kept.
    #[must_use]
    pub fn can_close(&self, id: BreakGlassId, by: &ClosedBy, now: Timestamp) -> bool {
        let (closed, known) = (self.closed.pin(), self.known.pin());
        if closed.contains_key(&id) || known.contains_key(&id) {
            return true;
        }
        let is_theirs = |closed: &&Option<ClosedBy>| matches!(closed, Some(signer) if signer == by);
        if closed.values().filter(is_theirs).count() < CLOSED_BY_ONE_MAX {
            return true;
        }
        // One that is known here stays closed, or it would be told to have run out.
        let is_gone = |id: &&BreakGlassId| {
            id.made_at().plus(DURATION_MAX).plus(OVER_FOR).is_over(now) && !known.contains_key(*id)
        };
        let gone: Vec<BreakGlassId> = closed.keys().filter(is_gone).copied().collect();
        for id in &gone {
            closed.remove(id);
        }
        closed.values().filter(is_theirs).count() < CLOSED_BY_ONE_MAX
    }

    /// Closes an opening, for ever and first of all on the disk.
    ///
    /// # Errors
    /// When the disk does not take it: then it is obeyed all the same until the next start, and to close
    /// it again tries the disk again.
    pub fn close(&self, id: BreakGlassId, by: &ClosedBy, time: Timestamp) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let first = self.closed.pin().try_insert(id, Some(by.clone())).is_ok();
        let wanted = first || self.unsaved.pin().contains_key(&id);
        let Some(path) = file.as_ref().filter(|_| wanted) else { return Ok(()) };
        self.unsaved.pin().insert(id, ());
        let mut kept = OpenOptions::new().create(true).append(true).open(path)?;
        let length = kept.metadata()?.len();
        let written = kept.write_all(format!("{id} {time}\n").as_bytes()).and_then(|()| kept.sync_all());
        if written.is_err() {
            // Half a line would make the next one unreadable.
            let _ = kept.set_len(length);
        }
        written?;
        self.unsaved.pin().remove(&id);
        Ok(())
    }

    /// Whether a drill is shown to this node for the first time: channels are told once.
    pub fn first_drill(&self, id: BreakGlassId) -> bool {
        let drills = self.drills.pin();
        if drills.len() >= KNOWN_MAX {
            drills.clear();
        }
        drills.insert(id, ()).is_none()
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self, id: BreakGlassId) -> bool {
        self.closed.pin().contains_key(&id)
    }

    /// Remembers an opening. Gives whether it was new here.
    pub fn know(&self, opening: KnownOpening) -> bool {
        let known = self.known.pin();
        if known.len() >= KNOWN_MAX
            && let Some((oldest, _)) = known.iter().min_by_key(|(_, opening)| opening.expires)
        {
            known.remove(oldest);
        }
        known.insert(opening.id, Arc::new(opening)).is_none()
    }

    /// Whether an opening of that id and another challenge was seen or heard of here.
    #[must_use]
    pub fn is_other(&self, id: BreakGlassId, challenge: &[u8; 32]) -> bool {
        let known = self.known.pin();
        known.get(&id).and_then(|known| known.challenge).is_some_and(|known| known != *challenge)
    }

    /// The opening of that id, as far as this node knows of it.
    #[must_use]
    pub fn known(&self, id: BreakGlassId) -> Option<Arc<KnownOpening>> {
        self.known.pin().get(&id).cloned()
    }

    /// Which of the openings that were used here the rules in force do not hold for.
    pub fn put_fallen(&self, ids: &[BreakGlassId]) {
        let fallen = self.fallen.pin();
        fallen.retain(|id, ()| ids.contains(id));
        for id in ids {
            fallen.insert(*id, ());
        }
    }

    /// Openings that are not over and not closed and that the rules in force hold for, as far as this node
    /// knows; the first to end first.
    #[must_use]
    pub fn open(&self, now: Timestamp) -> Vec<Arc<KnownOpening>> {
        let fallen = self.fallen.pin();
        let open = |it: &&Arc<KnownOpening>| {
            !it.expires.is_over(now) && !self.is_closed(it.id) && !fallen.contains_key(&it.id)
        };
        let mut found: Vec<_> = self.known.pin().values().filter(open).cloned().collect();
        found.sort_by_key(|it| (it.expires, it.id));
        found
    }

    /// Openings that ran out and of which that was not told yet. Each is given once.
    #[must_use]
    pub fn newly_over(&self, now: Timestamp) -> Vec<Arc<KnownOpening>> {
        let known = self.known.pin();
        let ended = known.values().filter(|it| it.expires.is_over(now) && !self.is_closed(it.id));
        ended.filter(|it| self.over.pin().insert(it.id, ()).is_none()).cloned().collect()
    }

    /// Has it tried again: it could not be recorded.
    pub fn not_told(&self, id: BreakGlassId) {
        self.over.pin().remove(&id);
    }

    /// Which openings nobody has reviewed yet.
    pub fn put_unreviewed(&self, ids: &[BreakGlassId]) {
        let unreviewed = self.unreviewed.pin();
        unreviewed.retain(|id, ()| ids.contains(id));
        for id in ids {
            unreviewed.insert(*id, ());
        }
    }

    /// It was reviewed by enough people.
    pub fn reviewed(&self, id: BreakGlassId) {
        self.unreviewed.pin().remove(&id);
    }

    /// How many openings wait for their review.
    #[must_use]
    pub fn unreviewed(&self) -> usize {
        self.unreviewed.len()
    }

    /// How many custodians an opening needs here and now: one more than the threshold while another
    /// opening waits for its review, where the configuration says so. One that is in use goes on as it began.
    #[must_use]
    pub fn needed(&self, in_force: &InForce, id: Option<BreakGlassId>) -> usize {
        let threshold = usize::try_from(in_force.rules.threshold.max(2)).unwrap_or(usize::MAX);
        let in_use = id.is_some_and(|id| self.known.pin().contains_key(&id));
        let unreviewed = self.unreviewed.pin();
        let waits = in_force.review_blocks && !in_use && unreviewed.keys().any(|other| Some(*other) != id);
        threshold + usize::from(waits)
    }

    /// When the last drill was, in milliseconds since 1970; none yet: `None`.
    #[must_use]
    pub fn drilled_at(&self) -> Option<Timestamp> {
        let millis = self.drilled_at.load(Ordering::Relaxed);
        (millis > 0).then(|| Timestamp::from_millis(millis))
    }

    /// Notes a drill.
    pub fn drilled(&self, time: Timestamp) {
        self.drilled_at.fetch_max(time.millis(), Ordering::Relaxed);
    }

    /// Where happenings go.
    pub fn tell(&self, queue: mpsc::Sender<Told>) {
        // There is one teller a process.
        let _ = self.happened.set(queue);
    }

    /// Has it told at once. Never waits; what finds no room is on record and told from there.
    pub fn happened(&self, happening: Happening) {
        self.hand_over(Told { happening, answer: None });
    }

    /// Has a test message sent on every channel that is told of openings. The answer says what became
    /// of each; it breaks off where there is no teller or no room.
    pub fn test_channels(&self, happening: Happening) -> oneshot::Receiver<Vec<ChannelTest>> {
        let (answer, tested) = oneshot::channel();
        self.hand_over(Told { happening, answer: Some(answer) });
        tested
    }

    fn hand_over(&self, told: Told) {
        if let Some(queue) = self.happened.get()
            && let Err(error) = queue.try_send(told)
        {
            tracing::error!(%error, "an alert of the emergency path could not be told at once");
        }
    }
}
