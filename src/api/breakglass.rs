//! `breakglass` and what is below it. `terms`, `check`, `drills` and `…/close` need neither sign-in nor
//! database: what is in the request speaks for itself.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use data_encoding::HEXLOWER;

use crate::control::Desk;
use crate::control::breakglass::{
    self, CheckError, CloseError, CloseRequest, Emergency, EmergencyError, Presented, REVIEWERS, ReviewError, Tier,
};
use crate::identity::breakglass::{ChannelOutcome, ChannelTest};
use crate::model::BreakGlassId;
use crate::model::breakglass::{CHALLENGE_BYTES_MAX, Evidence, SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use crate::policy::InstallationAction;
use crate::wire;

use super::answer::ApiError;
use super::caller::{Connection, Proven};
use super::decided::{Trail, answered};
use super::fields::Json;
use super::paging::{self, Order};

const NO_PATH: &str = "there is no emergency path here: `[breakglass]` is not configured";

impl From<EmergencyError> for ApiError {
    fn from(error: EmergencyError) -> Self {
        match error {
            EmergencyError::NotFound => Self::NotFound("there is no such opening or emergency grant"),
            EmergencyError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<ReviewError> for ApiError {
    fn from(error: ReviewError) -> Self {
        let told = error.to_string();
        match error {
            ReviewError::Denied => Self::Denied(told),
            ReviewError::NotFound => Self::NotFound("there is no such opening or emergency grant"),
            ReviewError::Open { .. } => Self::Conflict("still_open", told),
            ReviewError::Opener => Self::Forbidden("self_review", told),
            ReviewError::Again => Self::Conflict("already_reviewed", told),
            ReviewError::Finding => Self::Invalid(told),
            ReviewError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<CheckError> for ApiError {
    fn from(error: CheckError) -> Self {
        match error {
            CheckError::NoPath => Self::NotFound(NO_PATH),
            other if other.is_final() => Self::Forbidden("challenge_over", other.to_string()),
            other => Self::Forbidden("opening_refused", other.to_string()),
        }
    }
}

impl From<CloseError> for ApiError {
    fn from(error: CloseError) -> Self {
        let told = error.to_string();
        match error {
            CloseError::NoPath => Self::NotFound(NO_PATH),
            CloseError::OtherOpening => Self::Invalid(told),
            CloseError::Closing(_) => Self::Forbidden("closing_refused", told),
            CloseError::TooMany => Self::Conflict("closings_too_many", told),
            CloseError::Disk(_) => Self::Conflict("closing_not_kept", told),
        }
    }
}

/// What a challenge must say.
pub async fn terms(State(desk): State<Arc<Desk>>) -> Result<Response, ApiError> {
    let terms = breakglass::terms(&desk, desk.clock.now()).ok_or(ApiError::NotFound(NO_PATH))?;
    let shape = wire::BreakGlassTerms {
        trust_domain: terms.trust_domain,
        custodians_sha256: HEXLOWER.encode(&terms.custodians),
        threshold: terms.threshold,
        needed: u32::try_from(terms.needed).unwrap_or(u32::MAX),
        max_duration_seconds: terms.duration_max.as_seconds(),
        time: terms.now.into(),
        drilled_at: terms.drilled_at.map(Into::into),
    };
    Ok(answered(&shape))
}

fn presented(sent: wire::BreakGlassEvidence) -> Result<Presented, ApiError> {
    let wrong = |what: &str| ApiError::Invalid(what.to_owned());
    let client_key: Option<[u8; 32]> =
        HEXLOWER.decode(sent.client_key_sha256.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    let client_key = client_key.ok_or_else(|| wrong("`client_key_sha256` is 64 hexadecimal digits"))?;
    if sent.challenge.len() > CHALLENGE_BYTES_MAX {
        return Err(wrong("`challenge` is too long"));
    }
    if sent.signatures.len() > SIGNATURES_MAX || sent.signatures.iter().any(|it| it.len() > SIGNATURE_BYTES_MAX) {
        return Err(wrong("`signatures` are too many or too long"));
    }
    let signatures = sent.signatures.into_iter().map(String::into_bytes).collect();
    Ok(Presented { client_key, evidence: Evidence { challenge: sent.challenge.into_bytes(), signatures } })
}

fn address(connection: &Connection) -> IpAddr {
    connection.0.address
}

/// Whether this node would open.
pub async fn check(
    State(desk): State<Arc<Desk>>,
    connection: Connection,
    Json(body): Json<wire::BreakGlassEvidence>,
) -> Result<Response, ApiError> {
    let presented = presented(body)?;
    let checked = breakglass::check(&desk, &presented, address(&connection), desk.clock.now()).await?;
    let shape = wire::BreakGlassChecked {
        id: checked.opening.challenge.id.to_string(),
        custodians: checked.opening.custodians.clone(),
        opener_proven: checked.opening.opener_proven,
        expires: checked.opening.challenge.expires.into(),
    };
    Ok(answered(&shape))
}

/// A drill.
pub async fn drill(
    State(desk): State<Arc<Desk>>,
    connection: Connection,
    Json(body): Json<wire::BreakGlassEvidence>,
) -> Result<Response, ApiError> {
    let presented = presented(body)?;
    let drilled = breakglass::drill(&desk, &presented, address(&connection), desk.clock.now()).await?;
    let shape = wire::BreakGlassDrill {
        id: drilled.id,
        custodians: drilled.custodians,
        took_seconds: drilled.took.as_seconds(),
        recorded: drilled.recorded,
        channels: drilled.channels.map(|channels| channels.into_iter().map(channel).collect()),
    };
    Ok(answered(&shape))
}

fn channel(test: ChannelTest) -> wire::DrillChannel {
    let (state, error) = match test.outcome {
        ChannelOutcome::Taken => ("taken", None),
        ChannelOutcome::Failed(why) => ("failed", Some(why)),
        ChannelOutcome::NotAsked => ("not_asked", None),
    };
    wire::DrillChannel { name: test.channel, state: state.to_owned(), error }
}

/// Closes an opening at this node.
pub async fn close(
    State(desk): State<Arc<Desk>>,
    connection: Connection,
    Path(id): Path<String>,
    Json(body): Json<wire::BreakGlassClose>,
) -> Result<Response, ApiError> {
    let id = BreakGlassId::parse(&id).map_err(|_| ApiError::Invalid("the id is `brk_…`, whole".to_owned()))?;
    let evidence = body.evidence.map(presented).transpose()?.map(|presented| presented.evidence);
    let request =
        CloseRequest { statement: body.statement.into_bytes(), signature: body.signature.into_bytes(), evidence };
    let closed = breakglass::close(&desk, id, &request, address(&connection), desk.clock.now()).await?;
    let shape = wire::BreakGlassClosed { id: id.to_string(), state: "closed".to_owned(), by: closed.by.to_string() };
    Ok(answered(&shape))
}

/// Every opening and emergency grant, newest first: `?cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let found = breakglass::list(&desk, &caller, now).await?;
    let items = found.iter().map(shape).collect();
    Ok(answered(&paging::of_whole(query.as_deref(), items, Order::NewestFirst, |it: &wire::Emergency| &it.id)?))
}

/// One of them.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(answered(&shape(&breakglass::fetch(&desk, &caller, &id, now).await?)))
}

/// Adds the caller's review.
pub async fn review(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
    Json(body): Json<wire::NewReview>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Review);
    let reviewed = breakglass::review(&desk, &caller, &id, &body.finding, now).await?;
    Ok(answered(&shape(&reviewed)))
}

fn shape(emergency: &Emergency) -> wire::Emergency {
    let missing = usize::try_from(REVIEWERS).unwrap_or(usize::MAX).saturating_sub(emergency.reviews.len());
    wire::Emergency {
        id: emergency.id.clone(),
        kind: match emergency.tier {
            Tier::Grant => "approvals_skipped",
            Tier::Custodians => "custodians",
        }
        .to_owned(),
        state: emergency.state.name().to_owned(),
        opener: emergency.opener.clone(),
        opener_proven: emergency.opener_proven,
        scope: emergency.scope.clone(),
        reason: emergency.reason.clone(),
        custodians: emergency.custodians.clone(),
        opened_at: emergency.opened_at.into(),
        expires: emergency.expires.into(),
        closed_at: emergency.closed.as_ref().map(|(at, _)| (*at).into()),
        closed_by: emergency.closed.as_ref().map(|(_, by)| by.clone()),
        reviewed: emergency.is_reviewed(),
        reviews_missing: u32::try_from(missing).unwrap_or(0),
        reviews: emergency
            .reviews
            .iter()
            .map(|review| wire::EmergencyReview {
                by: super::shape::principal(&review.by, review.email.clone()),
                finding: review.finding.clone(),
                time: review.time.into(),
            })
            .collect(),
    }
}
