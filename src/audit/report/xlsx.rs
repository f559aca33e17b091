//! A report as a workbook (Office Open XML, ECMA-376) for those who work through it in a spreadsheet.
//!
//! INVARIANTS: every text is a string cell, never a formula or a link, whatever it begins with; one that a
//! spreadsheet would calculate once it is typed again is also marked as text. Counts are numbers and times
//! are times (UTC), so that they sort and sum. The same report gives the same bytes.

use std::collections::BTreeMap;

use rust_xlsxwriter::{DocProperties, ExcelDateTime, Format, FormatAlign, Workbook, Worksheet, XlsxError};

use super::{Cited, Control, Report, Row, Verdict, Weight};
use crate::model::Timestamp;

/// The longest text of a cell, in UTF-16 code units: a spreadsheet takes 32,767.
const CELL_UNITS_MAX: usize = 32_000;
/// How days are counted: 1970-01-01 is day 25,569 of a spreadsheet.
const EPOCH_DAY: f64 = 25_569.0;
const DAY_MILLIS: f64 = 86_400_000.0;

/// One cell.
enum Cell<'a> {
    Nothing,
    Text(&'a str),
    Owned(String),
    Number(u64),
    Time(Timestamp),
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text)
    }
}

impl From<u64> for Cell<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<Timestamp> for Cell<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Cell<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

/// A column: its header and its width in characters.
type Column = (&'static str, f64);

const SUMMARY: [Column; 4] = [("part", 12.0), ("name", 44.0), ("value", 26.0), ("detail", 90.0)];
const CONTROLS: [Column; 10] = [
    ("control", 18.0),
    ("title", 40.0),
    ("asks", 60.0),
    ("verdict", 18.0),
    ("events", 10.0),
    ("exceptions", 11.0),
    ("notable", 10.0),
    ("populations", 40.0),
    ("looked_for", 40.0),
    ("gaps", 60.0),
];
const POPULATIONS: [Column; 12] = [
    ("population", 22.0),
    ("title", 44.0),
    ("log", 32.0),
    ("count", 10.0),
    ("pruned", 8.0),
    ("first", 22.0),
    ("last", 22.0),
    ("first_index", 11.0),
    ("last_index", 11.0),
    ("sha256", 66.0),
    ("filter", 60.0),
    ("controls", 40.0),
];
/// Of an event that is cited, as `event_cells` fills them.
const EVENT: [Column; 10] = [
    ("time", 22.0),
    ("actor", 40.0),
    ("detail", 70.0),
    ("type", 22.0),
    ("outcome", 10.0),
    ("log", 32.0),
    ("index", 8.0),
    ("event", 32.0),
    ("decision", 32.0),
    ("proof", 60.0),
];
/// Of an exception, before those of the event.
const EXCEPTION: [Column; 5] = [("row", 11.0), ("exception", 26.0), ("title", 40.0), ("weight", 10.0), ("count", 8.0)];

/// The whole workbook.
///
/// # Errors
/// When it does not fit a spreadsheet, which the bounds of a report rule out.
pub fn write(report: &Report) -> Result<Vec<u8>, XlsxError> {
    let mut workbook = Workbook::new();
    let made_at = ExcelDateTime::from_timestamp(report.made_at.seconds())?;
    workbook.set_properties(
        &DocProperties::new()
            .set_title(format!("{}: evidence of {}", report.framework.title, report.source.installation))
            .set_author(concat!("doorward ", env!("CARGO_PKG_VERSION")))
            .set_creation_datetime(&made_at),
    );
    let exception_columns = [&EXCEPTION[..], &EVENT, &[("controls", 30.0)]].concat();
    let sample_columns = [&[("population", 22.0)][..], &EVENT].concat();
    summary(report, Sheet::begin(workbook.add_worksheet(), "Summary", &SUMMARY)?)?;
    controls(report, Sheet::begin(workbook.add_worksheet(), "Controls", &CONTROLS)?)?;
    populations(report, Sheet::begin(workbook.add_worksheet(), "Populations", &POPULATIONS)?)?;
    exceptions(report, Sheet::begin(workbook.add_worksheet(), "Exceptions", &exception_columns)?)?;
    samples(report, Sheet::begin(workbook.add_worksheet(), "Samples", &sample_columns)?)?;
    workbook.save_to_buffer()
}

/// A sheet while it is written, row by row.
struct Sheet<'a> {
    sheet: &'a mut Worksheet,
    next: u32,
    last_column: u16,
    text: Format,
    quoted: Format,
    time: Format,
}

impl<'a> Sheet<'a> {
    fn begin(sheet: &'a mut Worksheet, name: &str, columns: &[Column]) -> Result<Self, XlsxError> {
        sheet.set_name(name)?;
        sheet.set_freeze_panes(1, 0)?;
        sheet.set_landscape().set_repeat_rows(0, 0)?;
        let header = Format::new().set_bold();
        let mut last_column = 0;
        for (column, (title, width)) in (0..).zip(columns) {
            sheet.write_string_with_format(0, column, *title, &header)?;
            sheet.set_column_width(column, *width)?;
            last_column = column;
        }
        let text = Format::new().set_text_wrap().set_align(FormatAlign::Top);
        let quoted = text.clone().set_quote_prefix();
        let time = Format::new().set_num_format("yyyy-mm-dd hh:mm:ss.000").set_align(FormatAlign::Top);
        Ok(Self { sheet, next: 1, last_column, text, quoted, time })
    }

    fn row<'c>(&mut self, cells: impl IntoIterator<Item = Cell<'c>>) -> Result<(), XlsxError> {
        for (column, cell) in (0..).zip(cells) {
            match cell {
                Cell::Nothing => {}
                Cell::Text(text) => self.text(column, text)?,
                Cell::Owned(text) => self.text(column, &text)?,
                Cell::Number(number) => {
                    self.sheet.write_number_with_format(self.next, column, exact(number), &self.text)?;
                }
                Cell::Time(time) => {
                    self.sheet.write_number_with_format(self.next, column, serial(time), &self.time)?;
                }
            }
        }
        self.next += 1;
        Ok(())
    }

    fn text(&mut self, column: u16, text: &str) -> Result<(), XlsxError> {
        if text.is_empty() {
            return Ok(());
        }
        let format = if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { &self.quoted } else { &self.text };
        self.sheet.write_string_with_format(self.next, column, fitting(text), format)?;
        Ok(())
    }

    fn end(self) -> Result<(), XlsxError> {
        self.sheet.autofilter(0, 0, self.next.saturating_sub(1), self.last_column)?;
        Ok(())
    }
}

/// A whole number as a cell holds it; what is beyond 2^53, which no count reaches, is rounded.
const fn exact(number: u64) -> f64 {
    number as f64
}

/// A time as days since the spreadsheet's epoch.
fn serial(time: Timestamp) -> f64 {
    time.millis() as f64 / DAY_MILLIS + EPOCH_DAY
}

/// The beginning of a text that fits a cell.
fn fitting(text: &str) -> String {
    let mut units = 0;
    let mut kept = String::with_capacity(text.len().min(CELL_UNITS_MAX));
    for c in text.chars() {
        units += c.len_utf16();
        if units > CELL_UNITS_MAX {
            kept.push('…');
            break;
        }
        kept.push(c);
    }
    kept
}

fn summary(report: &Report, mut sheet: Sheet<'_>) -> Result<(), XlsxError> {
    let source = &report.source;
    let whole = if source.anchored { "whole" } else { "unanchored" };
    let about: [(&str, Cell<'_>); 10] = [
        ("framework", report.framework.title.as_str().into()),
        ("installation", source.installation.as_str().into()),
        ("root_key", source.root_key.as_str().into()),
        ("server", source.server.as_deref().into()),
        ("from", report.begins().into()),
        ("to", report.ends().into()),
        ("made_at", report.made_at.into()),
        ("record_as_of", source.as_of.into()),
        ("verified", whole.into()),
        ("program", concat!("doorward ", env!("CARGO_PKG_VERSION")).into()),
    ];
    for (name, value) in about {
        sheet.row(["report".into(), name.into(), value])?;
    }
    for verdict in Verdict::ALL {
        let judged = report.framework.control.iter().filter(|control| report.verdict(control) == verdict).count();
        let count = u64::try_from(judged).unwrap_or(u64::MAX);
        sheet.row(["verdict".into(), verdict.words().into(), count.into(), verdict.meaning().into()])?;
    }
    let totals = &report.gathered.totals;
    for (name, count) in [
        ("events", totals.events),
        ("requests allowed", totals.allowed),
        ("requests refused", totals.refused),
        ("refusals counted only", totals.refused_counted),
        ("decisions lost", totals.lost),
        ("events pruned", totals.pruned),
        ("events with erased values", totals.erased),
    ] {
        sheet.row(["total".into(), name.into(), count.into()])?;
    }
    for log in &source.logs {
        let read = format!("{} {}: leaves {} to before {}, root {}", log.label, log.node, log.from, log.to, log.root);
        sheet.row(["log".into(), log.label.as_str().into(), log.size.into(), read.into()])?;
    }
    for limit in &report.gathered.limits {
        sheet.row(["limit".into(), Cell::Nothing, Cell::Nothing, limit.as_str().into()])?;
    }
    sheet.end()
}

fn controls(report: &Report, mut sheet: Sheet<'_>) -> Result<(), XlsxError> {
    for control in &report.framework.control {
        let populations: Vec<&str> = control.populations.iter().map(|it| it.name()).collect();
        let exceptions: Vec<&str> = control.exceptions.iter().map(|it| it.name()).collect();
        sheet.row([
            control.id.as_str().into(),
            control.title.as_str().into(),
            control.asks.as_str().into(),
            report.verdict(control).words().into(),
            report.occurrences(control).into(),
            report.weighing(control, Weight::Exception).into(),
            report.weighing(control, Weight::Notable).into(),
            populations.join(", ").into(),
            exceptions.join(", ").into(),
            control.gaps.join("\n").into(),
        ])?;
    }
    sheet.end()
}

/// Which controls name a thing, each thing once and in the framework's order.
fn named<T: Copy + Ord>(report: &Report, of: impl Fn(&Control) -> &Vec<T>) -> BTreeMap<T, String> {
    let mut named: BTreeMap<T, String> = BTreeMap::new();
    for control in &report.framework.control {
        for thing in of(control) {
            let controls = named.entry(*thing).or_default();
            if !controls.is_empty() {
                controls.push_str(", ");
            }
            controls.push_str(&control.id);
        }
    }
    named
}

fn populations(report: &Report, mut sheet: Sheet<'_>) -> Result<(), XlsxError> {
    for (population, controls) in &named(report, |control| &control.populations) {
        let counted = report.counted(*population);
        let (name, title) = (population.name(), population.title());
        sheet.row([
            name.into(),
            title.into(),
            "all".into(),
            counted.count.into(),
            counted.pruned.into(),
            counted.first.into(),
            counted.last.into(),
            Cell::Nothing,
            Cell::Nothing,
            counted.digest.as_str().into(),
            population.filter().into(),
            controls.as_str().into(),
        ])?;
        for (node, span) in &counted.spans {
            sheet.row([
                name.into(),
                title.into(),
                node.to_string().into(),
                span.count.into(),
                Cell::Nothing,
                Cell::Nothing,
                Cell::Nothing,
                span.first.into(),
                span.last.into(),
            ])?;
        }
    }
    sheet.end()
}

fn exceptions(report: &Report, mut sheet: Sheet<'_>) -> Result<(), XlsxError> {
    for (exception, controls) in &named(report, |control| &control.exceptions) {
        let found = report.found(*exception);
        let head = |row: &'static str, count: u64| -> [Cell<'_>; 5] {
            let (name, title, weight) = (exception.name(), exception.title(), exception.weight().word());
            [row.into(), name.into(), title.into(), weight.into(), count.into()]
        };
        let about = [Cell::Nothing, Cell::Nothing, exception.about().into()];
        let rest = std::iter::repeat_with(|| Cell::Nothing).take(7);
        let all = head("exceptions", found.count).into_iter().chain(about).chain(rest);
        sheet.row(all.chain([controls.as_str().into()]))?;
        for Row { event, note } in &found.rows {
            let [row, name, title, weight, _] = head("exception", 0);
            let cells = [row, name, title, weight, Cell::Nothing];
            match event {
                Some(cited) => sheet.row(cells.into_iter().chain(event_cells(report, cited, note)))?,
                None => sheet.row(cells.into_iter().chain([Cell::Nothing, Cell::Nothing, note.as_str().into()]))?,
            }
        }
    }
    sheet.end()
}

fn samples(report: &Report, mut sheet: Sheet<'_>) -> Result<(), XlsxError> {
    for population in named(report, |control| &control.populations).keys() {
        for cited in &report.counted(*population).sample {
            sheet.row([population.name().into()].into_iter().chain(event_cells(report, cited, "")))?;
        }
    }
    sheet.end()
}

/// What an event says of itself, in the order that both sheets have.
fn event_cells<'a>(report: &Report, cited: &'a Cited, note: &str) -> [Cell<'a>; 10] {
    let gap = if note.is_empty() || cited.what.is_empty() { "" } else { " · " };
    [
        cited.time.into(),
        cited.who.as_deref().into(),
        format!("{note}{gap}{}", cited.what).into(),
        cited.kind.name().into(),
        cited.outcome.name().into(),
        cited.log.to_string().into(),
        cited.index.into(),
        cited.id.as_deref().into(),
        cited.decision.as_deref().into(),
        report.source.proof_url(cited).into(),
    ]
}
