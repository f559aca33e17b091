//! What runs beside requests for the emergency path, also while the database is away: telling every
//! channel at once, and putting the end of openings on record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::audit::EventType;
use crate::control::{Desk, breakglass};
use crate::gateway::worker::Shared;
use crate::identity::breakglass::{ChannelOutcome, ChannelTest, Happening, InForce, Told};
use crate::model::Timestamp;
use crate::notify::alert::Alert;
use crate::notify::{Alerts, Tried};

use super::database;

/// How often is looked whether an opening ran out.
const ENDS_EVERY: Duration = Duration::from_millis(500);
/// Each so many rounds the record is asked what other nodes saw.
const FOLLOW_ROUNDS: u32 = 8;
/// How long that may take.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(2);
/// Happenings that may wait to be told.
const QUEUE: usize = 64;

/// Starts it, until the gateway drains.
pub fn spawn(tasks: &TaskTracker, shared: &Arc<Shared>, desk: &Arc<Desk>, alerts: &Alerts, config: PathBuf) {
    let (queue, happened) = mpsc::channel(QUEUE);
    desk.directory.emergency.tell(queue);
    tasks.spawn(tell(Arc::clone(shared), happened, alerts.clone()));
    tasks.spawn(tend(Arc::clone(shared), Arc::clone(desk), config));
}

async fn tell(shared: Arc<Shared>, mut happened: mpsc::Receiver<Told>, alerts: Alerts) {
    let mut tests = JoinSet::new();
    loop {
        tokio::select! {
            told = happened.recv() => match told {
                Some(Told { happening, answer: None }) => alerts.alert_now(alert_of(happening)),
                Some(Told { happening, answer: Some(answer) }) => {
                    let (done, tried) = oneshot::channel();
                    // What is tried is what would be told of an opening.
                    alerts.test_now(alert_of(happening), EventType::BreakGlassOpened.name(), done);
                    tests.spawn(answered(tried, answer));
                }
                None => return,
            },
            Some(_) = tests.join_next() => {}
            () = shared.stopping.cancelled() => return,
        }
    }
}

/// Hands on what became of a test message on each channel.
async fn answered(tried: oneshot::Receiver<Vec<Tried>>, answer: oneshot::Sender<Vec<ChannelTest>>) {
    let Ok(tried) = tried.await else { return };
    let tested = tried.into_iter().map(|Tried { channel, taken }| ChannelTest {
        channel,
        outcome: match taken {
            None => ChannelOutcome::NotAsked,
            Some(Ok(())) => ChannelOutcome::Taken,
            Some(Err(why)) => ChannelOutcome::Failed(why),
        },
    });
    // Who does not wait any more has answered already.
    let _ = answer.send(tested.collect());
}

fn alert_of(happening: Happening) -> Alert {
    let Happening { event, kind, time, opening, by } = happening;
    let mut data = Map::new();
    let custodians = opening.custodians.join(", ");
    for (key, value) in [
        ("id", opening.id.to_string()),
        ("opener", opening.opener.clone()),
        ("scope", opening.scope),
        ("reason", opening.reason),
        ("custodians", custodians),
        ("expires_at", opening.expires.to_string()),
    ] {
        // Of an opening that was not seen here nobody knows who signed.
        if key != "custodians" || !value.is_empty() {
            data.insert(key.to_owned(), Value::String(value));
        }
    }
    Alert { id: event, time, kind, actor: Some(by.unwrap_or(opening.opener)), service: None, data }
}

async fn tend(shared: Arc<Shared>, desk: Arc<Desk>, config: PathBuf) {
    let (mut round, mut noted, mut overdue) = (0, None, None);
    let mut seen = desk.directory.emergency.in_force();
    while tokio::time::timeout(ENDS_EVERY, shared.draining.cancelled()).await.is_err() {
        let now = shared.clock.now();
        breakglass::record_ends(&desk, now).await;
        breakglass::record_refusals(&desk, now).await;
        let in_force = desk.directory.emergency.in_force();
        if !is_same(seen.as_ref(), in_force.as_ref()) {
            // A change while the database is away is on record too, and one that was taken back by then.
            if spool_change(&shared, &desk, seen.as_deref(), in_force.as_deref(), now).await {
                keep_beside(&config, in_force.as_deref());
                noted = Some(in_force.clone());
            }
            seen.clone_from(&in_force);
        }
        round += 1;
        if shared.emergency.load(Ordering::Acquire) || round % FOLLOW_ROUNDS != 1 {
            continue;
        }
        let changed = noted.as_ref().is_none_or(|before| !is_same(before.as_ref(), in_force.as_ref()));
        // What tends the path besides does not hang on how much there is to read.
        match tokio::time::timeout(FOLLOW_TIMEOUT, breakglass::follow(&desk, now)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the record could not be asked what other nodes saw of emergencies")
            }
            Err(_) => tracing::warn!("the record did not say in time what other nodes saw of emergencies"),
        }
        let tended = async {
            if changed {
                breakglass::note_custodians(&desk, in_force.as_deref(), now).await?;
            }
            breakglass::note_drill_overdue(&desk, in_force.as_deref(), &mut overdue, now).await?;
            Ok::<(), crate::store::StoreError>(())
        };
        match tokio::time::timeout(FOLLOW_TIMEOUT, tended).await {
            Ok(Ok(())) => {
                if changed {
                    keep_beside(&config, in_force.as_deref());
                }
                noted = Some(in_force);
            }
            Ok(Err(error)) => tracing::warn!(%error, "what is due of the emergency path is not on record yet"),
            Err(_) => tracing::warn!("what is due of the emergency path did not come on record in time"),
        }
    }
}

/// Whether they are one reading of the configuration.
fn is_same(one: Option<&Arc<InForce>>, other: Option<&Arc<InForce>>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Puts a change of custodians on record by the spool, where the record itself can't be asked what it has.
/// Gives whether that was done.
async fn spool_change(
    shared: &Shared,
    desk: &Desk,
    before: Option<&InForce>,
    after: Option<&InForce>,
    now: Timestamp,
) -> bool {
    if !shared.emergency.load(Ordering::Acquire) {
        // Another node may have recorded the same change: it is not told twice.
        let noted = breakglass::note_custodians(desk, after, now);
        if matches!(tokio::time::timeout(FOLLOW_TIMEOUT, noted).await, Ok(Ok(()))) {
            return true;
        }
    }
    breakglass::record_custodians(desk, before, after, now).await
}

fn keep_beside(config: &Path, in_force: Option<&InForce>) {
    if let Err(error) = database::keep_custodians(config, in_force.map(|it| &it.rules)) {
        tracing::warn!(%error, "who the custodians are could not be kept beside the configuration");
    }
}
