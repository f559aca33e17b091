//! An export that breaks off goes on where it broke off, and comes out as one that did not; or it says why
//! it can't.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use doorward::audit::filter::{Filter, FilterText};
use doorward::cli::args::Format;
use doorward::cli::audit::{AuditCommand, ExportArgs, ExportFormat, FilterArgs, run};
use doorward::cli::exit::Exit;
use doorward::cli::failure::Failure;
use doorward::cli::progress::line;
use doorward::model::Ttl;
use http::Response;
use http_body_util::Full;

use super::Person;
use super::fake_door::{FakeDoor, Reply, Seen};
use super::renewal::sign_in;
use crate::audit_report::exported;

const FORMS: [ExportFormat; 5] =
    [ExportFormat::Jsonl, ExportFormat::Evidence, ExportFormat::Csv, ExportFormat::Ocsf, ExportFormat::Cef];

/// The answer of a door whose record is `text`; of it only the first `cut` bytes.
fn answer(text: &str, seen: &Seen, cut: Option<usize>) -> Reply {
    let lines: Vec<&str> = text.lines().collect();
    let whole = match seen.value("rest") {
        None => text.to_owned(),
        Some(rest) => {
            let (from, to) = rest.split_once(':').unwrap().1.split_once('-').unwrap();
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            let events = lines[1 + from..=to].join("\n");
            format!("{events}\n{{\"end\":{{\"lines\":{}}}}}\n", to - from)
        }
    };
    let bytes = whole.into_bytes();
    let cut = cut.unwrap_or(bytes.len()).min(bytes.len());
    Response::new(Full::new(Bytes::copy_from_slice(&bytes[..cut])))
}

async fn export(person: Person, format: ExportFormat, out: &str, resume: bool) -> (Person, Result<(), Failure>) {
    let out = Some(person.home.path().join(out));
    let args = ExportArgs { filter: FilterArgs::default(), format, out, resume };
    asked(person, args).await
}

async fn asked(person: Person, args: ExportArgs) -> (Person, Result<(), Failure>) {
    let task = move || {
        let outcome = run(&person.context, AuditCommand::Export(args));
        (person, outcome)
    };
    tokio::task::spawn_blocking(task).await.unwrap()
}

/// Every file of an export, by name.
fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    if path.is_file() {
        return vec![(String::new(), fs::read(path).unwrap())];
    }
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    let entries: Vec<fs::DirEntry> = fs::read_dir(path).unwrap().map(Result::unwrap).collect();
    let mut files: Vec<_> = entries.iter().map(|entry| (name(entry), fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_broke_off_goes_on_and_comes_out_as_one_that_did_not() {
    let (text, _) = exported(&Filter::default()).await;
    let text: &'static str = text.leak();
    // Each answer is cut somewhere else: within the head, behind it, within events, before the last line.
    let head = text.find('\n').unwrap() + 1;
    let cuts = [head + 10, 2500, 3000, 1, text.len() / 3];
    for format in FORMS {
        let turn = Mutex::new(0);
        let door = FakeDoor::open(move |seen| {
            let mut turn = turn.lock().unwrap();
            *turn += 1;
            // The first answer is whole, for what is compared with; then they are cut, until no cut is left.
            answer(text, seen, if *turn == 1 { None } else { cuts.get(*turn - 2).copied() })
        })
        .await;
        let person = Person::with(&door, Format::Table);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let home = person.home.path().to_owned();
        let (mut person, outcome) = export(person, format, "whole", false).await;
        assert!(outcome.is_ok(), "{format:?}: {outcome:?}");
        let mut resumed = 0;
        loop {
            let (back, outcome) = export(person, format, "part", resumed > 0).await;
            person = back;
            match outcome {
                Ok(()) => break,
                Err(failure) => {
                    assert_eq!(failure.exit, Exit::Failed, "{failure:?}");
                    assert!(failure.lines().concat().contains("go on with the same command and `--resume`"));
                    assert!(home.join("part.partial").exists() && !home.join("part").exists());
                    // A crash leaves more behind than the last mark speaks of.
                    let data = match format {
                        ExportFormat::Evidence => home.join("part.partial/events.jsonl"),
                        _ => home.join("part.partial"),
                    };
                    let mut bytes = fs::read(&data).unwrap();
                    bytes.extend_from_slice(b"{\"id\":\"half a li");
                    fs::write(&data, bytes).unwrap();
                    let state = home.join("part.state");
                    let mut bytes = fs::read(&state).unwrap();
                    bytes.extend_from_slice(b"{\"lines\":9");
                    fs::write(&state, bytes).unwrap();
                }
            }
            resumed += 1;
        }
        assert_eq!(resumed, cuts.len(), "{format:?}");
        assert_eq!(files(&home.join("part")), files(&home.join("whole")), "{format:?}");
        assert!(!home.join("part.partial").exists() && !home.join("part.state").exists());
        let asked: Vec<String> = door.seen().iter().filter_map(|seen| seen.value("rest")).collect();
        assert_eq!(asked.len(), cuts.len());
        assert!(person.talk.text().contains("are there; going on"), "{}", person.talk.text());
        let (_, outcome) = export(person, format, "part", true).await;
        assert!(outcome.unwrap_err().lines().concat().contains("there is nothing to resume"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_go_on_says_why_and_changes_nothing() {
    let (text, _) = exported(&Filter::default()).await;
    let text: &'static str = text.leak();
    for format in FORMS {
        let door = FakeDoor::open(move |seen| match seen.value("rest") {
            // What another installation, or an older copy of this one, answers.
            Some(_) => super::fake_door::json_reply(
                400,
                &serde_json::json!({ "type": "x", "title": "x", "status": 400, "reason": "invalid",
                    "detail": "the export that broke off is of a log that this installation does not have" }),
            ),
            None => answer(text, seen, Some(text.len() / 2)),
        })
        .await;
        let person = Person::with(&door, Format::Table);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let home = person.home.path().to_owned();
        let (mut person, outcome) = export(person, format, "part", false).await;
        assert_eq!(outcome.unwrap_err().exit, Exit::Failed);
        let (partial, state) = (home.join("part.partial"), home.join("part.state"));
        let data = if format == ExportFormat::Evidence { partial.join("events.jsonl") } else { partial.clone() };
        let (kept, kept_state) = (fs::read(&data).unwrap(), fs::read(&state).unwrap());
        let other = if format == ExportFormat::Csv { ExportFormat::Cef } else { ExportFormat::Csv };

        let again = ExportArgs { filter: FilterArgs::default(), format, out: Some(home.join("part")), resume: false };
        let filtered = FilterArgs { service: Some("ops-api".to_owned()), ..FilterArgs::default() };
        let cases = [
            (again.clone(), "go on with it by `--resume`, or remove it"),
            (ExportArgs { resume: true, filter: filtered, ..again.clone() }, "begun with another filter"),
            (ExportArgs { resume: true, format: other, ..again.clone() }, "form"),
            (ExportArgs { resume: true, ..again.clone() }, "of a log that this installation does not have"),
        ];
        for (args, part) in cases {
            let (back, outcome) = asked(person, args).await;
            person = back;
            let failure = outcome.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{format:?}: {failure:?}");
            let told = failure.lines().concat();
            assert!(told.contains(part) || (part == "form" && told.contains("--format")), "{format:?}: {told}");
            assert_eq!(fs::read(&data).unwrap(), kept, "{format:?}: {part}");
        }
        // One byte that is another, one that is missing, and a state that is none.
        let resume = ExportArgs { resume: true, ..again };
        let mut other = kept.clone();
        let at = other.len() / 2;
        other[at] ^= 1;
        for changed in [&other[..], &kept[..kept.len() - 1]] {
            fs::write(&data, changed).unwrap();
            let (back, outcome) = asked(person, resume.clone()).await;
            person = back;
            let failure = outcome.unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.lines().concat().contains("was altered since it was written"), "{failure:?}");
        }
        fs::write(&data, &kept).unwrap();
        let first = kept_state.iter().position(|byte| *byte == b'\n').unwrap();
        for changed in [&kept_state[..0], &kept_state[..=first], b"{}\n{}\n"] {
            fs::write(&state, changed).unwrap();
            let (back, outcome) = asked(person, resume.clone()).await;
            person = back;
            assert!(outcome.unwrap_err().lines().concat().contains("begin anew"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_together_from_two_records_gets_no_name() {
    let (text, _) = exported(&Filter::default()).await;
    let text: &'static str = text.leak();
    // A line that is good by itself, and was another when the export began: one whose content was pruned since.
    let door = FakeDoor::open(move |seen| match seen.value("rest") {
        Some(_) => {
            let lines: Vec<&str> = text.lines().collect();
            let swapped = text.replacen(lines[lines.len() - 2], lines[lines.len() - 3], 1);
            answer(&swapped, seen, None)
        }
        None => answer(text, seen, Some(text.len() / 2)),
    })
    .await;
    for format in [ExportFormat::Jsonl, ExportFormat::Evidence] {
        let person = Person::with(&door, Format::Table);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let home = person.home.path().to_owned();
        let (person, outcome) = export(person, format, "part", false).await;
        assert!(outcome.is_err());
        let (_, outcome) = export(person, format, "part", true).await;
        let told = outcome.unwrap_err().lines().concat();
        assert!(told.contains("does not prove itself") && told.contains("altered: event "), "{told}");
        assert!(!home.join("part").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_left_out_is_not_counted_as_what_matches() {
    let parse = |service: Option<&str>| {
        let text = FilterText { service: service.map(str::to_owned), ..FilterText::default() };
        Filter::parse(&text).unwrap()
    };
    let (all, none) = (exported(&parse(None)).await.0, exported(&parse(Some("nope"))).await.0);
    let events = all.lines().count() - 2;
    for (text, service, format, expected) in [
        (all.clone(), None, ExportFormat::Jsonl, format!("{events} events are in")),
        (none.clone(), Some("nope"), ExportFormat::Jsonl, "0 events match and are in".to_owned()),
        (none.clone(), Some("nope"), ExportFormat::Evidence, format!("; {events} more are there only as clear parts")),
        (none.clone(), Some("nope"), ExportFormat::Csv, "0 events match and are in".to_owned()),
    ] {
        let door = FakeDoor::open(move |seen| answer(&text, seen, None)).await;
        let person = Person::with(&door, Format::Table);
        sign_in(&person, &door, Ttl::hours(1), "one");
        let filter = FilterArgs { service: service.map(str::to_owned), ..FilterArgs::default() };
        let out = Some(person.home.path().join("out"));
        let (person, outcome) = asked(person, ExportArgs { filter, format, out, resume: false }).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        let told = person.talk.text();
        assert!(told.contains(&expected), "{format:?}: {told}");
        assert_eq!(told.contains("more"), service.is_some() && format != ExportFormat::Csv, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dash_is_standard_output_and_a_period_has_time_in_it() {
    let (text, _) = exported(&Filter::default()).await;
    let text: &'static str = text.leak();
    let door = FakeDoor::open(move |seen| answer(text, seen, None)).await;
    let mut person = Person::with(&door, Format::Table);
    sign_in(&person, &door, Ttl::hours(1), "one");
    let dash =
        ExportArgs { filter: FilterArgs::default(), format: ExportFormat::Jsonl, out: Some("-".into()), resume: false };
    let early = FilterArgs {
        from: Some("2026-11-22T10:00:00Z".to_owned()),
        to: Some("2026-11-22T10:00:00Z".to_owned()),
        ..FilterArgs::default()
    };
    for (args, part) in [
        (ExportArgs { format: ExportFormat::Evidence, ..dash.clone() }, "evidence is a folder"),
        (ExportArgs { resume: true, ..dash.clone() }, "standard output can't be resumed"),
        (ExportArgs { filter: early, ..dash.clone() }, "the period is empty"),
    ] {
        let (back, outcome) = asked(person, args).await;
        person = back;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{part}");
        assert!(failure.lines().concat().contains(part), "{failure:?}");
        assert_eq!(person.out.text(), "");
    }
    let (person, outcome) = asked(person, dash).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    assert_eq!(person.out.text(), text);
    assert!(!Path::new("-").exists());
}

#[test]
fn progress_says_how_far_and_how_fast() {
    assert_eq!(line("verifying", 420_000, 1_000_000, 2000), "verifying: 420000 of 1000000 events (42 %), 210000/s");
    assert_eq!(line("exporting", 0, 0, 0), "exporting: 0 of 0 events (100 %), 0/s");
}
