//! `doorward audit report`: the record read and verified, and what it shows written for an auditor.
//!
//! INVARIANT: no report of a record that does not hold, or of one that leaves events out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::audit::evidence::{Evidence, Head, StatementText, end_line, file};
use crate::audit::filter::{Filter, FilterText};
use crate::audit::format::ReadLine;
use crate::audit::line::{LINE_BYTES_MAX, LineError, check_line};
use crate::audit::report::{
    Framework, FrameworkName, Gathered, Gatherer, Period, Report, Source, csv, html, oscal, xlsx,
};
use crate::audit::verify::{Anchor, Fault, Place, Verifier};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::renewal::signed_in;
use crate::model::Timestamp;

use super::folder::read_folder;
use super::stream::lines;
use super::{ReportArgs, ReportFormat, anchor};

/// The longest first line of an export in one file.
const HEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl ValueEnum for FrameworkName {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let about = match self {
            Self::Soc2 => "SOC 2, Trust Services Criteria 2017",
            Self::Iso27001 => "ISO/IEC 27001:2022, Annex A",
            Self::Nist80053 => "NIST SP 800-53 Revision 5",
            Self::PciDss => "PCI DSS v4.0.1",
            Self::Hipaa => "HIPAA Security Rule, 45 CFR Part 164 Subpart C",
        };
        Some(PossibleValue::new(self.name()).help(about))
    }
}

/// What went wrong with a record.
fn untrue(fault: &Fault) -> Failure {
    let detail = format!("no report is made of a record that does not hold: {fault}");
    Failure::new(Exit::Passed(fault.code()), fault.word(), detail)
}

/// Makes a report.
///
/// # Errors
/// Exit 2 when the period can't be read or the place is taken, 4 when no policy lets the caller, that of
/// `audit verify` when the record does not hold, 1 when it broke off.
pub async fn run(context: &Context, args: &ReportArgs) -> Result<(), Failure> {
    let period = period(args)?;
    let framework = Framework::load(args.framework).map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(out) = &args.out
        && fs::symlink_metadata(out).is_ok()
    {
        // Before the record is read, which takes its time and is put on record.
        return Err(Failure::usage(format!("`{}` can't be written: it is there already", out.display())));
    }
    if args.format == ReportFormat::Xlsx && args.out.is_none() && context.printer.is_terminal() {
        return Err(Failure::usage("a workbook is no text for a terminal: say where it goes with `--out report.xlsx`"));
    }
    let anchor = anchor::read(context, args.key.as_deref(), args.checkpoint.as_deref())?;
    let anchor = anchor.map_err(|fault| untrue(&fault))?;
    let read = match &args.input {
        Some(path) if path.is_dir() => of_folder(path, anchor, period)?,
        Some(path) => of_file(path, anchor, period)?,
        None => of_server(context, anchor, period).await?,
    };
    let report = Report {
        framework,
        period: read.period,
        made_at: context.clock.now(),
        source: read.source,
        gathered: read.gathered,
    };
    let bytes = match args.format {
        ReportFormat::Html => {
            html::write(&report).map_err(|error| Failure::failed(format!("writing the page: {error}")))?.into_bytes()
        }
        ReportFormat::Csv => csv::write(&report).into_bytes(),
        ReportFormat::Xlsx => {
            xlsx::write(&report).map_err(|error| Failure::failed(format!("writing the workbook: {error}")))?
        }
        ReportFormat::Oscal => oscal::write(&report).into_bytes(),
    };
    if !report.source.anchored {
        context.printer.talk(
            "nothing from outside holds this record, and the report says so: give the root key (--key) or a witness's \
             checkpoints (--checkpoint)",
        );
    }
    let Some(out) = &args.out else { return context.printer.bytes(&bytes) };
    put(out, &bytes)?;
    let (controls, events) = (report.framework.control.len(), report.gathered.totals.events);
    context.printer.talk(&format!("{controls} controls over {events} events are in `{}`", out.display()));
    Ok(())
}

fn period(args: &ReportArgs) -> Result<Period, Failure> {
    let text = FilterText { from: args.from.clone(), to: args.to.clone(), ..FilterText::default() };
    let Filter { from, to, .. } = Filter::parse(&text).map_err(Failure::usage)?;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Failure::usage(format!("the period is empty: `--from` {from} is not before `--to` {to}")));
    }
    Ok(Period { from, to })
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let taken = |error: io::Error| Failure::usage(format!("`{}` can't be written: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(taken)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        // Half a report is none; whether it can be removed changes nothing about the failure.
        let _ = fs::remove_file(path);
        Failure::failed(format!("writing the report to `{}`: {error}", path.display()))
    })
}

/// A record that was read to its end and holds.
struct WasRead {
    period: Period,
    source: Source,
    gathered: Gathered,
}

/// A record while it is read.
struct Reading {
    statement: StatementText,
    evidence: Evidence,
    verifier: Verifier,
    gatherer: Gatherer,
    period: Period,
    count: u64,
}

impl Reading {
    fn begin(evidence: Evidence, anchor: &Anchor, period: Period) -> Result<Self, Failure> {
        let part = "the statement of the export";
        let wrong = |what: String| untrue(&Fault::altered(part, what));
        let verifier = Verifier::new(&evidence, anchor).map_err(|fault| untrue(&fault))?;
        let statement = StatementText::open(&evidence.statement).map_err(|error| wrong(error.to_string()))?;
        let filter = Filter::parse(&statement.filter).map_err(|what| wrong(what.to_owned()))?;
        let period = within(period, &filter)?;
        let as_of = Timestamp::parse(&statement.made_at).ok_or_else(|| wrong("its time can't be read".to_owned()))?;
        Ok(Self { statement, evidence, verifier, gatherer: Gatherer::new(period, as_of), period, count: 0 })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Failure> {
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
            self.gatherer.take(&checked, read.as_ref());
        }
        Ok(())
    }

    fn is_end(&self, line: &[u8]) -> bool {
        line == end_line(self.count).as_bytes()
    }

    fn end(self, server: Option<String>) -> Result<WasRead, Failure> {
        let verified = self.verifier.end().map_err(|fault| untrue(&fault))?;
        let source = Source::of(&self.statement, &self.evidence, &verified, server);
        let source = source.ok_or_else(|| Failure::failed("the export's logs can't be read"))?;
        Ok(WasRead { period: self.period, source, gathered: self.gatherer.end() })
    }
}

/// The period of which an export has all events.
fn within(period: Period, filter: &Filter) -> Result<Period, Failure> {
    let Filter { from, to, kind, service, actor, grant, session } = filter;
    if kind.is_some() || service.is_some() || actor.is_some() || grant.is_some() || session.is_some() {
        return Err(Failure::usage(
            "the export leaves events out by its filter, and a report must count all of a period: export it with \
             `--from` and `--to` only",
        ));
    }
    let early = from.is_some_and(|first| period.from.is_some_and(|asked| asked < first));
    let late = to.is_some_and(|last| period.to.is_some_and(|asked| asked > last));
    if early || late {
        return Err(Failure::usage("the export is of a shorter period than `--from` and `--to` ask for"));
    }
    let period = Period { from: period.from.or(*from), to: period.to.or(*to) };
    match (period.from, period.to) {
        (Some(first), Some(last)) if first >= last => {
            Err(Failure::usage("the export has nothing of the period that `--from` and `--to` ask for"))
        }
        _ => Ok(period),
    }
}

async fn of_server(context: &Context, anchor: Anchor, period: Period) -> Result<WasRead, Failure> {
    let here = signed_in(context).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, time) in [("from", period.from), ("to", period.to)] {
        if let Some(time) = time {
            query.append_pair(name, &time.to_string());
        }
    }
    let broken = || Failure::failed("the server sent something else than an export");
    let (mut reading, mut ended) = (None::<Reading>, false);
    lines(&here.client, &format!("/api/v1/audit/export?{}", query.finish()), |line| {
        if ended {
            return Err(broken());
        }
        let Some(reading) = &mut reading else {
            let head = std::str::from_utf8(line).ok().and_then(Head::parse).ok_or_else(broken)?;
            reading = Some(Reading::begin(head.evidence, &anchor, period)?);
            return Ok(());
        };
        if reading.is_end(line) {
            ended = true;
            return Ok(());
        }
        reading.take(line)
    })
    .await?;
    match reading {
        Some(reading) if ended => reading.end(Some(here.origin.to_string())),
        _ => Err(Failure::failed("the server's answer broke off before its end; no report is made of a part")),
    }
}

fn of_folder(dir: &Path, anchor: Anchor, period: Period) -> Result<WasRead, Failure> {
    let read = read_folder(dir).map_err(|fault| untrue(&fault))?;
    if let Some(fault) = &read.late {
        return Err(untrue(fault));
    }
    let mut reading = Reading::begin(read.evidence, &anchor, period)?;
    let path = dir.join(file::EVENTS);
    let wrong = |error: io::Error| Failure::usage(format!("`{}` can't be read: {error}", path.display()));
    let mut input = BufReader::new(File::open(&path).map_err(wrong)?);
    while let Some(line) = next_line(&mut input, line_bytes_max()).map_err(wrong)? {
        reading.take(&line)?;
    }
    reading.end(None)
}

fn of_file(path: &Path, anchor: Anchor, period: Period) -> Result<WasRead, Failure> {
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
    let mut reading = Reading::begin(head.evidence, &anchor, period)?;
    while let Some(line) = next_line(&mut input, line_bytes_max()).map_err(wrong)? {
        if !reading.is_end(&line) {
            reading.take(&line)?;
            continue;
        }
        return match next_line(&mut input, 1).map_err(wrong)? {
            None => reading.end(None),
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
