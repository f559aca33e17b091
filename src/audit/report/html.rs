//! A report as one HTML page: it prints, needs nothing from elsewhere, and runs nothing.
//!
//! INVARIANT: every text of the record goes through the template's escaping; a link leads nowhere but to
//! the server that the report was made from.

use std::collections::BTreeSet;

use askama::Template;

use super::exception::ROWS_MAX;
use super::gather::SAMPLE;
use super::{Cited, Control, Counted, Exception, Found, Population, Report, Source, Verdict, Weight};
use crate::audit::event::Outcome;
use crate::model::Timestamp;

/// Events of a population that stand in each control; the rest of the sample is with the population.
const SAMPLE_OF_CONTROL: usize = 2;

#[derive(Template)]
#[template(path = "report.html", config = "src/audit/report/askama.toml")]
struct Page<'a> {
    framework: &'a str,
    framework_id: &'a str,
    publisher: &'a str,
    installation: &'a str,
    server: Option<&'a str>,
    root_key: &'a str,
    from: String,
    to: String,
    made_at: String,
    as_of: String,
    verified: String,
    version: &'static str,
    sample: usize,
    rows_max: usize,
    limits: &'a [String],
    verdicts: Vec<VerdictView>,
    totals: Vec<TotalView>,
    logs: Vec<LogView<'a>>,
    controls: Vec<ControlView<'a>>,
    exceptions: Vec<ExceptionView<'a>>,
    not_found: String,
    populations: Vec<PopulationView<'a>>,
}

struct VerdictView {
    words: &'static str,
    class: &'static str,
    meaning: &'static str,
    controls: usize,
}

struct TotalView {
    name: &'static str,
    number: String,
}

struct LogView<'a> {
    label: &'a str,
    node: String,
    size: String,
    read: String,
    root: &'a str,
}

/// A part of a text of the mapping: what stands between backticks is code.
struct Piece<'a> {
    text: &'a str,
    code: bool,
}

struct ControlView<'a> {
    anchor: String,
    id: &'a str,
    title: &'a str,
    asks: Vec<Piece<'a>>,
    words: &'static str,
    class: &'static str,
    events: String,
    exceptions_count: String,
    notable_count: String,
    populations: Vec<PopulationView<'a>>,
    found: Vec<ExceptionView<'a>>,
    not_found: String,
    sample: Vec<EventView<'a>>,
    gaps: Vec<Vec<Piece<'a>>>,
}

struct PopulationView<'a> {
    name: &'static str,
    title: &'static str,
    filter: &'static str,
    count: String,
    pruned: u64,
    first: String,
    last: String,
    spans: String,
    digest: &'a str,
    sample: Vec<EventView<'a>>,
}

struct ExceptionView<'a> {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    weight: &'static str,
    count: String,
    unlisted: u64,
    rows: Vec<RowView<'a>>,
}

struct RowView<'a> {
    event: Option<EventView<'a>>,
    note: &'a str,
}

struct EventView<'a> {
    time: String,
    kind: String,
    who: &'a str,
    what: &'a str,
    at: String,
    url: Option<String>,
    /// Of the decision, else of the event.
    id: Option<&'a str>,
}

/// The whole page.
///
/// # Errors
/// When the template can't be written, which a text can't bring about.
pub fn write(report: &Report) -> Result<String, askama::Error> {
    page(report).render()
}

fn page(report: &Report) -> Page<'_> {
    let source = &report.source;
    let kinds = of_framework(report, |control| &control.exceptions);
    let held = match (source.anchored, source.witnessed) {
        (true, 0) => "held from outside by the root key".to_owned(),
        (true, witnessed) => format!("held from outside by {witnessed} checkpoints of a witness"),
        (false, _) => "consistent in itself; neither a root key nor a witness's checkpoint was given to hold it from \
                       outside"
            .to_owned(),
    };
    let (leaves, logs) = (grouped(source.lines), source.logs.len());
    Page {
        framework: &report.framework.title,
        framework_id: &report.framework.id,
        publisher: &report.framework.publisher,
        installation: &source.installation,
        server: source.server.as_deref(),
        root_key: &source.root_key,
        from: report.begins().to_string(),
        to: report.ends().to_string(),
        made_at: report.made_at.to_string(),
        as_of: source.as_of.to_string(),
        verified: format!("{leaves} leaves of {logs} {}; {held}", if logs == 1 { "log" } else { "logs" }),
        version: env!("CARGO_PKG_VERSION"),
        sample: SAMPLE,
        rows_max: ROWS_MAX,
        limits: &report.gathered.limits,
        verdicts: verdicts(report),
        totals: totals(report),
        logs: source.logs.iter().map(log).collect(),
        controls: (1..).zip(&report.framework.control).map(|(number, it)| control(report, number, it)).collect(),
        exceptions: found(report, kinds.iter().copied()),
        not_found: not_found(report, kinds.iter().copied()),
        populations: of_framework(report, |control| &control.populations)
            .into_iter()
            .map(|kind| population(source, kind, report.counted(kind), SAMPLE))
            .collect(),
    }
}

/// What the framework's controls name, each once, in its own order.
fn of_framework<T: Copy + Ord>(report: &Report, named: impl Fn(&Control) -> &Vec<T>) -> BTreeSet<T> {
    report.framework.control.iter().flat_map(|control| named(control).iter().copied()).collect()
}

const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Evidence => "evidence",
        Verdict::Partial => "partial",
        Verdict::Exceptions => "exceptions",
        Verdict::Nothing => "nothing",
        Verdict::Gap => "gap",
    }
}

fn verdicts(report: &Report) -> Vec<VerdictView> {
    let of = |wanted| report.framework.control.iter().filter(|control| report.verdict(control) == wanted).count();
    let view = |verdict: Verdict| VerdictView {
        words: verdict.words(),
        class: class(verdict),
        meaning: verdict.meaning(),
        controls: of(verdict),
    };
    Verdict::ALL.into_iter().map(view).collect()
}

fn totals(report: &Report) -> Vec<TotalView> {
    let (totals, count) = (&report.gathered.totals, |population| report.counted(population).count);
    [
        ("Events on record", totals.events),
        ("Requests allowed", totals.allowed),
        ("Requests refused, each on record", totals.refused),
        ("Refusals beyond the recorded rate, counted only", totals.refused_counted),
        ("Sign-ins", count(Population::SignIns)),
        ("Access requests", count(Population::Requests)),
        ("Grants that became active", count(Population::Grants)),
        ("Openings of the emergency path", count(Population::BreakGlass)),
        ("Decisions lost in buffered mode", totals.lost),
        ("Events of which only the leaf is left", totals.pruned),
        ("Events with erased personal values", totals.erased),
    ]
    .into_iter()
    .map(|(name, number)| TotalView { name, number: grouped(number) })
    .collect()
}

fn log(log: &super::ReportedLog) -> LogView<'_> {
    let read = match log.to.checked_sub(1).filter(|last| *last >= log.from) {
        Some(last) => format!("{} to {last}", log.from),
        None => "none of the period".to_owned(),
    };
    LogView { label: &log.label, node: log.node.to_string(), size: grouped(log.size), read, root: &log.root }
}

fn control<'a>(report: &'a Report, number: usize, control: &'a Control) -> ControlView<'a> {
    let verdict = report.verdict(control);
    let source = &report.source;
    let populations: Vec<_> = control
        .populations
        .iter()
        .map(|kind| population(source, *kind, report.counted(*kind), SAMPLE_OF_CONTROL))
        .collect();
    let mut cited = BTreeSet::new();
    let drawn = control.populations.iter().flat_map(|kind| report.counted(*kind).sample.iter().take(SAMPLE_OF_CONTROL));
    let sample = drawn.filter(|event| cited.insert((event.log, event.index))).map(|it| event(source, it)).collect();
    ControlView {
        anchor: format!("control-{number}"),
        id: &control.id,
        title: &control.title,
        asks: pieces(&control.asks),
        words: verdict.words(),
        class: class(verdict),
        events: grouped(report.occurrences(control)),
        exceptions_count: grouped(report.weighing(control, Weight::Exception)),
        notable_count: grouped(report.weighing(control, Weight::Notable)),
        populations,
        found: found(report, control.exceptions.iter().copied()),
        not_found: not_found(report, control.exceptions.iter().copied()),
        sample,
        gaps: control.gaps.iter().map(|gap| pieces(gap)).collect(),
    }
}

fn population<'a>(source: &Source, kind: Population, counted: &'a Counted, sample: usize) -> PopulationView<'a> {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "–".to_owned(), |time| time.to_string());
    let spans: Vec<String> = counted
        .spans
        .iter()
        .map(|(node, span)| {
            let label = source.log(*node).map_or("?", |log| log.label.as_str());
            format!("{label}: {} to {} ({})", span.first, span.last, grouped(span.count))
        })
        .collect();
    PopulationView {
        name: kind.name(),
        title: kind.title(),
        filter: kind.filter(),
        count: grouped(counted.count),
        pruned: counted.pruned,
        first: time(counted.first),
        last: time(counted.last),
        spans: if spans.is_empty() { "–".to_owned() } else { spans.join("; ") },
        digest: &counted.digest,
        sample: counted.sample.iter().take(sample).map(|cited| event(source, cited)).collect(),
    }
}

/// Those kinds of which there is something.
fn found(report: &Report, kinds: impl Iterator<Item = Exception>) -> Vec<ExceptionView<'_>> {
    kinds
        .map(|kind| (kind, report.found(kind)))
        .filter(|(_, found)| found.count > 0)
        .map(|(kind, found)| exception(&report.source, kind, found))
        .collect()
}

/// Titles of those kinds of which there is nothing.
fn not_found(report: &Report, kinds: impl Iterator<Item = Exception>) -> String {
    let titles: Vec<String> =
        kinds.filter(|kind| report.found(*kind).count == 0).map(|kind| kind.title().to_lowercase()).collect();
    titles.join("; ")
}

fn exception<'a>(source: &Source, kind: Exception, found: &'a Found) -> ExceptionView<'a> {
    let row =
        |row: &'a super::Row| RowView { event: row.event.as_ref().map(|cited| event(source, cited)), note: &row.note };
    ExceptionView {
        name: kind.name(),
        title: kind.title(),
        about: kind.about(),
        weight: kind.weight().word(),
        count: grouped(found.count),
        unlisted: found.unlisted(),
        rows: found.rows.iter().map(row).collect(),
    }
}

fn event<'a>(source: &Source, cited: &'a Cited) -> EventView<'a> {
    let label = source.log(cited.log).map_or("?", |log| log.label.as_str());
    EventView {
        time: cited.time.to_string(),
        kind: match cited.outcome {
            Outcome::Failed => format!("{}, failed", cited.kind.name()),
            Outcome::Success | Outcome::Denied => cited.kind.name().to_owned(),
        },
        who: cited.who.as_deref().unwrap_or("–"),
        what: &cited.what,
        at: format!("{label} #{}", cited.index),
        url: source.proof_url(cited),
        id: cited.decision.as_deref().or(cited.id.as_deref()),
    }
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    text.split('`').zip([false, true].into_iter().cycle()).map(|(text, code)| Piece { text, code }).collect()
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
