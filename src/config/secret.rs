//! Secrets come from files and environment variables, never from the configuration itself.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::model::Secret;

use super::problem::{Ledger, Place};
use super::section::Section;

/// The longest secret that is read. A larger file is a wrong path.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Reads `{ file = "…" }` or `{ env = "…" }`; one trailing line end is not part of the secret.
pub(in crate::config) fn read(source: &mut Section<'_>) -> Option<Arc<Secret<String>>> {
    source.not_built("pkcs11");
    if source.has("pkcs11") {
        return None;
    }
    let file = source.path("file");
    let variable = source.text("env");
    let name = source.name().to_owned();
    let text = match (file, variable) {
        (Some(file), None) => from_file(source, &file)?,
        (None, Some(variable)) => match source.environment().var(&variable) {
            Some(value) => value.to_owned(),
            None => {
                let message = format!("the secret `{name}` comes from the variable `{variable}`, which is not set");
                source.error("env", message, "set the variable in the environment of the process");
                return None;
            }
        },
        _ => {
            let message = format!("the secret `{name}` needs one source");
            let help = "write `{ file = \"path\" }` or `{ env = \"VARIABLE\" }`";
            source.ledger().error(source.place(), message, Some(help.into()));
            return None;
        }
    };
    if text.is_empty() {
        let message = format!("the secret `{name}` is empty");
        source.error(if source.has("file") { "file" } else { "env" }, message, "put the secret there");
        return None;
    }
    Some(Arc::new(Secret::new(text)))
}

fn from_file(source: &Section<'_>, file: &Path) -> Option<String> {
    let name = source.name();
    source.note_file(file);
    let read = std::fs::metadata(file).and_then(|metadata| {
        warn_if_open(source.ledger(), &source.place_of("file"), file, &metadata);
        if metadata.len() > SECRET_BYTES_MAX {
            return Err(std::io::Error::other("larger than 64 KiB"));
        }
        std::fs::read_to_string(file)
    });
    match read {
        Ok(mut text) => {
            cut_line_end(&mut text);
            Some(text)
        }
        Err(error) => {
            let message = format!("the secret `{name}` can't be read from `{}`: {error}", file.display());
            source.error("file", message, "check the path and the rights of the user that runs doorward");
            None
        }
    }
}

fn cut_line_end(text: &mut String) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

/// A secret that others on the machine may read is worth a warning, not a refusal: orchestrators
/// mount theirs for a group.
pub(in crate::config) fn warn_if_open(ledger: &Ledger, place: &Place, file: &Path, metadata: &Metadata) {
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("`{}` holds a secret and has mode {mode:04o}", file.display());
        ledger.warning(place, message, Some(format!("chmod 600 {}", file.display())));
    }
}
