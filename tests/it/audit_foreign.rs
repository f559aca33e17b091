//! What is no evidence is no evidence that was altered either: `audit verify` says what it is and what to give.
//! What has anything of an export in it stays altered.

use std::fs;
use std::path::Path;
use std::process::Output;

use doorward::audit::evidence::Head;
use doorward::audit::filter::Filter;
use serde_json::json;

use crate::audit_report::{audit, exported, run as report, told};
use crate::support::temporary_folder;

fn verify(folder: &Path, arguments: &[&str]) -> Output {
    audit(folder, "verify", arguments)
}

#[track_caller]
fn ends(output: &Output, code: i32, part: &str) {
    let told = told(output);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(part), "{told}");
}

#[tokio::test]
async fn what_is_no_evidence_is_told_by_what_it_is() {
    let (text, key) = exported(&Filter::default()).await;
    let folder = temporary_folder();
    let dir = folder.path();
    fs::write(dir.join("record.jsonl"), &text).unwrap();
    for format in ["csv", "html", "xlsx", "oscal"] {
        let output = report(dir, &["--framework", "soc2", "--in", "record.jsonl", "--format", format, "--out", format]);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    }
    let head = Head::parse(text.lines().next().unwrap()).unwrap();
    fs::write(dir.join("checkpoints"), head.evidence.checkpoints.concat()).unwrap();
    fs::write(dir.join("ocsf"), "{\"class_uid\":6003,\"metadata\":{}}\n{\"class_uid\":6003,\"metadata\":{}}\n")
        .unwrap();
    fs::write(dir.join("items"), "{\n  \"items\": [],\n  \"next\": null\n}\n").unwrap();
    for (name, part) in [
        ("csv", "is a CSV"),
        ("html", "is an HTML page"),
        ("xlsx", "is a workbook"),
        ("oscal", "is JSON without evidence"),
        ("items", "is JSON without evidence"),
        ("ocsf", "is OCSF"),
        ("checkpoints", "which go with `--checkpoint`"),
    ] {
        ends(&verify(dir, &[name, "--key", &key]), 2, part);
    }
    for (name, part) in [("empty", "there is no `events.jsonl` in it"), ("door", "is an installation")] {
        fs::create_dir(dir.join(name)).unwrap();
        if name == "door" {
            fs::write(dir.join("door/doorward.toml"), "").unwrap();
        }
        ends(&verify(dir, &[name]), 2, part);
        ends(&report(dir, &["--framework", "soc2", "--in", name]), 2, part);
    }
    // A part of an export stays one.
    let lines: Vec<&str> = text.lines().collect();
    for (name, part) in [
        ("nothing", String::new()),
        ("no-head", lines[1..].join("\n") + "\n"),
        ("one-event", format!("{}\n", lines[1])),
        ("only-end", format!("{}\n", lines[lines.len() - 1])),
        ("half-head", lines[0][..lines[0].len() / 2].to_owned()),
        ("other-head", format!("{}\n", lines[0].replacen("evidence", "evidenze", 1))),
        ("words", "no record\n".to_owned()),
    ] {
        fs::write(dir.join(name), part).unwrap();
        ends(&verify(dir, &[name, "--key", &key]), 10, "altered");
    }
    fs::create_dir(dir.join("part")).unwrap();
    fs::write(dir.join("part/events.jsonl"), "").unwrap();
    ends(&verify(dir, &["part"]), 11, "manifest.json");
}

#[tokio::test]
async fn checkpoints_and_keys_are_taken_as_they_come_or_it_is_said_what_is_missing() {
    let (text, _) = exported(&Filter::default()).await;
    let folder = temporary_folder();
    let dir = folder.path();
    fs::write(dir.join("record.jsonl"), &text).unwrap();
    let notes = Head::parse(text.lines().next().unwrap()).unwrap().evidence.checkpoints;
    let items: Vec<_> = notes.iter().map(|note| json!({ "log": "x", "note": note })).collect();
    let each: String = items.iter().map(|item| format!("{item}\n")).collect();
    for (name, text) in [
        ("notes", notes.concat()),
        ("page", json!({ "items": items, "next": null }).to_string()),
        ("each", each.clone()),
        ("list", json!(items).to_string()),
    ] {
        fs::write(dir.join(name), text).unwrap();
        let output = verify(dir, &["record.jsonl", "--checkpoint", name]);
        ends(&output, 0, "");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(out.contains(&format!("{} witnessed checkpoints agree", notes.len())), "{name}: {out}");
    }
    for (name, text, code) in [
        ("nothing", String::new(), 2),
        ("words", "no checkpoint\n".to_owned(), 2),
        ("object", "{\"items\": []}".to_owned(), 2),
        ("cut", notes[0][..notes[0].len() - 2].to_owned(), 10),
        ("cut-json", each[..each.len() - 3].to_owned(), 10),
    ] {
        fs::write(dir.join(name), text).unwrap();
        let output = verify(dir, &["record.jsonl", "--checkpoint", name]);
        ends(&output, code, if code == 2 { "has no checkpoint in it" } else { "checkpoint" });
    }
    for named in ["root.key", "./a+b"] {
        ends(&verify(dir, &["record.jsonl", "--key", named]), 2, &format!("there is no file `{named}`"));
    }
    ends(&verify(dir, &["record.jsonl", "--key", "a+b+c"]), 2, "the root key can't be read");
}
