//! A report as one table for spreadsheets: each row says what it is in its first column.

use super::{Cited, Population, Report, Row};
use crate::audit::format::csv::line;

/// The names of the columns; new ones come last.
pub const HEADER: [&str; 16] = [
    "row",
    "control",
    "name",
    "title",
    "verdict",
    "weight",
    "count",
    "first",
    "last",
    "log",
    "first_index",
    "last_index",
    "event",
    "type",
    "actor",
    "detail",
];

/// One row, its columns by name.
#[derive(Default)]
struct Columns {
    row: &'static str,
    control: String,
    name: String,
    title: String,
    verdict: &'static str,
    weight: &'static str,
    count: String,
    first: String,
    last: String,
    log: String,
    first_index: String,
    last_index: String,
    event: String,
    kind: &'static str,
    actor: String,
    detail: String,
}

impl Columns {
    fn write(&self, out: &mut String) {
        out.push_str(&line([
            self.row,
            &*self.control,
            &*self.name,
            &*self.title,
            self.verdict,
            self.weight,
            &*self.count,
            &*self.first,
            &*self.last,
            &*self.log,
            &*self.first_index,
            &*self.last_index,
            &*self.event,
            self.kind,
            &*self.actor,
            &*self.detail,
        ]));
    }

    /// What an event says of itself.
    fn cited(self, cited: &Cited) -> Self {
        let index = cited.index.to_string();
        Self {
            first: cited.time.to_string(),
            last: cited.time.to_string(),
            log: cited.log.to_string(),
            first_index: index.clone(),
            last_index: index,
            event: cited.id.clone().unwrap_or_default(),
            kind: cited.kind.name(),
            actor: cited.who.clone().unwrap_or_default(),
            ..self
        }
    }
}

/// The whole report.
#[must_use]
pub fn write(report: &Report) -> String {
    let mut out = line(HEADER);
    about(report, &mut out);
    for control in &report.framework.control {
        Columns {
            row: "control",
            control: control.id.clone(),
            title: control.title.clone(),
            verdict: report.verdict(control).words(),
            count: report.occurrences(control).to_string(),
            detail: control.asks.clone(),
            ..Columns::default()
        }
        .write(&mut out);
        for population in &control.populations {
            of_population(report, &control.id, *population, &mut out);
        }
        for exception in &control.exceptions {
            let found = report.found(*exception);
            let row = || Columns {
                control: control.id.clone(),
                name: exception.name().to_owned(),
                title: exception.title().to_owned(),
                weight: exception.weight().word(),
                ..Columns::default()
            };
            let detail = exception.about().to_owned();
            Columns { row: "exceptions", count: found.count.to_string(), detail, ..row() }.write(&mut out);
            for Row { event, note } in &found.rows {
                let columns = Columns { row: "exception", detail: note.clone(), ..row() };
                match event {
                    Some(cited) => {
                        let gap = if note.is_empty() || cited.what.is_empty() { "" } else { " · " };
                        Columns { detail: format!("{note}{gap}{}", cited.what), ..columns.cited(cited) }
                            .write(&mut out);
                    }
                    None => columns.write(&mut out),
                }
            }
        }
        for gap in &control.gaps {
            let (control, detail) = (control.id.clone(), gap.clone());
            Columns { row: "gap", control, detail, ..Columns::default() }.write(&mut out);
        }
    }
    out
}

/// What the report is about and rests on.
fn about(report: &Report, out: &mut String) {
    let source = &report.source;
    let anchored = if source.anchored { "whole" } else { "unanchored" };
    let parts = [
        ("framework", report.framework.title.clone()),
        ("installation", source.installation.clone()),
        ("root_key", source.root_key.clone()),
        ("from", report.begins().to_string()),
        ("to", report.ends().to_string()),
        ("made_at", report.made_at.to_string()),
        ("record_as_of", source.as_of.to_string()),
        ("verified", anchored.to_owned()),
        ("program", concat!("doorward ", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    for (name, detail) in parts {
        Columns { row: "report", name: name.to_owned(), detail, ..Columns::default() }.write(out);
    }
    for limit in &report.gathered.limits {
        Columns { row: "limit", detail: limit.clone(), ..Columns::default() }.write(out);
    }
    for log in &source.logs {
        Columns {
            row: "log",
            name: log.label.clone(),
            log: log.node.to_string(),
            count: log.size.to_string(),
            first_index: log.from.to_string(),
            last_index: log
                .to
                .checked_sub(1)
                .filter(|last| *last >= log.from)
                .map_or_else(String::new, |last| last.to_string()),
            detail: format!("root {}", log.root),
            ..Columns::default()
        }
        .write(out);
    }
}

fn of_population(report: &Report, control: &str, population: Population, out: &mut String) {
    let counted = report.counted(population);
    let row = |row| Columns {
        row,
        control: control.to_owned(),
        name: population.name().to_owned(),
        title: population.title().to_owned(),
        ..Columns::default()
    };
    let time = |time: Option<crate::model::Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    Columns {
        count: counted.count.to_string(),
        first: time(counted.first),
        last: time(counted.last),
        detail: format!("sha256 of leaf hashes {}", counted.digest),
        ..row("population")
    }
    .write(out);
    for (node, span) in &counted.spans {
        Columns {
            count: span.count.to_string(),
            log: node.to_string(),
            first_index: span.first.to_string(),
            last_index: span.last.to_string(),
            ..row("population_in_log")
        }
        .write(out);
    }
    for cited in &counted.sample {
        Columns { detail: cited.what.clone(), ..row("sample").cited(cited) }.write(out);
    }
}
