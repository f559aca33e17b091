//! What an auditor has from elsewhere: the root key, and checkpoints that a witness kept.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::audit::note::{NoteKey, split_notes};
use crate::audit::verify::{Anchor, Fault};
use crate::cli::context::Context;
use crate::cli::failure::Failure;

/// The root key by flag, environment or profile, in this order; none is none.
fn key(context: &Context, named: Option<&str>) -> Result<Option<NoteKey>, Failure> {
    let named = named.or_else(|| context.environment.text("DOORWARD_AUDIT_KEY"));
    let text = match named {
        // A pipe is as good as a file.
        Some(path) if Path::new(path).exists() => {
            let text = fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("reading the root key in `{path}`: {error}")))?;
            // Whoever names a file means a key: to verify without one would not be what they asked for.
            if text.trim().is_empty() {
                return Err(Failure::usage(format!("`{path}` names no key: it is empty")));
            }
            text
        }
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
        if let Some(named) = named.filter(|named| *named == text && is_path(named)) {
            return Failure::usage(format!("there is no file `{named}` with the root key, and it is none itself"));
        }
        Failure::usage(format!("the root key can't be read: {error}; `doorward dev` and sign-in tell it"))
    })
}

/// Where the root key comes from that nobody named, with what to do for a record of another installation.
pub fn learned(context: &Context, named: Option<&str>) -> Option<String> {
    if named.is_some() || context.environment.text("DOORWARD_AUDIT_KEY").is_some() {
        return None;
    }
    let profile = context.profile().ok()?;
    let record = profile.load().ok().flatten()?.record;
    record.audit_key.filter(|key| !key.trim().is_empty())?;
    Some(format!(
        "the root key is the one that the profile `{}` learned at its sign-in to {}: a record of another installation \
         is held against that one's own, by `--key` or DOORWARD_AUDIT_KEY",
        profile.name(),
        record.server
    ))
}

/// Whether somebody meant a file by this: a key has a `+` in it, and begins with a name.
fn is_path(text: &str) -> bool {
    !text.contains('+') || text.starts_with(['/', '.', '~'])
}

/// Everything that was given.
///
/// # Errors
/// Exit 2 when a file is not there or has no checkpoint in it; a fault when one can't be read.
pub fn read(
    context: &Context,
    root_key: Option<&str>,
    checkpoint: Option<&Path>,
) -> Result<Result<Anchor, Fault>, Failure> {
    let key = key(context, root_key)?;
    let Some(path) = checkpoint else { return Ok(Ok(Anchor { key, witnessed: Vec::new() })) };
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("reading the checkpoints in `{}`: {error}", path.display())))?;
    let is_json = text.trim_start().starts_with(['{', '[']);
    let found = if is_json { of_json(&text) } else { of_notes(&text) };
    match found {
        Ok(Some(witnessed)) => Ok(Ok(Anchor { key, witnessed })),
        Ok(None) => Err(Failure::usage(format!(
            "`{}` has no checkpoint in it: give what a witness kept, or an answer of `/api/v1/audit/checkpoint`",
            path.display()
        ))),
        Err(what) => Ok(Err(Fault::altered("the witnessed checkpoints", what))),
    }
}

/// The notes of a file of notes; none where it has none, an error where something between them is no note.
fn of_notes(text: &str) -> Result<Option<Vec<String>>, String> {
    match split_notes(text) {
        Ok(notes) if notes.is_empty() => Ok(None),
        Ok(notes) => Ok(Some(notes.into_iter().map(str::to_owned).collect())),
        Err(_) if !text.contains("\n\u{2014} ") => Ok(None),
        Err(line) => Err(format!("line {line} is part of no note")),
    }
}

/// The notes of answers of the API, one or several; an error where one of them is not whole.
fn of_json(text: &str) -> Result<Option<Vec<String>>, String> {
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value {
            Ok(value) => collect(&value, &mut found),
            Err(_) if found.is_empty() => return Ok(None),
            Err(error) => return Err(format!("the JSON breaks off: {error}")),
        }
    }
    let mut notes = Vec::new();
    for note in &found {
        notes.extend(of_notes(note)?.ok_or("a `note` is none")?);
    }
    Ok(Some(notes).filter(|notes| !notes.is_empty()))
}

/// Each `note` of an object, of a page's `items`, or of a list.
fn collect(value: &Value, notes: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, notes)),
        Value::Object(members) => {
            notes.extend(members.get("note").and_then(Value::as_str).map(str::to_owned));
            if let Some(items) = members.get("items") {
                collect(items, notes);
            }
        }
        _ => {}
    }
}
