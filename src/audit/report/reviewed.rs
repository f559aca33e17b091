//! Access reviews: rules that were decided to go and are still there, and rules that nobody decided in time.
//!
//! INVARIANT: of each thing its latest event counts, by time, then by kind, then by its place in its log, so the
//! order of logs changes nothing.

use std::collections::BTreeMap;

use super::exception::{Exception, Found};
use super::follow::{FOLLOWED_MAX, Table, Window};
use super::seen::{Cited, Seen, short};
use crate::audit::event::EventType;
use crate::model::Timestamp;

/// When, and of two at once which counts.
type Moment = (Timestamp, u8, u64);

/// A rule of a review that was decided.
#[derive(Default)]
struct RuleTrack {
    at: Option<Moment>,
    /// Whether it is to go and is not gone.
    open: bool,
    name: String,
    cited: Option<Box<Cited>>,
}

/// A review.
#[derive(Default)]
struct ReviewTrack {
    at: Option<Moment>,
    undecided: u64,
    due: Option<Timestamp>,
    closed: bool,
    cited: Option<Box<Cited>>,
}

/// Reviews and their rules.
pub struct Reviewed {
    rules: Table<RuleTrack>,
    reviews: Table<ReviewTrack>,
}

impl Reviewed {
    pub const fn new() -> Self {
        Self { rules: Table::new(), reviews: Table::new() }
    }

    /// Takes an event about it.
    pub fn take(&mut self, seen: &Seen<'_>) {
        let rank = match seen.leaf.kind {
            EventType::ReviewStarted => 0,
            EventType::ReviewDecided => 1,
            EventType::ReviewOutstanding => 2,
            EventType::ReviewRemoved => 3,
            EventType::ReviewClosed => 4,
            _ => return,
        };
        let Some(review) = seen.text("/data/review") else { return };
        let moment = (seen.leaf.time, rank, seen.index());
        if let Some(item) = seen.number("/data/item") {
            self.rule(seen, &format!("{review} {item}"), moment);
        }
        let Some(undecided) = seen.number("/data/undecided") else { return };
        let Some(track) = self.reviews.of(review) else { return };
        track.closed |= seen.leaf.kind == EventType::ReviewClosed || seen.text("/data/state") == Some("closed");
        track.due = track.due.or_else(|| seen.text("/data/due_at").and_then(Timestamp::parse));
        if track.at < Some(moment) {
            track.at = Some(moment);
            track.undecided = undecided;
            track.cited = Some(Box::new(seen.cite()));
        }
    }

    fn rule(&mut self, seen: &Seen<'_>, key: &str, moment: Moment) {
        let Some(track) = self.rules.of(key).filter(|track| track.at < Some(moment)) else { return };
        track.at = Some(moment);
        track.open = match seen.leaf.kind {
            EventType::ReviewDecided => seen.text("/data/after/decision") == Some("remove"),
            EventType::ReviewOutstanding => true,
            _ => false,
        };
        track.name = seen.text("/data/name").map(short).unwrap_or_default();
        track.cited = Some(Box::new(seen.cite()));
    }

    /// What stands out at the end. Gives what could not be followed.
    pub fn end(self, window: Window, found: &mut BTreeMap<Exception, Found>) -> Vec<String> {
        let mut add = |kind, count, cited: Option<Box<Cited>>, note: String| {
            found.entry(kind).or_default().add(count, cited.map(|cited| *cited), note);
        };
        for (key, track) in self.rules.rows.into_iter().filter(|(_, track)| track.open) {
            let (review, item) = key.split_once(' ').unwrap_or((&key, ""));
            let note = format!("rule {item} of {review}, `{}`: its removal is not on record", track.name);
            add(Exception::RemovalsOpen, 1, track.cited, note);
        }
        for (review, track) in self.reviews.rows {
            let is_due = track.due.is_some_and(|due| due <= window.until);
            if track.undecided > 0 && (is_due || track.closed) {
                let due = track.due.map(|due| format!(", due {due}")).unwrap_or_default();
                let closed = if track.closed { ", closed" } else { "" };
                let note = format!("{} rules of {review} are undecided{due}{closed}", track.undecided);
                add(Exception::ReviewsUndecided, track.undecided, track.cited, note);
            }
        }
        let parts = [(self.rules.left_out, "decisions about rules"), (self.reviews.left_out, "events about reviews")];
        let told = |(count, what): &(u64, &str)| {
            format!("{count} {what} were counted but not followed: {FOLLOWED_MAX} of a kind are; take a shorter period")
        };
        parts.iter().filter(|(count, _)| *count > 0).map(told).collect()
    }
}
