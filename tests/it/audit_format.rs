//! The forms of an export: CSV, CEF and OCSF, each with what would break it (A62, A65).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use doorward::audit::format::{Entry, ReadLine, cef, csv, ocsf};
use doorward::audit::line::line_of;
use doorward::audit::{Event, EventType, Leaf, Outcome, Sealed};
use doorward::model::{EventId, NodeId, Principal};
use serde_json::Value;

use crate::leaf::{decision, sealing};

fn with_entry<T>(sealed: &Sealed, form: impl Fn(&Entry<'_>) -> T) -> T {
    let body: Value = serde_json::from_str(sealed.body()).unwrap();
    form(&Entry { log: &NodeId::from_bytes([1; 16]), seq: Some(7), sealed, body: &body })
}

/// Reads RFC 4180 by its grammar, one record.
fn fields(line: &str) -> Vec<String> {
    let line = line.strip_suffix("\r\n").expect("a record ends with CRLF");
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => quoted = !quoted,
            (',', false) => fields.push(std::mem::take(&mut field)),
            (character, _) => field.push(character),
        }
    }
    assert!(!quoted, "every quote is closed: {line}");
    fields.push(field);
    fields
}

#[test]
fn a62_no_field_of_csv_is_a_formula_and_every_field_comes_back() {
    for (path, cell) in [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1", "'+1"),
        ("-2", "'-2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("  =1", "'  =1"),
        ("/a,\"b\"\r\nc", "/a,\"b\"\r\nc"),
        ("/plain", "/plain"),
    ] {
        let row = with_entry(&sealing(1).seal(&decision(1, path)), csv::row);
        let fields = fields(&row);
        assert_eq!(fields.len(), csv::HEADER.len());
        assert_eq!(fields[csv::HEADER.iter().position(|name| *name == "path").unwrap()], cell);
        assert!(fields.iter().all(|field| !field.starts_with(['=', '+', '-', '@', '\t', '\r'])), "{row}");
    }
    assert_eq!(fields(&csv::header()), csv::HEADER);
}

#[test]
fn a62_a_cef_event_is_one_line_with_its_signs_escaped() {
    let line = with_entry(&sealing(1).seal(&decision(1, "/a=b\\c|d\nCEF:0|x\u{1b}[2J")), cef::line);
    assert!(line.starts_with("CEF:0|Doorward|doorward|"), "{line}");
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(line.contains(r"request=/a\=b\\c|d\nCEF:0|x [2J"), "{line}");
    assert!(line.contains("src=192.0.2.7") && line.contains("cn1=7"), "{line}");
}

/// An event of each type: bare, and with everything that an event can have.
pub fn every_kind() -> Vec<Sealed> {
    let mut all = Vec::new();
    for kind in EventType::ALL {
        for outcome in [Outcome::Success, Outcome::Denied, Outcome::Failed] {
            let whole = decision(1, "/status");
            all.push(sealing(1).seal(&Event::new(EventId::from_bytes([2; 16]), whole.time, *kind, outcome)));
            let mut whole =
                whole.with("status", 200).with("duration_ms", 12).with("entitlement", "ops-api/deploy-prod");
            (whole.kind, whole.outcome) = (*kind, outcome);
            whole.subject = Principal::user("dev", "bob");
            whole.reason = Some("no_policy_match".into());
            all.push(sealing(1).seal(&whole));
        }
    }
    all
}

/// The interpreter that has validators, which `tests/run` installs; without it, `undone` is said.
pub fn python(undone: &str) -> Option<PathBuf> {
    let python = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
        .join("tools/audit-venv/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("DOORWARD_TEST_REQUIRE_FORMATS").is_none(), "{} is missing", python.display());
    eprintln!("{} is missing: {undone}; tests/run installs it", python.display());
    None
}

#[test]
fn a65_every_type_is_valid_ocsf() {
    let Some(python) = python("OCSF was not checked against its schemas") else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ocsf/validate.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let events = every_kind();
    for sealed in &events {
        writeln!(input, "{}", with_entry(sealed, ocsf::line)).unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert!(told.contains(&format!("{} events", events.len())), "{told}");
}

#[test]
fn a65_a_line_of_an_export_tells_the_same_in_every_form() {
    let log = NodeId::from_bytes([1; 16]);
    for (seq, sealed) in (0..).zip(every_kind()) {
        let leaf = sealed.leaf(&log, seq);
        let text = String::from_utf8(leaf.clone()).unwrap();
        let line = line_of(&text, &Leaf::parse(&leaf).unwrap(), &sealed);
        let read = ReadLine::parse(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
        let body: serde_json::Value = serde_json::from_str(sealed.body()).unwrap();
        let straight = Entry { log: &log, seq: Some(seq), sealed: &sealed, body: &body };
        assert_eq!(csv::row(&read.entry()), csv::row(&straight));
        assert_eq!(ocsf::line(&read.entry()), ocsf::line(&straight));
        assert_eq!(cef::line(&read.entry()), cef::line(&straight));
    }
}
