//! `reviews` and what is below it.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use serde::Deserialize;

use crate::control::Desk;
use crate::control::review::{self, ReviewError, ReviewedRule, Wish};
use crate::model::{Choice, ReviewId, ReviewState, RuleState, ServiceName, Timestamp, Ttl};
use crate::policy::InstallationAction;
use crate::wire::{self, NewDecision, Nothing, Page, StartReview};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::{Fields, Json};
use super::paging::limit;
use super::shape::principal;

const NO_REVIEW: &str = "there is no such access review";
/// When a review is due where nothing else is said.
const DUE: Ttl = Ttl::hours(14 * 24);

impl From<ReviewError> for ApiError {
    fn from(error: ReviewError) -> Self {
        let told = error.to_string();
        match error {
            ReviewError::Denied => Self::Denied(told),
            ReviewError::NotFound => Self::NotFound(NO_REVIEW),
            ReviewError::NoRule(_) => Self::NotFound("the review has no such rule"),
            ReviewError::NoService(_) => Self::NotFound("there is no such service"),
            ReviewError::NoRules(_) => Self::Conflict("no_rules", told),
            ReviewError::TooMany(_) => Self::Conflict("too_many_rules", told),
            ReviewError::Due | ReviewError::Reviewers | ReviewError::Reason => Self::Invalid(told),
            ReviewError::AlreadyOpen(_) => Self::Conflict("review_open", told),
            ReviewError::Closed(_) => Self::Conflict("review_closed", told),
            ReviewError::Changed(_) => Self::Conflict("rule_changed", told),
            ReviewError::Gone(_) => Self::Conflict("rule_gone", told),
            ReviewError::NotReviewer => Self::Forbidden("not_reviewer", told),
            ReviewError::OwnAccess(_) => Self::Forbidden("own_access", told),
            ReviewError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

fn id_of(text: &str) -> Result<ReviewId, ApiError> {
    // What can't be an id names no review.
    ReviewId::parse(text).map_err(|_| ApiError::NotFound(NO_REVIEW))
}

fn service_of(text: &str) -> Result<ServiceName, ApiError> {
    ServiceName::parse(text).map_err(|error| ApiError::Invalid(format!("`service` is no service's name: {error}")))
}

/// `?state=…&service=…&cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Review);
    let fields = Fields::of_list(query.as_deref(), &["state", "service", "cursor", "limit"])?;
    let state = match fields.get("state") {
        None => None,
        Some(state @ ("open" | "closed")) => Some(state),
        Some(_) => return Err(ApiError::Invalid("`state` is one of open, closed".to_owned())),
    };
    let service = fields.get("service").map(service_of).transpose()?;
    let wrong = |_| ApiError::Invalid("`cursor` is the `next` of the page before".to_owned());
    let before = fields.get("cursor").map(ReviewId::parse).transpose().map_err(wrong)?;
    let (found, next) = review::list(&desk, &caller, (state, service.as_ref()), before, limit(&fields)?, now).await?;
    let items = found.iter().map(|review| shape(review, false, now)).collect();
    Ok(answered(&Page { items, next: next.map(|id| id.to_string()) }))
}

/// Begins a review. Its rules may be many: they are fetched with it, and not part of this answer, which is kept
/// for its idempotency key.
pub async fn start(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Json(body): Json<StartReview>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Review);
    let due = body.due.as_deref().map_or(Some(DUE), Ttl::parse);
    let wish = Wish { service: service_of(&body.service)?, due, reviewers: body.reviewers };
    let review = review::start(&desk, &caller, wish, now).await?;
    Ok(answered(&shape(&review, false, now)))
}

/// One review with its rules and who uses them.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Review);
    let review = review::fetch(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&shape(&review, true, now)))
}

/// Keeps a decision on a rule.
pub async fn decide(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path((id, item)): Path<(String, String)>,
    Json(body): Json<NewDecision>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Review);
    let id = id_of(&id)?;
    let is_number = item.bytes().all(|byte| byte.is_ascii_digit());
    let item = item.parse().ok().filter(|_| is_number).ok_or(ApiError::NotFound("the review has no such rule"))?;
    let choice = Choice::parse(&body.decision)
        .ok_or_else(|| ApiError::Invalid("`decision` is one of keep, remove".to_owned()))?;
    let review = review::decide(&desk, &caller, (id, item), choice, &body.reason, now).await?;
    let decided = review.rules.iter().find(|rule| rule.stored.number == item);
    let decided = decided.ok_or(ApiError::Internal("a rule was decided that is not there"))?;
    Ok(answered(&rule(decided)))
}

/// Closes a review.
pub async fn close(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Review);
    let review = review::close(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&shape(&review, false, now)))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn shape(review: &review::Review, whole: bool, now: Timestamp) -> wire::Review {
    let stored = &review.stored;
    let closed_at = match stored.state {
        ReviewState::Open => None,
        ReviewState::Closed { at } => Some(at.into()),
    };
    let undecided = review.undecided();
    let to_go = |rule: &&ReviewedRule| matches!(rule.stored.state, RuleState::ToRemove(_));
    wire::Review {
        id: stored.id.to_string(),
        service: stored.service.to_string(),
        state: stored.state.name().to_owned(),
        policy_version: stored.policy_version.clone(),
        started_by: principal(&stored.started_by.principal, stored.started_by.email.clone()),
        started_at: stored.started_at.into(),
        due_at: stored.due_at.into(),
        overdue: undecided > 0 && stored.due_at.is_over(now),
        reviewers: stored.reviewers.clone(),
        closed_at,
        closed_by: stored.closed_by.as_ref().map(|by| principal(&by.principal, by.email.clone())),
        rules: count(review.rules.len()),
        undecided: count(undecided),
        to_remove: count(review.rules.iter().filter(to_go).count()),
        used_since: review.used_since.map(Into::into),
        items: whole.then(|| review.rules.iter().map(rule).collect()),
    }
}

/// A definition as `control/review/start.rs` keeps it.
#[derive(Deserialize, Default)]
struct Definition {
    summary: String,
    actions: Vec<String>,
    policies: Vec<wire::ReviewPolicy>,
}

fn rule(rule: &ReviewedRule) -> wire::ReviewRule {
    let stored = &rule.stored;
    let definition: Definition = serde_json::from_str(&stored.definition).unwrap_or_default();
    let decision = stored.state.decision().map(|(choice, decision)| wire::ReviewDecision {
        decision: choice.name().to_owned(),
        reason: decision.reason.clone(),
        by: wire::Principal {
            name: decision.by.name.clone(),
            ..principal(&decision.by.principal, decision.by.email.clone())
        },
        at: decision.at.into(),
    });
    wire::ReviewRule {
        item: stored.number,
        kind: stored.kind.name().to_owned(),
        name: stored.name.clone(),
        summary: definition.summary,
        actions: definition.actions,
        policies: definition.policies,
        sha256: stored.sha256.clone(),
        now: rule.now.name().to_owned(),
        state: stored.state.name().to_owned(),
        decision,
        removed_at: match &stored.state {
            RuleState::Removed { at, .. } => Some((*at).into()),
            RuleState::Undecided | RuleState::Kept(_) | RuleState::ToRemove(_) => None,
        },
        used: rule.used.as_ref().map(|used| wire::ReviewUse {
            grants_active: count(used.active),
            grants_recent: count(used.recent),
            people: count(used.people.len()),
            last_used: used.last.map(Into::into),
        }),
    }
}
