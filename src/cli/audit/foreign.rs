//! What people give for a record and is none. It is named for what it is, so that nobody takes it for a record
//! that was altered.
//!
//! INVARIANT: what has anything of an export in it is never called something else: one that was emptied, cut
//! or altered stays altered.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::IgnoredAny;

use crate::audit::evidence::file;
use crate::audit::format::csv;
use crate::audit::report;
use crate::cli::failure::Failure;

/// So much of a file's beginning says what it is.
const BEGIN_BYTES: u64 = 256 * 1024;
/// The largest JSON document that is read to see that it is one.
const JSON_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Something of these is in every part of an export in one file.
const OF_EXPORT: [&str; 4] = ["doorward export v1", "{\"evidence\":", "\"leaf\":\"", "{\"end\":{"];

/// Refuses a folder that has nothing of an export in it.
///
/// # Errors
/// Exit 2, with what to give instead.
pub fn refuse_folder(dir: &Path) -> Result<(), Failure> {
    let files = [file::EVENTS, file::MANIFEST, file::CHECKPOINTS, file::PROOFS];
    if files.iter().any(|name| dir.join(name).symlink_metadata().is_ok()) {
        return Ok(());
    }
    let shown = dir.display();
    Err(Failure::usage(if dir.join("doorward.toml").is_file() {
        format!("`{shown}` is an installation: give its database, as `[storage] url` in its doorward.toml names it")
    } else {
        format!(
            "`{shown}` is no export, there is no `{}` in it: make one with `doorward audit export --format evidence`",
            file::EVENTS
        )
    }))
}

/// Refuses a file that is certainly something else than an export in one file.
///
/// # Errors
/// Exit 2, with what it is and what to give instead.
pub fn refuse_file(path: &Path) -> Result<(), Failure> {
    // What can't be read is told by whoever reads it next.
    let Some(what) = kind_of(path).unwrap_or_default() else { return Ok(()) };
    Err(Failure::usage(format!(
        "`{}` is {what}, and that can't be proved: export `jsonl` or `evidence`, or give a database or a server",
        path.display()
    )))
}

fn kind_of(path: &Path) -> io::Result<Option<&'static str>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BEGIN_BYTES).read_to_end(&mut bytes)?;
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(Some("a workbook or an archive"));
    }
    let begin = String::from_utf8_lossy(&bytes);
    let begin = begin.trim_start_matches('\u{feff}').trim_start();
    let first = begin.lines().next().unwrap_or_default();
    let is_page = ["<!doctype html", "<html"]
        .iter()
        .any(|tag| begin.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag)));
    if is_page {
        return Ok(Some("an HTML page"));
    }
    if [csv::header(), csv::line(report::csv::HEADER)].iter().any(|header| header.trim_end() == first) {
        return Ok(Some("a CSV"));
    }
    if begin.starts_with("CEF:0|") {
        return Ok(Some("CEF"));
    }
    if OF_EXPORT.iter().any(|mark| begin.contains(mark)) {
        return Ok(None);
    }
    if !begin.starts_with(['{', '[']) {
        let signed = begin.contains("\n\n\u{2014} ");
        return Ok(signed.then_some("signed checkpoints, which go with `--checkpoint`"));
    }
    if serde_json::from_str::<Ocsf>(first).is_ok() {
        return Ok(Some("OCSF"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(JSON_BYTES_MAX).read_to_end(&mut bytes)?;
    let of_export = |mark: &str| bytes.windows(mark.len()).any(|part| part == mark.as_bytes());
    let whole = serde_json::from_slice::<IgnoredAny>(&bytes).is_ok();
    Ok((whole && !OF_EXPORT.iter().any(|mark| of_export(mark))).then_some("JSON without evidence"))
}

/// What every line of OCSF has.
#[derive(serde::Deserialize)]
struct Ocsf {
    #[serde(rename = "class_uid")]
    _class: u64,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
}
