//! The story's end: the record is handed to an auditor, who trusts nobody.
//!
//! Carol exports it; it verifies against the root key and the checkpoints that the witness kept. Then one
//! byte is changed, and in another copy the last record is cut off: both are found.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::{Note, split_notes};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

use super::house::House;
use super::person::Person;
use super::transcript::Told;

/// What an export has its events in.
const EVENTS: &str = "events.jsonl";
/// How long a checkpoint may take to its witness.
const WITNESS_TIMEOUT: Duration = Duration::from_secs(5);
const WITNESS_INTERVAL: Duration = Duration::from_millis(50);

fn wrong(detail: impl Into<String>) -> Failure {
    Failure::failed(detail)
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| wrong("the temporary folder is not UTF-8"))
}

/// Exports, verifies, and tampers twice. A witness must have seen `events` events before.
///
/// # Errors
/// When the auditor comes to another verdict than they should.
pub async fn proof(house: &House, auditor: &Person, told: &mut Told, events: usize) -> Result<String, Failure> {
    let evidence = house.folder().join("evidence");
    // ORDER: before the export, so that what was witnessed is in it.
    let witness = witnessed(house, events).await?;
    auditor.types(told, &["audit", "export", "--format", "evidence", "--out", text(&evidence)?], Exit::Done).await?;
    let verify = async |told: &mut Told, dir: &Path, expected: Exit| -> Result<String, Failure> {
        auditor.types(told, &["audit", "verify", text(dir)?, "--checkpoint", text(&witness)?], expected).await
    };
    let whole = verify(told, &evidence, Exit::Done).await?;
    if !whole.starts_with("whole: ") {
        return Err(wrong("the record was not called whole"));
    }
    let changed = copy(&evidence, &house.folder().join("one-byte-changed"), |events| {
        events.replacen("alice@example.com", "alicf@example.com", 1)
    })?;
    told.asked("somebody > changes one byte of an event");
    verify(told, &changed, Exit::Passed(10)).await?;
    let cut = copy(&evidence, &house.folder().join("last-record-cut"), |events| {
        let end = events.trim_end().rfind('\n').map_or(0, |at| at + 1);
        events.get(..end).unwrap_or_default().to_owned()
    })?;
    told.asked("somebody > cuts off the last record");
    verify(told, &cut, Exit::Passed(12)).await?;
    let (report, evidence) = (house.folder().join("report.html"), text(&evidence)?);
    let made = ["audit", "report", "--framework", "soc2", "--in", evidence, "--out", text(&report)?];
    auditor.types(told, &made, Exit::Done).await?;
    Ok("whole as it was; one byte changed is found (10), a record cut off the end is found (12); a report from it"
        .to_owned())
}

/// What the witness keeps, as soon as it has seen so many events.
async fn witnessed(house: &House, events: usize) -> Result<PathBuf, Failure> {
    let (theirs, kept) = (house.folder().join("door").join("witness.checkpoints"), house.folder().join("witness.txt"));
    let seen = |text: &str| {
        let of = |note: &str| Checkpoint::parse(&Note::parse(note).ok()?.text).ok();
        let sizes = split_notes(text).unwrap_or_default().into_iter().filter_map(of);
        sizes.filter(|checkpoint| checkpoint.origin.contains("/nod_")).map(|checkpoint| checkpoint.size).max()
    };
    let waiting = async {
        loop {
            let text = fs::read_to_string(&theirs).unwrap_or_default();
            if seen(&text).is_some_and(|size| usize::try_from(size).is_ok_and(|size| size >= events)) {
                return text;
            }
            tokio::time::sleep(WITNESS_INTERVAL).await;
        }
    };
    let text = tokio::time::timeout(WITNESS_TIMEOUT, waiting).await;
    let text = text.map_err(|_| wrong("the witness has seen no checkpoint of these events"))?;
    fs::write(&kept, text).map_err(|error| wrong(format!("keeping the witness's checkpoints: {error}")))?;
    Ok(kept)
}

/// A copy of an export whose events are changed.
fn copy(from: &Path, to: &Path, change: impl FnOnce(&str) -> String) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| wrong(format!("copying the evidence: {error}"));
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(failed)?;
    }
    let events = fs::read_to_string(from.join(EVENTS)).map_err(failed)?;
    let changed = change(&events);
    if changed == events {
        return Err(wrong("there was nothing to change in the events"));
    }
    fs::write(to.join(EVENTS), changed).map_err(failed)?;
    Ok(to.to_owned())
}
