//! What an auditor has from elsewhere: the root key, and checkpoints that a witness kept.

use std::fs;
use std::path::Path;

use crate::audit::note::{NoteKey, split_notes};
use crate::audit::verify::{Anchor, Fault};
use crate::cli::context::Context;
use crate::cli::failure::Failure;

/// The root key by flag, environment or profile, in this order; none is none.
fn key(context: &Context, named: Option<&str>) -> Result<Option<NoteKey>, Failure> {
    let named = named.or_else(|| context.environment.text("DOORWARD_AUDIT_KEY"));
    let text = match named {
        Some(text) if Path::new(text).is_file() => fs::read_to_string(text)
            .map_err(|error| Failure::usage(format!("reading the root key in `{text}`: {error}")))?,
        Some(text) => text.to_owned(),
        // Whoever is signed in has learned it; whoever is not may well verify.
        None => match context.profile().ok().and_then(|profile| profile.load().ok().flatten()) {
            Some(saved) => saved.record.audit_key.unwrap_or_default(),
            None => String::new(),
        },
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    NoteKey::parse(text.trim()).map(Some).map_err(|error| {
        Failure::usage(format!("the root key can't be read: {error}; `doorward dev` and sign-in tell it"))
    })
}

/// Everything that was given.
///
/// # Errors
/// Exit 2 when a file is not there; a fault when the checkpoints can't be read.
pub fn read(
    context: &Context,
    root_key: Option<&str>,
    checkpoint: Option<&Path>,
) -> Result<Result<Anchor, Fault>, Failure> {
    let key = key(context, root_key)?;
    let Some(path) = checkpoint else { return Ok(Ok(Anchor { key, witnessed: Vec::new() })) };
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("reading the checkpoints in `{}`: {error}", path.display())))?;
    Ok(match split_notes(&text) {
        Ok(notes) => Ok(Anchor { key, witnessed: notes.into_iter().map(str::to_owned).collect() }),
        Err(line) => Err(Fault::altered("the witnessed checkpoints", format!("line {line} is part of no note"))),
    })
}
