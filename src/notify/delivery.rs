//! Each channel's round: read on in the record, tell what is due.
//!
//! INVARIANTS: a channel waits for no other. Every wait ends; a trial is at most
//! [`mail`](super::mail)'s 20 s. What is not taken is tried again after [`PAUSES`], and given up
//! after the last of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::audience::{AUDIENCE_MAX, AUDIENCE_TYPE, Audience, mark_of};
use super::mail::Mail;
use super::notice::Notice;
use super::pattern::EventPattern;
use super::settings::NotifySettings;
use super::webhook::Webhook;
use crate::model::{Clock, Entropy, EventId, Timestamp, Ttl};
use crate::outbound::OutboundError;
use crate::store::{Recorded, Store, StoreError, StoredNotice};

/// The pauses after a trial that came to nothing; after the last one's trial there is none. The
/// shortest is longer than a trial, so that no second node begins one while the first is at it.
pub const PAUSES: [Ttl; 9] = [
    Ttl::seconds(30),
    Ttl::minutes(2),
    Ttl::minutes(10),
    Ttl::minutes(30),
    Ttl::hours(1),
    Ttl::hours(3),
    Ttl::hours(6),
    Ttl::hours(8),
    Ttl::hours(10),
];
/// How often the record is looked at.
const ROUND_EVERY: Duration = Duration::from_millis(500);
/// How long a channel rests when the database is away.
const REST: Duration = Duration::from_secs(5);
/// Notices of a channel that are told in one round.
const ROUND_MAX: u32 = 32;

/// Why a trial came to nothing.
#[derive(Debug)]
pub enum SendError {
    /// It may be taken another time, not before the pause that the receiver asked for.
    Again { text: String, pause: Option<Ttl> },
    /// It will never be taken.
    Never(String),
}

impl SendError {
    pub(in crate::notify) fn again(text: impl Into<String>) -> Self {
        Self::Again { text: text.into(), pause: None }
    }

    fn text(&self) -> &str {
        match self {
            Self::Again { text, .. } | Self::Never(text) => text,
        }
    }
}

enum Means {
    Webhook(Webhook),
    Mail(Mail),
    /// A mail of their own to each whom the event waits for.
    People(Mail),
}

/// What became of a message on one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The channel's name.
    pub channel: String,
    /// Whether it was taken, or why not; `None`: the channel is not told of such.
    pub taken: Option<Result<(), String>>,
}

/// How long one trial for all people of an event may take: under the shortest pause.
const PEOPLE_TIMEOUT: Duration = Duration::from_secs(25);

/// One place that is told.
pub struct Channel {
    name: String,
    events: Vec<EventPattern>,
    means: Means,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("name", &self.name).field("events", &self.events).finish_non_exhaustive()
    }
}

impl Channel {
    pub(in crate::notify) fn of_webhook(name: &str, events: Vec<EventPattern>, webhook: Webhook) -> Self {
        Self { name: name.to_owned(), events, means: Means::Webhook(webhook) }
    }

    pub(in crate::notify) fn of_mail(name: &str, events: Vec<EventPattern>, mail: Mail) -> Self {
        Self { name: name.to_owned(), events, means: Means::Mail(mail) }
    }

    pub(in crate::notify) fn of_people(name: &str, mail: Mail) -> Self {
        let events = vec![EventPattern::Exactly(AUDIENCE_TYPE.to_owned())];
        Self { name: name.to_owned(), events, means: Means::People(mail) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is told of this type.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.events.iter().any(|pattern| pattern.wants(kind))
    }

    async fn send(&self, notice: &Notice, now: Timestamp) -> Result<(), SendError> {
        match &self.means {
            Means::Webhook(webhook) => webhook.send(notice, now).await,
            Means::Mail(mail) => mail.send(notice).await,
            // Whom to tell is in the record, and a trial of theirs is `Round::tell_people`.
            Means::People(_) => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Counts what became of notices on this node.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    notices: Family<StateLabel, Counter>,
}

impl Counted {
    /// The counter, registered.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let counted = Self::default();
        for state in ["delivered", "failed", "dead"] {
            // A state that has not happened yet is 0 and not absent.
            drop(counted.notices.get_or_create(&StateLabel { state }));
        }
        registry.register("notices", "Trials of notices, by what became of them", counted.notices.clone());
        counted
    }

    fn count(&self, state: &'static str) {
        self.notices.get_or_create(&StateLabel { state }).inc();
    }

    /// How many there were.
    #[must_use]
    pub fn of(&self, state: &'static str) -> u64 {
        self.notices.get_or_create(&StateLabel { state }).get()
    }
}

/// Every place that is told, and what telling needs.
pub struct Channels {
    channels: Vec<Channel>,
    counted: Counted,
}

impl Channels {
    /// The channels of these settings; links lead to `origin`.
    ///
    /// # Errors
    /// When an authority's certificate can't be used.
    pub fn new(
        settings: &NotifySettings,
        origin: &str,
        clock: &Arc<dyn Clock>,
        counted: Counted,
    ) -> Result<Self, OutboundError> {
        let origin: Arc<str> = origin.into();
        let mut channels = settings
            .webhooks
            .iter()
            .map(|webhook| Webhook::channel(webhook, &origin, clock))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(smtp) = &settings.smtp {
            channels.extend((!smtp.to.is_empty()).then(|| Mail::channel(smtp, &origin)));
            channels.extend(smtp.to_approvers.then(|| Mail::people(smtp, &origin)));
        }
        Ok(Self { channels, counted })
    }

    /// The channels.
    pub fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter()
    }

    /// Tells everyone who wants it at once, each by one trial and without the database.
    pub async fn tell_all(&self, notice: &Notice, now: Timestamp) {
        let told = self.channels.iter().filter(|channel| channel.wants(&notice.kind)).map(|channel| async move {
            match channel.send(notice, now).await {
                Ok(()) => self.counted.count("delivered"),
                Err(error) => {
                    self.counted.count("failed");
                    tracing::warn!(channel = %channel.name, error = error.text(), "an alert was not taken");
                }
            }
        });
        futures_util::future::join_all(told).await;
    }
}

impl Channels {
    /// Sends a test message on every channel that wants events of type `kind`, each by one trial, all at
    /// once and without the database. Channels for the people of one request are none of these.
    pub async fn test_all(&self, notice: &Notice, kind: &str, now: Timestamp) -> Vec<Tried> {
        let fixed = self.channels.iter().filter(|channel| !matches!(channel.means, Means::People(_)));
        let tried = fixed.map(|channel| async move {
            let taken = if channel.wants(kind) {
                let sent = channel.send(notice, now).await;
                self.counted.count(if sent.is_ok() { "delivered" } else { "failed" });
                Some(sent.map_err(|error| error.text().to_owned()))
            } else {
                None
            };
            Tried { channel: channel.name.clone(), taken }
        });
        futures_util::future::join_all(tried).await
    }
}

/// What a round needs.
pub struct Round {
    /// Where the record is.
    pub store: Store,
    /// Who is told.
    pub channels: Arc<Channels>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for ids and for pauses that do not all end together.
    pub entropy: Arc<dyn Entropy>,
    /// Whom an event waits for.
    pub audience: Audience,
}

impl Round {
    /// One round of one channel: gives how many notices were tried.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn run(&self, channel: &Channel) -> Result<usize, StoreError> {
        let now = self.clock.now();
        while self.store.notice_collect(&channel.name, |kind| channel.wants(kind), now).await?.is_some() {}
        let due = self.store.notice_list_due(&channel.name, now, ROUND_MAX).await?;
        let mut tried = 0;
        for notice in due {
            let now = self.clock.now();
            if self.store.notice_claim(&notice, now.plus(self.pause(notice.attempts))).await? {
                tried += 1;
                self.tell(channel, StoredNotice { attempts: notice.attempts + 1, ..notice }).await?;
            }
        }
        Ok(tried)
    }

    async fn tell(&self, channel: &Channel, notice: StoredNotice) -> Result<(), StoreError> {
        let Some(event) = self.store.event_fetch(&notice.event).await? else {
            let id = EventId::fresh(self.clock.now(), &*self.entropy);
            return self.store.notice_bury(&notice, "the event is no longer kept", id, self.clock.now()).await;
        };
        let counted = &self.channels.counted;
        let sent = match &channel.means {
            Means::People(mail) => {
                match tokio::time::timeout(PEOPLE_TIMEOUT, self.tell_people(mail, &notice, event)).await {
                    Ok(told) => told?,
                    Err(_) => Err(SendError::again("not everybody could be mailed in time")),
                }
            }
            Means::Webhook(_) | Means::Mail(_) => channel.send(&Notice::of_event(&event), self.clock.now()).await,
        };
        let error = match sent {
            Ok(()) => {
                counted.count("delivered");
                return self.store.notice_delivered(&notice, self.clock.now()).await;
            }
            Err(error) => error,
        };
        let now = self.clock.now();
        counted.count("failed");
        let last = usize::try_from(notice.attempts).unwrap_or(usize::MAX) > PAUSES.len();
        match error {
            SendError::Again { text, pause } if !last => {
                tracing::info!(channel = %channel.name, event = %notice.event, error = %text, "a notice was not taken");
                let not_before = pause.map_or(now, |pause| now.plus(pause));
                self.store.notice_failed(&notice, &text, not_before).await
            }
            SendError::Again { text, .. } | SendError::Never(text) => {
                counted.count("dead");
                tracing::warn!(channel = %channel.name, event = %notice.event, error = %text, "a notice is given up");
                self.store.notice_bury(&notice, &text, EventId::fresh(now, &*self.entropy), now).await
            }
        }
    }

    /// One mail to each whom the event waits for and who did not get it yet. One address that is refused
    /// keeps none of the others from theirs.
    async fn tell_people(
        &self,
        mail: &Mail,
        notice: &StoredNotice,
        event: Recorded,
    ) -> Result<Result<(), SendError>, StoreError> {
        let told = Notice::of_event(&event).for_approvers();
        let mut people = (self.audience)(event).await?;
        people.truncate(AUDIENCE_MAX);
        let before = self.store.notice_told_list(notice).await?;
        let (mut missing, mut last) = (0_usize, None);
        let count = people.len();
        for address in people {
            let mark = mark_of(notice.event, &address);
            if before.contains(&mark) {
                continue;
            }
            match mail.send_to(&told, &[address]).await {
                Ok(()) => self.store.notice_told(notice, &mark, self.clock.now()).await?,
                Err(error) => {
                    missing += 1;
                    last = Some(error.text().to_owned());
                }
            }
        }
        Ok(match last {
            None => Ok(()),
            Some(why) => {
                Err(SendError::again(format!("{missing} of {count} who may approve could not be mailed: {why}")))
            }
        })
    }

    /// The pause after this many trials, up to a quarter longer by chance.
    fn pause(&self, attempts: i64) -> Ttl {
        let place = usize::try_from(attempts).unwrap_or(usize::MAX);
        let pause = PAUSES.get(place).or(PAUSES.last()).copied().unwrap_or(Ttl::hours(1));
        let mut byte = [0u8];
        self.entropy.fill(&mut byte);
        let quarter = pause.as_millis() / 4 * i64::from(byte.first().copied().unwrap_or(0)) / 255;
        Ttl::millis(u32::try_from(pause.as_millis() + quarter).unwrap_or(u32::MAX))
    }

    /// Rounds of one channel without end, until `over`.
    pub async fn run_all(self: Arc<Self>, place: usize, over: CancellationToken) {
        let Some(channel) = self.channels.channels.get(place) else { return };
        let mut known = false;
        loop {
            let round = async {
                if !known {
                    self.store.notice_channel_open(&channel.name, self.clock.now()).await?;
                    known = true;
                }
                self.run(channel).await
            };
            let rest = tokio::select! {
                done = round => match done {
                    Ok(0) => ROUND_EVERY,
                    Ok(_) => Duration::ZERO,
                    Err(error) => {
                        tracing::warn!(channel = %channel.name, %error, "notices wait for the database");
                        REST
                    }
                },
                () = over.cancelled() => return,
            };
            if tokio::time::timeout(rest, over.cancelled()).await.is_ok() {
                return;
            }
        }
    }
}
