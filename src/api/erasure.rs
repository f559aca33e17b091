//! `audit/erasures` and `audit/erasures/{id}`.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;

use crate::control::Desk;
use crate::control::audit::KeptByRule;
use crate::control::audit::erase::{self, Asked, EraseError, Texts, Told};
use crate::model::ErasureId;
use crate::policy::InstallationAction;
use crate::wire::{self, ErasureDryRun, NewErasure, Page, TextsChoice};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered};
use super::fields::{Fields, Json};
use super::paging::{cursor, limit};

impl From<EraseError> for ApiError {
    fn from(error: EraseError) -> Self {
        let told = error.to_string();
        match error {
            EraseError::Denied => Self::Denied(told),
            EraseError::NoErasure => Self::NotFound("there is no such erasure"),
            EraseError::Unknown => {
                Self::NotFound("nobody of that name is known here, neither to a table nor to the record")
            }
            EraseError::Form | EraseError::Reason | EraseError::ReasonNames | EraseError::NotAPerson => {
                Self::Invalid(told)
            }
            EraseError::Ambiguous(_) => Self::Conflict("ambiguous_person", told),
            EraseError::Unfinished(_) | EraseError::Opening(_) => Self::Conflict("still_open", told),
            EraseError::Kept(_) => Self::Conflict("kept_by_rule", told),
            EraseError::Texts(_) => Self::Conflict("named_in_texts", told),
            EraseError::TooManyTexts => Self::Conflict("too_many_texts", told),
            EraseError::Already(..) => Self::Conflict("already_erased", told),
            EraseError::Clock(_) => Self::Clock(told),
            EraseError::Store(error) => Self::Unavailable(error.to_string()),
        }
    }
}

fn kept(kept: &[(KeptByRule, String)]) -> Vec<wire::KeptByRule> {
    let shape = |(kept, reason): &(KeptByRule, String)| wire::KeptByRule {
        rule: kept.rule.clone(),
        reason: reason.clone(),
        events: kept.events,
        until: kept.until.into(),
    };
    kept.iter().map(shape).collect()
}

fn shape(told: &Told) -> wire::Erasure {
    let erasure = &told.erasure;
    wire::Erasure {
        id: erasure.id.to_string(),
        pseudonym: erasure.pseudonym.to_string(),
        state: erasure.state.name().to_owned(),
        reason: erasure.reason.clone(),
        requested_by: erasure.requested_by.to_string(),
        requested_at: erasure.requested_at.into(),
        events: erasure.events,
        fields: erasure.fields,
        texts: erasure.texts,
        texts_left: erasure.texts_left,
        kept: kept(&told.kept),
        finished_at: erasure.finished_at.map(Into::into),
    }
}

/// `?cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Administer);
    let fields = Fields::of_list(query.as_deref(), &["cursor", "limit"])?;
    let before = cursor(&fields, ErasureId::parse)?;
    let limit = u32::try_from(limit(&fields)?).unwrap_or(1);
    let (found, next) = erase::list(&desk, &caller, before, limit, now).await?;
    let next = next.map(|id| id.to_string());
    Ok(answered(&Page { items: found.iter().map(shape).collect(), next }))
}

/// One of them.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Administer);
    // What can't be an id names no erasure; who may not know is told the same as of one that is there.
    let id = ErasureId::parse(&id).unwrap_or(ErasureId::from_bytes([0; 16]));
    Ok(answered(&shape(&erase::fetch(&desk, &caller, id, now).await?)))
}

/// Erases a person, or with `dry_run` tells what that would take.
pub async fn create(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Json(body): Json<NewErasure>,
) -> Result<Response, ApiError> {
    trail.installation(InstallationAction::Administer);
    let texts = body.texts.map(|choice| match choice {
        TextsChoice::Erase => Texts::Erase,
        TextsChoice::Keep => Texts::Keep,
    });
    let asked = Asked { person: &body.person, reason: &body.reason, texts };
    if body.dry_run {
        let plan = erase::dry_run(&desk, &caller, &asked, now).await?;
        let told = ErasureDryRun {
            pseudonym: plan.pseudonym().to_string(),
            events: plan.events,
            fields: plan.fields,
            texts: plan.texts(),
            paths: plan.paths(),
            kept: kept(&plan.kept),
        };
        return Ok(answered(&told));
    }
    let told = erase::erase(&desk, &caller, &asked, now).await?;
    Ok(answered(&shape(&told)))
}
