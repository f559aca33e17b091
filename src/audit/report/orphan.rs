//! Credentials that outlived what they rest on: issued under a session that had ended, lasting longer than
//! its session, good after the grant that they name had ended, or of a holder who is barred.
//!
//! The end of a session that is on record ends everything under it at every node, so what was issued before
//! it is not listed. A session is followed by the credential of it that lasts longest.
//!
//! INVARIANT: what is kept of each thing is its latest or its earliest, so the order of logs changes nothing.

use std::collections::BTreeMap;

use super::exception::{Exception, Found};
use super::follow::{FOLLOWED_MAX, Table};
use super::seen::{Cited, Seen};
use crate::audit::Outcome;
use crate::audit::event::EventType;
use crate::model::{Timestamp, Ttl};

/// What two nodes' clocks may differ by.
const SKEW: Ttl = Ttl::seconds(5);

/// A credential: when it was issued, its own end, its event.
struct Issued {
    at: Timestamp,
    ends: Timestamp,
    cited: Box<Cited>,
}

#[derive(Default)]
struct SessionTrack {
    holder: Option<String>,
    ends: Option<Timestamp>,
    ended: Option<Timestamp>,
    /// The one that lasts longest.
    longest: Option<Issued>,
    /// The one that was issued last.
    latest: Option<Issued>,
}

/// A credential that names a grant.
#[derive(Default)]
struct GrantedTrack {
    issued: Option<Issued>,
    grant: Option<String>,
    session: Option<String>,
    withdrawn: bool,
}

/// Credentials, and what they rest on.
pub struct Orphans {
    sessions: Table<SessionTrack>,
    granted: Table<GrantedTrack>,
}

fn time(seen: &Seen<'_>, pointer: &str) -> Option<Timestamp> {
    seen.text(pointer).and_then(Timestamp::parse)
}

/// The session that an event is about.
fn session<'a>(seen: &Seen<'a>) -> Option<&'a str> {
    seen.text("/resource").filter(|id| id.starts_with("ses_")).or_else(|| seen.text("/actor/session"))
}

/// How a credential is named in later events.
fn name<'a>(seen: &Seen<'a>) -> Option<&'a str> {
    seen.text("/data/jti").or_else(|| seen.text("/data/lease")).or_else(|| seen.text("/data/thumbprint"))
}

impl Orphans {
    pub const fn new() -> Self {
        Self { sessions: Table::new(), granted: Table::new() }
    }

    /// Takes an event about it.
    pub fn take(&mut self, seen: &Seen<'_>) {
        match seen.leaf.kind {
            EventType::SessionStart => {
                let Some(track) = session(seen).and_then(|id| self.sessions.of(id)) else { return };
                track.holder = seen.text("/actor/id").map(str::to_owned);
                track.ends = time(seen, "/data/expires_at");
            }
            EventType::SessionEnd => {
                if let Some(track) = session(seen).and_then(|id| self.sessions.of(id)) {
                    track.ended = Some(track.ended.map_or(seen.leaf.time, |ended| ended.min(seen.leaf.time)));
                }
            }
            EventType::TokenIssued | EventType::CredentialIssued | EventType::SessionRenewed => self.issued(seen),
            EventType::TokenRevoked | EventType::CredentialRevoked if seen.leaf.outcome == Outcome::Success => {
                if let Some(track) = name(seen).and_then(|name| self.granted.of(name)) {
                    track.withdrawn = true;
                }
            }
            _ => {}
        }
    }

    fn issued(&mut self, seen: &Seen<'_>) {
        let (at, session) = (seen.leaf.time, session(seen));
        let ends = time(seen, "/data/expires_at");
        let issued = |ends| Issued { at, ends, cited: Box::new(seen.cite()) };
        if let Some(track) = session.and_then(|id| self.sessions.of(id)) {
            if track.holder.is_none() {
                track.holder = seen.text("/actor/id").map(str::to_owned);
            }
            if track.latest.as_ref().is_none_or(|latest| latest.at < at) {
                track.latest = Some(issued(ends.unwrap_or(at)));
            }
            if let Some(ends) = ends
                && track.longest.as_ref().is_none_or(|longest| longest.ends < ends)
            {
                track.longest = Some(issued(ends));
            }
        }
        if let (Some(grant), Some(ends)) = (seen.text("/grant"), ends)
            && let Some(track) = name(seen).and_then(|name| self.granted.of(name))
        {
            track.issued = Some(issued(ends));
            track.grant = Some(grant.to_owned());
            track.session = session.map(str::to_owned);
        }
    }

    /// What stands out at the end. `locked` says since when somebody is barred; `grant_ended` says when a grant ended.
    pub fn end(
        self,
        locked: &BTreeMap<String, Timestamp>,
        grant_ended: impl Fn(&str) -> Option<Timestamp>,
        found: &mut BTreeMap<Exception, Found>,
    ) -> Vec<String> {
        let mut add = |issued: &Issued, note: String| {
            found.entry(Exception::OrphanedCredentials).or_default().add(1, Some((*issued.cited).clone()), note);
        };
        for (id, track) in &self.sessions.rows {
            if let (Some(ended), Some(latest)) = (track.ended, &track.latest)
                && latest.at > ended.plus(SKEW)
            {
                add(latest, format!("issued under {id}, which had ended at {ended}"));
            }
            let (None, Some(longest)) = (track.ended, &track.longest) else { continue };
            if let Some(ends) = track.ends.filter(|ends| longest.ends > ends.plus(SKEW)) {
                add(longest, format!("good until {}, longer than {id}, which ends at {ends}", longest.ends));
            }
            let barred = track.holder.as_ref().and_then(|holder| locked.get(holder));
            if let Some(since) = barred.filter(|since| **since < longest.ends) {
                let note =
                    format!("good until {}; its holder is barred since {since}, and {id} was not ended", longest.ends);
                add(longest, note);
            }
        }
        for (name, track) in &self.granted.rows {
            let (Some(issued), Some(grant), false) = (&track.issued, &track.grant, track.withdrawn) else { continue };
            let over = track.session.as_ref().and_then(|id| self.sessions.rows.get(id)?.ended);
            if let Some(ended) = grant_ended(grant).filter(|ended| *ended < issued.ends)
                && over.is_none_or(|over| over > issued.ends)
            {
                add(issued, format!("{name} is good until {}, and {grant} ended at {ended}", issued.ends));
            }
        }
        let parts =
            [(self.sessions.left_out, "events about sessions"), (self.granted.left_out, "credentials of grants")];
        let told = |(count, what): &(u64, &str)| {
            format!("{count} {what} were counted but not followed: {FOLLOWED_MAX} of a kind are; take a shorter period")
        };
        parts.iter().filter(|(count, _)| *count > 0).map(told).collect()
    }
}
