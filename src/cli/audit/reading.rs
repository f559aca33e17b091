//! An export read line by line, verified while it is read, for whoever tells something of it.
//!
//! INVARIANT: nothing is told of a record that does not hold: what was taken is given out only after the
//! end was verified.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::audit::evidence::{Evidence, Head, StatementText, end_line, file};
use crate::audit::filter::Filter;
use crate::audit::format::ReadLine;
use crate::audit::line::{CheckedLine, LINE_BYTES_MAX, LineError, check_line};
use crate::audit::verify::{Anchor, Fault, Place, Verified, Verifier};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::model::Timestamp;

use super::folder::read_folder;
use super::foreign;

/// The longest first line of an export in one file.
const HEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whoever takes the lines of a record.
pub trait Takes {
    /// The next line, checked, and its content where it has one.
    fn take(&mut self, checked: &CheckedLine, read: Option<&ReadLine>);
}

/// What went wrong with a record.
pub fn untrue(fault: &Fault) -> Failure {
    let detail = format!("no report is made of a record that does not hold: {fault}");
    Failure::new(Exit::Passed(fault.code()), fault.word(), detail)
}

/// What an export says of itself.
pub struct Statement {
    /// All of it.
    pub text: StatementText,
    /// Which events it has.
    pub filter: Filter,
    /// When it was made.
    pub made_at: Timestamp,
}

impl Statement {
    fn open(note: &str) -> Result<Self, Failure> {
        let wrong = |what: String| untrue(&Fault::altered("the statement of the export", what));
        let text = StatementText::open(note).map_err(|error| wrong(error.to_string()))?;
        let filter = Filter::parse(&text.filter).map_err(|what| wrong(what.to_owned()))?;
        let made_at = Timestamp::parse(&text.made_at).ok_or_else(|| wrong("its time can't be read".to_owned()))?;
        Ok(Self { text, filter, made_at })
    }
}

/// A record that was read to its end and holds.
pub struct Whole<T> {
    /// What it says of itself.
    pub statement: Statement,
    /// What goes with its events.
    pub evidence: Evidence,
    /// What was verified.
    pub verified: Verified,
    /// Who took the lines.
    pub taken: T,
}

/// A record while it is read.
pub struct Reading<T> {
    statement: Statement,
    evidence: Evidence,
    verifier: Verifier,
    taker: T,
    count: u64,
}

impl<T: Takes> Reading<T> {
    /// Checks everything that goes with the events, then asks who takes them.
    ///
    /// # Errors
    /// With the exit code of what is wrong.
    pub fn begin(
        evidence: Evidence,
        anchor: &Anchor,
        taker: impl FnOnce(&Statement) -> Result<T, Failure>,
    ) -> Result<Self, Failure> {
        let verifier = Verifier::new(&evidence, anchor).map_err(|fault| untrue(&fault))?;
        let statement = Statement::open(&evidence.statement)?;
        let taker = taker(&statement)?;
        Ok(Self { statement, evidence, verifier, taker, count: 0 })
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// With the exit code of what is wrong.
    pub fn take(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.count += 1;
        let checked = std::str::from_utf8(line).map_err(|_| LineError::Form).and_then(check_line);
        self.verifier.take(checked.clone()).map_err(|fault| untrue(&fault))?;
        if let Ok(checked) = checked {
            let read = if checked.withheld.is_none() { ReadLine::parse(line) } else { None };
            if checked.withheld.is_none() && read.is_none() {
                let text = format!("event {} of {} can't be read", checked.leaf.seq, checked.leaf.log);
                return Err(Failure::failed(format!(
                    "{text}, though it is proven; this program may be too old for it"
                )));
            }
            self.taker.take(&checked, read.as_ref());
        }
        Ok(())
    }

    /// Whether this is the line that must be the last.
    pub fn is_end(&self, line: &[u8]) -> bool {
        line == end_line(self.count).as_bytes()
    }

    /// After the last line.
    ///
    /// # Errors
    /// With the exit code of what is wrong.
    pub fn end(self) -> Result<Whole<T>, Failure> {
        let verified = self.verifier.end().map_err(|fault| untrue(&fault))?;
        let Self { statement, evidence, taker: taken, .. } = self;
        Ok(Whole { statement, evidence, verified, taken })
    }
}

/// Reads an export that is here, a folder or a file.
///
/// # Errors
/// Exit 2 when it is not there or is none; else the exit code of what is wrong.
pub fn of_path<T: Takes>(
    path: &Path,
    anchor: &Anchor,
    taker: impl FnOnce(&Statement) -> Result<T, Failure>,
) -> Result<Whole<T>, Failure> {
    if path.is_dir() { of_folder(path, anchor, taker) } else { of_file(path, anchor, taker) }
}

fn of_folder<T: Takes>(
    dir: &Path,
    anchor: &Anchor,
    taker: impl FnOnce(&Statement) -> Result<T, Failure>,
) -> Result<Whole<T>, Failure> {
    foreign::refuse_folder(dir)?;
    let read = read_folder(dir).map_err(|fault| untrue(&fault))?;
    if let Some(fault) = &read.late {
        return Err(untrue(fault));
    }
    let mut reading = Reading::begin(read.evidence, anchor, taker)?;
    let path = dir.join(file::EVENTS);
    let wrong = |error: io::Error| Failure::usage(format!("`{}` can't be read: {error}", path.display()));
    let mut input = BufReader::new(File::open(&path).map_err(wrong)?);
    while let Some(line) = next_line(&mut input, line_bytes_max()).map_err(wrong)? {
        reading.take(&line)?;
    }
    reading.end()
}

fn of_file<T: Takes>(
    path: &Path,
    anchor: &Anchor,
    taker: impl FnOnce(&Statement) -> Result<T, Failure>,
) -> Result<Whole<T>, Failure> {
    let wrong = |error: io::Error| Failure::usage(format!("`{}` can't be read: {error}", path.display()));
    let mut input = BufReader::new(File::open(path).map_err(wrong)?);
    let head = next_line(&mut input, HEAD_BYTES_MAX).map_err(wrong)?;
    let head = head.and_then(|line| String::from_utf8(line).ok()).and_then(|text| Head::parse(&text));
    let head = head.ok_or_else(|| {
        Failure::usage(format!(
            "`{}` is no export with proofs: make one with `doorward audit export --format evidence` or `jsonl`",
            path.display()
        ))
    })?;
    let mut reading = Reading::begin(head.evidence, anchor, taker)?;
    while let Some(line) = next_line(&mut input, line_bytes_max()).map_err(wrong)? {
        if !reading.is_end(&line) {
            reading.take(&line)?;
            continue;
        }
        return match next_line(&mut input, 1).map_err(wrong)? {
            None => reading.end(),
            Some(_) => Err(untrue(&Fault::altered("the file", "there is something behind its last line"))),
        };
    }
    let at = Place::Part("the file".to_owned());
    Err(untrue(&Fault::Truncated { at, what: "its last line is missing".to_owned() }))
}

fn line_bytes_max() -> u64 {
    u64::try_from(LINE_BYTES_MAX.saturating_mul(2)).unwrap_or(u64::MAX)
}

/// The next line without its line feed; none at the end.
fn next_line(input: &mut impl BufRead, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if input.by_ref().take(bytes_max).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    match line.pop() {
        Some(b'\n') => Ok(Some(line)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a line has no end")),
    }
}
