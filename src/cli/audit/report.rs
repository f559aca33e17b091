//! `doorward audit report`: the record read and verified, and what it shows written for an auditor.
//!
//! INVARIANT: no report of a record that does not hold, or of one that leaves events out.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::audit::evidence::Head;
use crate::audit::filter::{Filter, FilterText};
use crate::audit::format::ReadLine;
use crate::audit::line::CheckedLine;
use crate::audit::report::exception::REVIEWERS;
use crate::audit::report::{
    Framework, FrameworkName, Gathered, Gatherer, Period, Report, Source, csv, html, oscal, xlsx,
};
use crate::audit::verify::Anchor;
use crate::cli::client::{Client, ClientError};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::renewal::signed_in;
use crate::model::Timestamp;
use crate::wire::Emergency;

use super::reading::{self, Reading, Statement, Takes, Whole, untrue};
use super::stream::lines;
use super::{ReportArgs, ReportFormat, anchor, is_standard, not_empty};

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

/// Makes a report.
///
/// # Errors
/// Exit 2 when the period can't be read or the place is taken, 4 when no policy lets the caller, that of
/// `audit verify` when the record does not hold, 1 when it broke off.
pub async fn run(context: &Context, args: &ReportArgs) -> Result<(), Failure> {
    let period = period(args)?;
    let framework = Framework::load(args.framework).map_err(|error| Failure::failed(error.to_string()))?;
    let out = args.out.as_deref().filter(|out| !is_standard(out));
    if let Some(out) = out
        && fs::symlink_metadata(out).is_ok()
    {
        // Before the record is read, which takes its time and is put on record.
        return Err(Failure::usage(format!(
            "`{}` can't be written: it is there already; name another place, or remove it first",
            out.display()
        )));
    }
    if args.format == ReportFormat::Xlsx && out.is_none() && context.printer.is_terminal() {
        return Err(Failure::usage("a workbook is no text for a terminal: say where it goes with `--out report.xlsx`"));
    }
    let anchor = anchor::read(context, args.key.as_deref(), args.checkpoint.as_deref())?;
    let anchor = anchor.map_err(|fault| untrue(&fault))?;
    let begin = |of: &Statement| Counting::new(period, of);
    let read = match &args.input {
        Some(path) => WasRead::of(reading::of_path(path, &anchor, begin)?, None)?,
        None => of_server(context, &anchor, period).await?,
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
    let Some(out) = out else { return context.printer.bytes(&bytes) };
    put(out, &bytes)?;
    let (controls, events) = (report.framework.control.len(), report.gathered.totals.events);
    context.printer.talk(&format!("{controls} controls over {events} events are in `{}`", out.display()));
    Ok(())
}

fn period(args: &ReportArgs) -> Result<Period, Failure> {
    let text = FilterText { from: args.from.clone(), to: args.to.clone(), ..FilterText::default() };
    let Filter { from, to, .. } = Filter::parse(&text).map_err(Failure::usage)?;
    not_empty(from, to)?;
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

/// What is counted while a record is read.
struct Counting {
    period: Period,
    gatherer: Gatherer,
}

impl Counting {
    fn new(asked: Period, of: &Statement) -> Result<Self, Failure> {
        let period = within(asked, &of.filter)?;
        Ok(Self { period, gatherer: Gatherer::new(period, of.made_at).beginning_at(of.filter.from) })
    }
}

impl Takes for Counting {
    fn take(&mut self, checked: &CheckedLine, read: Option<&ReadLine>) {
        self.gatherer.take(checked, read);
    }
}

/// A record that was read to its end and holds.
struct WasRead {
    period: Period,
    source: Source,
    gathered: Gathered,
}

impl WasRead {
    fn of(whole: Whole<Counting>, server: Option<String>) -> Result<Self, Failure> {
        let Whole { statement, evidence, verified, taken } = whole;
        let source = Source::of(&statement.text, &evidence, &verified, server);
        let source = source.ok_or_else(|| Failure::failed("the export's logs can't be read"))?;
        Ok(Self { period: taken.period, source, gathered: taken.gatherer.end() })
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

async fn of_server(context: &Context, anchor: &Anchor, period: Period) -> Result<WasRead, Failure> {
    let here = signed_in(context).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, time) in [("from", period.from), ("to", period.to)] {
        if let Some(time) = time {
            query.append_pair(name, &time.to_string());
        }
    }
    let broken = || Failure::failed("the server sent something else than an export");
    let (mut reading, mut ended) = (None::<Reading<Counting>>, false);
    lines(&here.client, &format!("/api/v1/audit/export?{}", query.finish()), |line| {
        if ended {
            return Err(broken());
        }
        let Some(reading) = &mut reading else {
            let head = std::str::from_utf8(line).ok().and_then(Head::parse).ok_or_else(broken)?;
            let begin = |of: &Statement| Counting::new(period, of);
            reading = Some(Reading::begin(head.evidence, anchor, begin)?);
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
        Some(reading) if ended => {
            let mut whole = reading.end()?;
            if let Some((begins, until)) = whole.taken.gatherer.unread_before() {
                match earlier_openings(&here.client, begins, until).await {
                    Ok(notes) => whole.taken.gatherer.earlier_openings(notes),
                    // The report says what it does not know.
                    Err(error) => tracing::debug!(%error, "the server was not asked for earlier openings"),
                }
            }
            WasRead::of(whole, Some(here.origin.to_string()))
        }
        _ => Err(Failure::failed("the server's answer broke off before its end; no report is made of a part")),
    }
}

/// Openings of before `begins` that were not reviewed by `until`, as the server has them: their own events
/// are not among those that are read.
async fn earlier_openings(client: &Client, begins: Timestamp, until: Timestamp) -> Result<Vec<String>, ClientError> {
    let mut notes = Vec::new();
    for item in client.list("/api/v1/breakglass").await?.items {
        let it: Emergency = client.read(item.get())?;
        let reviewers = it.reviews.iter().filter(|review| review.time.0 < until).count();
        if it.kind == "custodians" && it.opened_at.0 < begins && reviewers < REVIEWERS {
            notes.push(format!(
                "{}, opened before the period, at {}, has {reviewers} of {REVIEWERS} reviewers; by the server's word",
                it.id, it.opened_at
            ));
        }
    }
    Ok(notes)
}
