//! A caller on the emergency path: the handshake judged the opening and the client proved its key;
//! here is asked, on each request, all that can change since.
//!
//! INVARIANTS: no other credential is taken beside it, and it is taken for no other. ORDER: that
//! somebody opened is on record, by one event however many nodes see it, before the first request
//! of the opening goes anywhere.

use data_encoding::HEXLOWER;
use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use crate::audit::{Event, EventType, Outcome};
use crate::control::breakglass::opened_event;
use crate::identity::breakglass::custodians::Custodians;
use crate::identity::breakglass::{Happening, KnownOpening, Opening};
use crate::identity::cookie::SESSION_COOKIE;
use crate::model::{Principal, Timestamp};
use crate::policy::{BreakGlassFacts, Facts};
use crate::store::RECORD_TIMEOUT;

use super::authenticate::Caller;
use super::bearer::presented_token;
use super::cross_site::not_cross_site;
use super::handshake::Channel;
use super::hygiene::own_cookie;
use super::refusal::Refusal;
use super::route::Routed;
use super::snapshot::Snapshot;
use super::worker::Worker;

/// That everything was asked: only [`caller`] makes one.
pub struct Asked(());

/// Who calls under this opening.
///
/// # Errors
/// What does not hold now, or that the opening could not be put on record.
#[expect(clippy::too_many_arguments, reason = "each is one stage's proof")]
pub async fn caller(
    worker: &Worker,
    snapshot: &Snapshot,
    channel: &Channel,
    opening: &Opening,
    routed: &Routed,
    headers: &HeaderMap,
    now: Timestamp,
    named: &mut Option<Principal>,
) -> Result<Caller, Refusal> {
    let challenge = &opening.challenge;
    let principal = Principal::breakglass(challenge.id);
    *named = Some(principal.clone());
    let rules = snapshot.tls.breakglass.as_ref();
    let rules = rules.ok_or(Refusal::BadCredential("there is no emergency path here any more"))?;
    if challenge.expires.is_over(now) {
        return Err(Refusal::OpeningOver);
    }
    rules
        .holds(challenge, now)
        .map_err(|_| Refusal::BadCredential("the opening is not by the custodians and threshold of now"))?;
    let cookie = own_cookie(headers, SESSION_COOKIE).map_err(|_| Refusal::BadCredential("two session cookies"))?;
    if cookie.is_some() || presented_token(headers, routed.entry.service.pass_authorization)?.is_some() {
        return Err(Refusal::BadCredential("another credential beside an opening"));
    }
    if !challenge.scope.holds(&routed.entry.service.name) {
        return Err(Refusal::OpeningElsewhere);
    }
    let directory = &worker.shared.directory;
    if directory.is_locked(&principal) {
        return Err(Refusal::Locked);
    }
    if directory.emergency.is_closed(challenge.id) {
        return Err(Refusal::OpeningOver);
    }
    let in_force = directory.emergency.in_force();
    let needed = in_force.map_or(0, |in_force| directory.emergency.needed(&in_force, Some(challenge.id)));
    if opening.custodians.len() < needed {
        return Err(Refusal::OpeningShort);
    }
    not_cross_site(worker, routed, headers)?;
    let streams = on_record(worker, channel, opening, &rules.custodians, &principal, now).await?;
    // ORDER: asked once more after what cuts its streams is taken, so that rules, a bar or a closing of this
    // moment are met by one or the other.
    let in_force = directory.emergency.in_force();
    if in_force.is_none_or(|in_force| in_force.rules.holds(challenge, now).is_err()) {
        return Err(Refusal::BadCredential("the opening is not by the custodians and threshold of now"));
    }
    if directory.is_locked(&principal) {
        return Err(Refusal::Locked);
    }
    if directory.emergency.is_closed(challenge.id) {
        return Err(Refusal::OpeningOver);
    }
    let subject = snapshot.policies.subject(&Facts {
        principal: &principal,
        email: None,
        email_verified: false,
        name: None,
        groups: &[],
        entitlements: &[],
        claims: None,
        breakglass: Some(BreakGlassFacts {
            opener: &challenge.opener,
            custodians: &opening.custodians,
            reason: &challenge.reason,
        }),
    });
    Ok(Caller::of_opening(principal, subject, challenge.expires, streams, &Asked(())))
}

/// Puts the opening on record at its first sight. Its event's id is made of the challenge, so that all
/// nodes write the same one, and the opener, who chooses the opening's own id, can't choose one that the
/// record has already and would not take again.
async fn on_record(
    worker: &Worker,
    channel: &Channel,
    opening: &Opening,
    custodians: &Custodians,
    principal: &Principal,
    now: Timestamp,
) -> Result<CancellationToken, Refusal> {
    const OTHER: Refusal = Refusal::BadCredential("another challenge was opened under this id");
    let challenge = &opening.challenge;
    let directory = &worker.shared.directory;
    if let Some(streams) = directory.opening(challenge.id, &opening.sha256).map_err(|_| OTHER)? {
        return Ok(streams);
    }
    let event_id = opened_event(opening);
    let mut event = Event::new(event_id, now, EventType::BreakGlassOpened, Outcome::Success)
        .with("id", challenge.id.to_string())
        .with("challenge_sha256", HEXLOWER.encode(&opening.sha256))
        .with("opener", challenge.opener.as_str())
        // An opener who is a custodian may have given any name of theirs: none of them reviews.
        .with("opener_names", custodians.names_of(&challenge.opener))
        .with("opener_proven", opening.opener_proven)
        .with("custodians", opening.custodians.clone())
        .with("keys", opening.keys.clone())
        .with("custodians_sha256", HEXLOWER.encode(&challenge.custodians))
        .with("scope", challenge.scope.to_string())
        .with("reason", challenge.reason.as_str())
        .with("not_before", challenge.not_before.to_string())
        .with("expires", challenge.expires.to_string());
    event.actor.principal = Some(principal.clone());
    event.actor.address = Some(channel.peer.ip().to_canonical());
    event.actor.certificate = channel.certificate.as_ref().map(|certificate| certificate.thumbprint);
    match tokio::time::timeout(RECORD_TIMEOUT, worker.shared.recorder.submit(event)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) | Err(_) => return Err(Refusal::AuditUnavailable),
    }
    tracing::error!(
        opening = %challenge.id, opener = challenge.opener, custodians = ?opening.custodians,
        scope = %challenge.scope, reason = challenge.reason, expires = %challenge.expires,
        "the emergency path was opened"
    );
    let known = KnownOpening::of(opening);
    if directory.emergency.know(known.clone()) {
        let kind = EventType::BreakGlassOpened.name();
        directory.emergency.happened(Happening { event: event_id, kind, time: now, opening: known, by: None });
    }
    // ORDER: after it is known, so that a closing of this moment finds what to cut.
    let streams = directory.opening_insert(opening).map_err(|_| OTHER)?;
    if directory.emergency.is_closed(challenge.id) { Err(Refusal::OpeningOver) } else { Ok(streams) }
}
