//! The workbook of a report, read back by a program that reads spreadsheets and is not ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use doorward::audit::report::{Exception, FrameworkName, Population, Report, xlsx};
use serde_json::Value;

use crate::audit_report::{exported, hostile, run, told};
use crate::support::temporary_folder;

/// What openpyxl makes of the bytes; none where it is not there and need not be.
fn read(bytes: &[u8]) -> Option<Value> {
    let python = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
        .join("tools/audit-venv/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("DOORWARD_TEST_REQUIRE_FORMATS").is_none(), "{} is missing", python.display());
        eprintln!("{} is missing: the workbook was not read back; tests/run installs it", python.display());
        return None;
    }
    let folder = temporary_folder();
    let file = folder.path().join("report.xlsx");
    std::fs::write(&file, bytes).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workbook/read.py");
    let output = Command::new(python).arg(script).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// The cells under a header in rows whose first columns are `start`.
fn under<'a>(sheet: &'a Value, header: &str, start: &[&str]) -> Vec<&'a Value> {
    let rows = sheet["rows"].as_array().unwrap();
    let column = rows[0].as_array().unwrap().iter().position(|cell| cell["value"] == header).unwrap();
    let chosen =
        rows.iter().skip(1).filter(|row| (0..).zip(start).all(|(at, text): (usize, _)| row[at]["value"] == **text));
    chosen.map(|row| &row[column]).collect()
}

fn workbook(report: &Report) -> Option<Value> {
    read(&xlsx::write(report).unwrap())
}

#[test]
fn a_workbook_has_frozen_filtered_sheets_with_the_numbers_and_times_of_the_report() {
    let report = hostile().report(FrameworkName::Soc2);
    let Some(book) = workbook(&report) else { return };
    let names: Vec<_> = book.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in ["Summary", "Controls", "Populations", "Exceptions", "Samples"] {
        let sheet = &book[name];
        let rows = sheet["rows"].as_array().unwrap();
        assert!(rows.len() > 1, "{name}");
        assert_eq!(sheet["frozen"], "A2", "{name}");
        let filter = sheet["filter"].as_str().unwrap();
        assert!(filter.starts_with("A1:") && filter.ends_with(&rows.len().to_string()), "{name}: {filter}");
        assert!(sheet["width"].as_f64().unwrap() > 9.0, "{name}");
    }
    let controls = &book["Controls"];
    assert_eq!(controls["rows"].as_array().unwrap().len() - 1, report.framework.control.len());
    for control in &report.framework.control {
        let events = under(controls, "events", &[&control.id]);
        assert_eq!(
            (events[0]["type"].as_str(), events[0]["value"].as_u64()),
            (Some("n"), Some(report.occurrences(control)))
        );
        assert_eq!(under(controls, "verdict", &[&control.id])[0]["value"], report.verdict(control).words());
    }
    let decisions = report.counted(Population::Decisions);
    let sheet = &book["Populations"];
    assert_eq!(under(sheet, "count", &["decisions"])[0]["value"].as_u64(), Some(decisions.count));
    assert_eq!(under(sheet, "sha256", &["decisions"])[0]["value"], decisions.digest);
    assert_eq!(under(sheet, "first", &["decisions"])[0]["value"], decisions.first.unwrap().to_string());
    assert_eq!(under(sheet, "filter", &["decisions"])[0]["value"], Population::Decisions.filter());
    let span = decisions.spans.values().next().unwrap();
    assert_eq!(under(sheet, "last_index", &["decisions"])[1]["value"].as_u64(), Some(span.last));
    let sheet = &book["Exceptions"];
    let unused = report.found(Exception::UnusedGrants);
    assert_eq!(under(sheet, "count", &["exceptions", "unused_grants"])[0]["value"].as_u64(), Some(unused.count));
    let cited = unused.rows[0].event.as_ref().unwrap();
    let start = ["exception", "unused_grants"];
    assert_eq!(under(sheet, "time", &start)[0]["value"], cited.time.to_string());
    assert_eq!(under(sheet, "index", &start)[0]["value"].as_u64(), Some(cited.index));
    assert_eq!(under(sheet, "event", &start)[0]["value"].as_str(), cited.id.as_deref());
    assert_eq!(under(sheet, "proof", &start)[0]["value"].as_str(), report.source.proof_url(cited).as_deref());
}

#[test]
fn no_cell_of_a_workbook_is_a_formula_or_a_link_whatever_names_begin_with() {
    for name in FrameworkName::ALL {
        let Some(book) = workbook(&hostile().report(name)) else { return };
        let mut dangerous = 0;
        for (sheet, content) in book.as_object().unwrap() {
            for cell in content["rows"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()) {
                assert_ne!(cell["type"], "f", "{sheet}: {cell}");
                assert_eq!(cell["link"], false, "{sheet}: {cell}");
                let text = cell["value"].as_str().filter(|_| cell["type"] == "s").unwrap_or_default();
                if text.starts_with(['=', '+', '-', '@']) {
                    assert_eq!(cell["quoted"], true, "{sheet}: {cell}");
                    dangerous += 1;
                }
            }
        }
        assert!(dangerous > 0, "{name:?}: nothing begins as a formula would, so nothing was tried");
    }
}

#[test]
fn the_same_report_gives_the_same_workbook() {
    let report = hostile().report(FrameworkName::Hipaa);
    assert_eq!(xlsx::write(&report).unwrap(), xlsx::write(&report).unwrap());
}

#[tokio::test]
async fn the_command_writes_a_workbook_to_a_file_and_to_a_pipe() {
    let (text, key) = exported(&doorward::audit::filter::Filter::default()).await;
    let folder = temporary_folder();
    std::fs::write(folder.path().join("record.jsonl"), text).unwrap();
    let args = ["--framework", "soc2", "--in", "record.jsonl", "--key", &key, "--format", "xlsx"];
    let output = run(folder.path(), &[&args[..], &["--out", "report.xlsx"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let bytes = std::fs::read(folder.path().join("report.xlsx")).unwrap();
    assert!(bytes.starts_with(b"PK\x03\x04"));
    if let Some(book) = read(&bytes) {
        assert_eq!(under(&book["Summary"], "value", &["report", "verified"])[0]["value"], "whole");
    }
    let piped = run(folder.path(), &args);
    assert_eq!(piped.status.code(), Some(0), "{}", told(&piped));
    assert!(piped.stdout.starts_with(b"PK\x03\x04"));
}
