//! A drill: the custodians sign a challenge whose scope is nothing, and every node that is shown it
//! judges it as it would an opening, sends a test message on every channel that an opening would be
//! told on, and records how long it took and what became of each message.

use std::net::IpAddr;
use std::time::Duration;

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{ChannelOutcome, ChannelTest, Happening, KnownOpening};
use crate::model::breakglass::Scope;
use crate::model::{Timestamp, Ttl};
use crate::store::RECORD_TIMEOUT;

use super::super::desk::Desk;
use super::one_id;
use super::terms::{CheckError, Presented, judged, refused};

/// How long all channels together may take for their test message; each has its own bound below it.
const CHANNELS_TIMEOUT: Duration = Duration::from_secs(22);

/// A drill that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    /// Its id, as an opening's.
    pub id: String,
    /// Who signed and counts.
    pub custodians: Vec<String>,
    /// From the challenge to now.
    pub took: Ttl,
    /// Whether it is on record: without, it does not count as a drill.
    pub recorded: bool,
    /// What became of the test message on each channel of this node; `None` where this node was shown
    /// the drill before, and sent them then.
    pub channels: Option<Vec<ChannelTest>>,
}

/// Judges a drill and records it. Opens nothing.
///
/// # Errors
/// What is wrong with challenge or signatures.
pub async fn drill(desk: &Desk, presented: &Presented, address: IpAddr, now: Timestamp) -> Result<Drilled, CheckError> {
    let judged = judged(desk, presented, now).and_then(|opening| {
        let is_drill = opening.challenge.scope == Scope::Drill;
        if is_drill { Ok(opening) } else { Err(CheckError::NoDrill) }
    });
    let opening = match judged {
        Ok(opening) => opening,
        Err(error) => {
            refused(desk, &error, presented, address, now).await;
            return Err(error);
        }
    };
    let challenge = &opening.challenge;
    let took = now.since(challenge.not_before);
    let kind = EventType::BreakGlassDrilled;
    let event_id = one_id(kind, challenge.id.bytes(), challenge.not_before);
    let mut event = Event::new(event_id, now, kind, Outcome::Success)
        .with("id", challenge.id.to_string())
        .with("opener", challenge.opener.as_str())
        .with("custodians", opening.custodians.clone())
        .with("reason", challenge.reason.as_str())
        .with("took_ms", took.as_millis());
    event.actor.address = Some(address);
    let submitted = tokio::time::timeout(RECORD_TIMEOUT, desk.recorder.submit(event)).await;
    let recorded = matches!(submitted, Ok(Ok(())));
    if recorded {
        // A drill is of its challenge's time, however late or often it is shown.
        desk.directory.emergency.drilled(challenge.not_before);
    }
    let known = KnownOpening::of(&opening);
    // Whoever has the signatures may show them often; people are told once.
    let channels = if desk.directory.emergency.first_drill(challenge.id) {
        let happening = Happening { event: event_id, kind: kind.name(), time: now, opening: known, by: None };
        Some(test_channels(desk, happening, address).await)
    } else {
        None
    };
    Ok(Drilled { id: challenge.id.to_string(), custodians: opening.custodians.clone(), took, recorded, channels })
}

/// Sends the test messages and puts on record, for this node, what became of them.
async fn test_channels(desk: &Desk, happening: Happening, address: IpAddr) -> Vec<ChannelTest> {
    let drill = happening.opening.id;
    let tested = desk.directory.emergency.test_channels(happening);
    let tested = match tokio::time::timeout(CHANNELS_TIMEOUT, tested).await {
        Ok(Ok(tested)) => tested,
        Ok(Err(_)) => Vec::new(),
        Err(_) => {
            let outcome = ChannelOutcome::Failed("the channels were not done in time".to_owned());
            vec![ChannelTest { channel: "all".to_owned(), outcome }]
        }
    };
    let told = |test: &ChannelTest| match &test.outcome {
        ChannelOutcome::Taken => format!("{}: taken", test.channel),
        ChannelOutcome::Failed(why) => format!("{}: failed: {why}", test.channel),
        ChannelOutcome::NotAsked => format!("{}: not told of openings", test.channel),
    };
    let failed = tested.iter().any(|test| matches!(test.outcome, ChannelOutcome::Failed(_)));
    let now = desk.clock.now();
    let outcome = if failed { Outcome::Failed } else { Outcome::Success };
    let mut event = Event::new(desk.event_id(now), now, EventType::BreakGlassChannelsTested, outcome)
        .with("id", drill.to_string())
        .with("channels", tested.iter().map(told).collect::<Vec<_>>());
    event.actor.address = Some(address);
    desk.recorder.offer(event);
    tested
}
