//! Whether a node's clock can be believed: the time of day, which anybody may set, held against a
//! clock that nobody sets.
//!
//! INVARIANTS: the time that a node goes by never runs back against the one that it believed; what
//! is smaller than [`STEP_MIN`] is drift, and is followed by a tenth of the time that passes, so that
//! many small steps are one large one. What happens when a clock steps:
//!
//! - forward: its time is gone by at once, so that what should be over is; it is believed again once
//!   it has gone on for [`STEADY_FOR`] without another step. Put back before that, nothing but the
//!   time in between was lost.
//! - back: the node goes on by the time that it had, so that nothing that ended is in force again and
//!   nothing lasts longer; the clock is believed again once it has come up to that time, or after a
//!   restart once it has passed the latest time that is on record.
//!
//! A clock that was wrong before the node started does not step. So the node's time is also held against the
//! clock of a database that has one of its own, at the start and from time to time: nothing new is granted
//! while they are more than [`STEP_MIN`] apart, and a time that is ahead is not written down for all.

use std::fmt;
use std::time::Duration;

use super::time::{Timestamp, Ttl};

/// The smallest difference that is a step.
pub const STEP_MIN: Ttl = Ttl::seconds(5);
/// How long a clock that stepped must go on without another before it is believed.
pub const STEADY_FOR: Ttl = Ttl::minutes(1);
/// The part of the time that passes by which drift is followed.
const DRIFT_PART: i64 = 10;

/// Which way a clock stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepDirection {
    /// It shows less than it should.
    Back,
    /// It shows more.
    Forward,
}

impl StepDirection {
    /// As recorded and counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Back => "back",
            Self::Forward => "forward",
        }
    }
}

/// What showed that a clock stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepAgainst {
    /// The clock that nobody sets.
    Running,
    /// The newest event on record, at a start.
    Record,
    /// The clock of the database, which all nodes share.
    Database,
}

impl StepAgainst {
    /// As recorded.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Record => "record",
            Self::Database => "database",
        }
    }
}

/// A step of a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockStep {
    /// Which way.
    pub direction: StepDirection,
    /// How far.
    pub size: Ttl,
    /// What the clock shows now.
    pub shows: Timestamp,
    /// What it should show.
    pub expected: Timestamp,
    /// By what that is known.
    pub against: StepAgainst,
}

/// Why nothing new is granted by a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockDoubt {
    /// It stepped, and has not been steady for long enough.
    Settling {
        /// How long it still has to be.
        left: Ttl,
    },
    /// It is behind the time that this node has seen.
    Behind {
        /// By how much.
        by: Ttl,
        /// What it has to come up to.
        latest: Timestamp,
    },
    /// It and the database's clock do not agree.
    Apart {
        /// Which way the node's time is off, if it is that one.
        direction: StepDirection,
        /// How far.
        by: Ttl,
    },
}

impl fmt::Display for ClockDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling { left } => write!(
                f,
                "this node's clock stepped by more than {STEP_MIN}, so nothing new is granted here until it has been \
                 steady for {left} more; try again then, or at another node"
            ),
            Self::Behind { by, latest } => write!(
                f,
                "this node's clock was set back: it is {by} behind {latest}, which this installation has seen already, \
                 so nothing new is granted here until it has passed that; set the clock right, or ask another node"
            ),
            Self::Apart { direction, by } => {
                let way = match direction {
                    StepDirection::Back => "behind",
                    StepDirection::Forward => "ahead of",
                };
                write!(
                    f,
                    "this node's time is {by} {way} the database's, so nothing new is granted here until they agree; set \
                     whichever clock is wrong right, or ask another node"
                )
            }
        }
    }
}

/// What a node knows of its clock. Times of the clock that nobody sets are in milliseconds since
/// some moment.
#[derive(Debug, Clone)]
pub struct ClockWatch {
    /// Time of day less running time, as the node goes by it.
    offset: i64,
    /// The same as it is expected of the clock: what a step is measured against.
    expected: i64,
    /// The offset of before a step forward that is not believed yet.
    before: Option<i64>,
    looked_at: i64,
    /// When drift was last followed.
    followed_at: i64,
    shown: Timestamp,
    steady_from: Option<i64>,
    on_record: Option<Timestamp>,
    /// How far it was from the database's when that was last known.
    apart: Option<(StepDirection, Ttl)>,
}

fn millis(running: Duration) -> i64 {
    i64::try_from(running.as_millis()).unwrap_or(i64::MAX)
}

fn length(millis: i64) -> Ttl {
    Timestamp::from_millis(millis).since(Timestamp::from_millis(0))
}

impl ClockWatch {
    /// Believes the clock as it shows `wall` when the other one shows `running`.
    #[must_use]
    pub fn new(wall: Timestamp, running: Duration) -> Self {
        let running = millis(running);
        let offset = wall.millis().saturating_sub(running);
        Self {
            offset,
            expected: offset,
            before: None,
            looked_at: running,
            followed_at: running,
            shown: wall,
            steady_from: None,
            on_record: None,
            apart: None,
        }
    }

    /// The time of day less running time, in milliseconds, below which the node's time does not fall.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        self.offset
    }

    /// Looks at both clocks. Says so where the time of day stepped since the last look.
    pub fn look(&mut self, wall: Timestamp, running: Duration) -> Option<ClockStep> {
        let running = millis(running).max(self.looked_at);
        // The rest that does not divide is followed at a later look.
        let drift = running.saturating_sub(self.followed_at) / DRIFT_PART;
        self.followed_at = if drift > 0 { running } else { self.followed_at };
        let shows = wall.millis().saturating_sub(running);
        (self.looked_at, self.shown) = (running, wall);
        if self.steady_from.is_some_and(|from| from.saturating_add(STEADY_FOR.as_millis()) <= running) {
            (self.steady_from, self.before) = (None, None);
        }
        let by = shows.saturating_sub(self.expected);
        let step = (by.saturating_abs() > STEP_MIN.as_millis()).then(|| ClockStep {
            direction: if by < 0 { StepDirection::Back } else { StepDirection::Forward },
            size: length(by.saturating_abs()),
            shows: wall,
            expected: Timestamp::from_millis(running.saturating_add(self.expected)),
            against: StepAgainst::Running,
        });
        if step.is_some() {
            self.steady_from = Some(running);
            self.expected = shows;
            self.believe_less(shows);
        } else {
            self.expected = self.expected.saturating_add(by.clamp(-drift, drift));
        }
        if shows >= self.offset {
            self.offset = shows;
        } else if self.is_behind(shows) {
            // It goes on by the time that it had.
            self.steady_from = Some(running);
        } else {
            self.offset = self.offset.saturating_sub(drift).max(shows);
        }
        if self.on_record.is_some_and(|latest| latest < wall) {
            self.on_record = None;
        }
        step
    }

    /// After a step: remembers what was believed before one forward, and goes back to it.
    fn believe_less(&mut self, shows: i64) {
        let limit = STEP_MIN.as_millis();
        if shows.saturating_sub(self.offset) > limit {
            self.before.get_or_insert(self.offset);
        } else if let Some(before) = self.before {
            // What it showed in between was never believed. What is before that is behind it.
            self.offset = shows.max(before);
            if shows.saturating_sub(before) <= limit {
                self.before = None;
            }
        }
    }

    /// Holds the clock against the newest event on record, at a start. Some of it may have been written
    /// by nodes whose clocks are a little ahead.
    pub fn hold_against_record(&mut self, latest: Timestamp) -> Option<ClockStep> {
        let behind = latest.since(self.shown);
        if behind <= STEP_MIN {
            return None;
        }
        self.on_record = Some(latest);
        Some(ClockStep {
            direction: StepDirection::Back,
            size: behind,
            shows: self.shown,
            expected: latest,
            against: StepAgainst::Record,
        })
    }

    /// Holds the time that the node goes by, as of the last look, against what the database's clock shows
    /// then, give or take `margin`. Says so where they were not known to be apart that way. What the margin
    /// leaves open changes nothing.
    pub fn hold_against_database(&mut self, database: Timestamp, margin: Ttl) -> Option<ClockStep> {
        let here = Timestamp::from_millis(self.looked_at.saturating_add(self.offset));
        let by = here.millis().saturating_sub(database.millis());
        let (size, margin) = (by.saturating_abs(), margin.as_millis());
        if size.saturating_add(margin) <= STEP_MIN.as_millis() {
            self.apart = None;
            return None;
        }
        if size.saturating_sub(margin) <= STEP_MIN.as_millis() {
            return None;
        }
        let direction = if by < 0 { StepDirection::Back } else { StepDirection::Forward };
        let size = length(size);
        let known = self.apart.replace((direction, size));
        known.is_none_or(|(before, _)| before != direction).then_some(ClockStep {
            direction,
            size,
            shows: here,
            expected: database,
            against: StepAgainst::Database,
        })
    }

    /// Why nothing new may be granted, as things were at the last look.
    #[must_use]
    pub fn doubt(&self) -> Option<ClockDoubt> {
        let shows = self.shown.millis().saturating_sub(self.looked_at);
        if self.is_behind(shows) {
            let by = length(self.offset.saturating_sub(shows));
            return Some(ClockDoubt::Behind { by, latest: self.shown.plus(by) });
        }
        if let Some(latest) = self.on_record {
            return Some(ClockDoubt::Behind { by: latest.since(self.shown), latest });
        }
        if let Some((direction, by)) = self.apart {
            return Some(ClockDoubt::Apart { direction, by });
        }
        let from = self.steady_from?;
        let left = from.saturating_add(STEADY_FOR.as_millis()).saturating_sub(self.looked_at);
        (left > 0).then(|| ClockDoubt::Settling { left: length(left) })
    }

    /// Whether the node's time may be ahead of the true one: it stepped forward and is not believed yet, or
    /// it is ahead of the database's.
    #[must_use]
    pub const fn may_be_ahead(&self) -> bool {
        self.before.is_some() || matches!(self.apart, Some((StepDirection::Forward, _)))
    }

    const fn is_behind(&self, shows: i64) -> bool {
        self.offset.saturating_sub(shows) > STEP_MIN.as_millis()
    }
}
