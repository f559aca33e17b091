//! Acting for somebody else (RFC 8693 §1.1, §4.1, §4.4): a person hands a token on to a workload, which
//! exchanges it, together with its own, for one by which it acts for them.
//!
//! What happens: 1. the person's session exchanges for a token of one service and of a few of its
//! actions that says in `may_act` which workload may act ([`nominated`]); it is bound to the person's
//! certificate, so that by itself it is worth nothing to whoever else has it; 2. the workload sends it
//! as `subject_token` and its own proof as `actor_token`; 3. one transaction uses the proof up, starts
//! the workload's session, and the token that it gets has the person as `sub` and the workload as `act`,
//! with what came before nested within.
//!
//! INVARIANTS: two have said so, each time: the person's token, and a rule of `workloads.toml`
//! (`acts_for`) that has a group of theirs, asked when the token is handed on and again when it is
//! exchanged. What comes of it is no wider and no longer than what was handed on, ends with the person's
//! session, their grant and the workload's session, and is bound to the workload's key where it has one.

use serde_json::json;

use crate::credential::authority::Issued;
use crate::identity::acting::{self, ACTORS_MAX, Acting};
use crate::identity::certificate::Issuer;
use crate::model::{Principal, PrincipalKind, ServiceName, Session, SessionKind, Timestamp, Ttl};
use crate::store::StoredSession;

use super::super::caller::{AccessToken, ConnectionFacts, actor_of, grant_holds, prove_token};
use super::super::credential::token_issued;
use super::super::desk::Desk;
use super::super::session;
use super::exchange::{
    ExchangeError, ExchangeRequest, Exchanged, TYPE_ACCESS_TOKEN, TYPE_CERTIFICATE, TYPE_ID_TOKEN, TYPE_JWT,
    by_certificate, new_session, used_foreign, used_now,
};
use super::foreign::{Asked, Foreign, foreign, told_claims};
use super::target::{Target, scope, target_of};
use super::token::{self, Binding, Wish, read_any};

/// Said to whoever brings a token that nobody may act by, or that somebody else may: which, is not.
const NOT_NAMED: ExchangeError = ExchangeError::Invalid(
    "`subject_token` does not hold or does not say that this actor may act for its subject: they get one that does \
     with `doorward token --may-act WORKLOAD`, and a rule of `workloads.toml` with `acts_for` must agree",
);

/// The workload that a session names to act for it, if a rule lets that workload.
pub(super) fn nominated(
    desk: &Desk,
    text: &str,
    session: &Session,
    now: Timestamp,
) -> Result<Principal, ExchangeError> {
    let named = match text.split_once("::") {
        Some(_) => Principal::parse(text),
        None => text.split_once('|').and_then(|(issuer, rule)| Principal::workload(issuer, rule)),
    };
    let named = named.filter(|it| it.kind() == PrincipalKind::Workload);
    match named {
        Some(actor) if may_act_for(desk, &actor, session, now) => Ok(actor),
        Some(_) | None => Err(ExchangeError::Invalid(
            "`may_act` names no workload whose rule in `workloads.toml` acts for a group of yours (`acts_for`)",
        )),
    }
}

/// Whether the workload's rule, as it is now, acts for a group of this session's principal.
fn may_act_for(desk: &Desk, actor: &Principal, session: &Session, now: Timestamp) -> bool {
    let policies = desk.policies.load();
    let subject = desk.subject_now(&policies, session, now);
    let rule = policies.workloads().rule_of(actor);
    rule.is_some_and(|rule| rule.acts_for.iter().any(|group| subject.groups().contains(group)))
}

/// Who proves to be the actor.
enum Actor {
    /// A session of a workload, which is there already.
    Session(Box<StoredSession>),
    /// A job by its issuer's token, whose session begins with this.
    Job(Box<Foreign>),
}

impl Actor {
    const fn principal(&self) -> &Principal {
        match self {
            Self::Session(stored) => &stored.session.principal,
            Self::Job(foreign) => &foreign.recognised.principal,
        }
    }
}

async fn proven(
    desk: &Desk,
    request: &ExchangeRequest,
    shown: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Actor, ExchangeError> {
    match request.actor_token_type.as_deref() {
        Some(TYPE_JWT | TYPE_ID_TOKEN) => {
            let asked = Asked { connection, decision: request.decision, now };
            Ok(Actor::Job(Box::new(foreign(desk, shown, asked).await?)))
        }
        Some(TYPE_ACCESS_TOKEN) => {
            let stored = prove_token(desk, shown, connection, now).await?;
            Ok(Actor::Session(Box::new(stored.ok_or(ExchangeError::Subject)?)))
        }
        Some(TYPE_CERTIFICATE) => Ok(Actor::Session(Box::new(by_certificate(desk, shown, connection, now).await?))),
        _ => Err(ExchangeError::Invalid(
            "`actor_token_type` must be that of a JWT, of an ID token, or of an access token of ours",
        )),
    }
}

/// Exchanges what was handed on.
///
/// # Errors
/// When either token does not hold, the one does not name the other, or more is asked for than it gives.
pub(super) async fn exchange(
    desk: &Desk,
    request: &ExchangeRequest,
    actor_token: &str,
    ttl: Ttl,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Exchanged, ExchangeError> {
    if request.subject_token_type != TYPE_ACCESS_TOKEN {
        return Err(ExchangeError::Invalid(
            "with `actor_token`, `subject_token` is an access token that was handed on",
        ));
    }
    if request.grant.is_some() {
        return Err(ExchangeError::Invalid("what was handed on has its `grant` or none: leave `grant` out"));
    }
    if request.wanted.is_some() {
        return Err(ExchangeError::Invalid("what was handed on is for its service: leave `wanted_audience` out"));
    }
    let handed = read_any(desk, &request.subject_token, now).map_err(|_| NOT_NAMED)?;
    let named = acting::may_act(&handed.verified.claims).ok_or(NOT_NAMED)?;
    // ORDER: whom it names before the actor's own token is looked at, which is used up by that.
    let actor = proven(desk, request, actor_token, connection, now).await?;
    let subject = desk.store.session_fetch(handed.session).await?.ok_or(NOT_NAMED)?;
    let ended_here = desk.directory.session(handed.session).is_some_and(|known| known.session.ended.is_some());
    let live = !ended_here && subject.session.is_live(now) && handed.principal == subject.session.principal;
    if !live || *actor.principal() != named || !may_act_for(desk, &named, &subject.session, now) {
        return Err(NOT_NAMED);
    }
    if desk.directory.is_locked(&subject.session.principal) || desk.directory.is_locked(&named) {
        return Err(ExchangeError::Locked);
    }
    if !grant_holds(desk, &handed, now).await? {
        return Err(ExchangeError::NoGrant);
    }
    let (audience, scope) = narrowed(desk, request, &handed, &named)?;
    let ttl = ttl.min(handed.verified.expires_at.since(now));
    let may_act = match request.may_act.as_deref() {
        Some(text) => Some(nominated(desk, text, &subject.session, now)?),
        None => None,
    };
    let before = acting::read(&handed.verified.claims).ok_or(NOT_NAMED)?;
    if before.len() >= ACTORS_MAX {
        return Err(ExchangeError::Invalid("too many act one for the other by this token"));
    }
    let wish = Wish { audience, scope, ttl, grant: handed.grant, acting: before, may_act };
    issued(desk, request, actor, &handed, wish, connection, now).await
}

/// The one service that it is for, and the scope: no more than was handed on.
fn narrowed(
    desk: &Desk,
    request: &ExchangeRequest,
    handed: &AccessToken,
    actor: &Principal,
) -> Result<(String, Option<String>), ExchangeError> {
    let policies = desk.policies.load();
    let name = ServiceName::parse(&handed.verified.audience).map_err(|_| ExchangeError::Target)?;
    let service = policies.service(&name).ok_or(ExchangeError::Target)?;
    if request.audience.is_some() || request.resource.is_some() {
        let reached: &[ServiceName] = policies.workloads().rule_of(actor).map_or(&[], |rule| &rule.services);
        match target_of(desk, request, reached)? {
            Target::Service(asked) if asked.name == name => {}
            Target::Service(_) | Target::Control => return Err(ExchangeError::Target),
        }
    }
    let reached = policies.workloads().rule_of(actor).map(|rule| rule.services.as_slice());
    if !reached.is_some_and(|services| services.is_empty() || services.contains(&name)) {
        return Err(ExchangeError::Target);
    }
    let given = handed.verified.claims.get("scope").and_then(serde_json::Value::as_str);
    let asked = scope(service, request.scope.as_deref())?;
    let scope = match (given, asked) {
        (given, None) => given.map(str::to_owned),
        (None, Some(asked)) => Some(asked),
        (Some(given), Some(asked)) => {
            let given: Vec<&str> = given.split(' ').collect();
            if let Some(more) = asked.split(' ').find(|name| !given.contains(name)) {
                return Err(ExchangeError::Wider(more.to_owned()));
            }
            Some(asked)
        }
    };
    Ok((service.name.as_str().to_owned(), scope))
}

async fn issued(
    desk: &Desk,
    request: &ExchangeRequest,
    actor: Actor,
    handed: &AccessToken,
    mut wish: Wish,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Exchanged, ExchangeError> {
    let mut tx = desk.store.begin().await?;
    used_now(&mut tx, request).await?;
    let (acts, started, rule) = match actor {
        Actor::Session(stored) if stored.session.kind == SessionKind::Workload => {
            if request.csr.is_some() {
                return Err(ExchangeError::Invalid("`csr` is for a job that comes by its issuer's token"));
            }
            let held = tx.session_hold(stored.session.id, now).await?.ok_or(ExchangeError::Subject)?;
            (held, None, None)
        }
        Actor::Session(_) => return Err(NOT_NAMED),
        Actor::Job(foreign) => {
            let asked = Asked { connection, decision: request.decision, now };
            tx = used_foreign(desk, tx, &foreign, asked).await?;
            let rule = foreign.recognised.rule.clone();
            let new = new_session(&foreign, wish.ttl, now);
            let started = session::start_within(desk, &mut tx, new, request.csr.as_deref(), connection, now).await?;
            (started.stored.clone(), Some(started), Some(rule))
        }
    };
    // ORDER: nobody ends the person's session while a token rests on it.
    let subject = tx.session_hold(handed.session, now).await?.ok_or(NOT_NAMED)?;
    let certificate: Option<Issued> = started.as_ref().and_then(|started| started.certificate.clone());
    let shown =
        connection.certificate.as_ref().filter(|it| it.issuer == Issuer::Ours && it.session == Some(acts.session.id));
    let bound = match (&certificate, shown) {
        (Some(issued), _) => Some((issued.thumbprint, issued.not_after)),
        (None, Some(shown)) => Some((shown.thumbprint, shown.not_after)),
        (None, None) => None,
    };
    if acts.session.certificate.is_some() && bound.is_none() {
        return Err(ExchangeError::Subject);
    }
    let binding = Binding { certificate: bound, key: request.proof.map(|proof| proof.key) };
    wish.ttl = wish.ttl.min(acts.session.expires_at.since(now));
    wish.acting.insert(0, Acting { principal: acts.session.principal.clone(), session: acts.session.id });
    let access = token::mint_for(desk, &subject, &wish, binding, now)?;
    let mut event = token::exchanged_event(desk, &subject.session, connection, &access, &wish, now);
    event.subject = Some(subject.session.principal.clone());
    event.actor = actor_of(&acts.session, connection);
    if let Some(rule) = rule {
        event = event.with("rule", rule).with("claims", json!(told_claims(&acts.session.claims)));
    }
    tx.event_append(&event).await?;
    token_issued(desk, &mut tx, subject.session.id, &access, &wish, now).await?;
    tx.commit().await?;
    if let Some(started) = &started {
        session::enter(desk, started);
    }
    let Wish { audience, scope, grant, .. } = wish;
    Ok(Exchanged { stored: acts, access, certificate, audience, scope, grant })
}
