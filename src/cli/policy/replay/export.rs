//! Decisions of an export, in its order. It is read twice: first the sign-ins, then the decisions.
//!
//! Whether the export is true is `doorward audit verify`'s to say.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::line::Line;
use super::sign_ins::SignIns;
use crate::audit::EventType;
use crate::cli::failure::Failure;
use crate::model::{ServiceName, Timestamp};

/// The longest line: the evidence of an export is one.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// An export's file.
pub(super) struct ExportFile {
    path: PathBuf,
    lines: BufReader<File>,
    number: u64,
    since: Option<Timestamp>,
    service: Option<ServiceName>,
}

impl ExportFile {
    /// Opens it and takes its sign-ins.
    ///
    /// # Errors
    /// Exit 2 when it can't be read, or is no export.
    pub(super) fn open(
        path: &Path,
        since: Option<Timestamp>,
        service: Option<ServiceName>,
        sign_ins: &mut SignIns,
    ) -> Result<Self, Failure> {
        let mut events = 0u64;
        let mut first = Self::reader(path, None, None)?;
        while let Some(line) = first.read()? {
            events += 1;
            sign_ins.take(&line);
        }
        if events == 0 {
            return Err(Failure::usage(format!(
                "`{}` has no event in it; `doorward audit export --out FILE` writes one that has",
                path.display()
            )));
        }
        Self::reader(path, since, service)
    }

    fn reader(path: &Path, since: Option<Timestamp>, service: Option<ServiceName>) -> Result<Self, Failure> {
        let file = File::open(path)
            .map_err(|error| Failure::usage(format!("reading the export `{}`: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), lines: BufReader::new(file), number: 0, since, service })
    }

    /// The next event; lines that are none are passed over.
    fn read(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            self.number += 1;
            let mut bytes = Vec::new();
            let failed = |error: String| {
                Failure::usage(format!("reading the export `{}`, line {}: {error}", self.path.display(), self.number))
            };
            let mut capped = self.lines.by_ref().take(LINE_BYTES_MAX);
            if capped.read_until(b'\n', &mut bytes).map_err(|error| failed(error.to_string()))? == 0 {
                return Ok(None);
            }
            if let Ok(line) = serde_json::from_slice::<Line>(&bytes) {
                return Ok(Some(line));
            }
            // Evidence and end are JSON, too; what is not was cut, or is of another kind.
            serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
                .map_err(|error| failed(format!("it is not JSON ({error}); replay reads `jsonl` and `evidence`")))?;
        }
    }

    /// The next decision.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Failure> {
        while let Some(line) = self.read()? {
            let is_decision = line.is(EventType::DecisionAllow) || line.is(EventType::DecisionDeny);
            let is_late = self.since.is_none_or(|since| line.time.0 >= since);
            let is_wanted = self.service.as_ref().is_none_or(|wanted| line.service.as_deref() == Some(wanted.as_str()));
            if is_decision && is_late && is_wanted {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}
