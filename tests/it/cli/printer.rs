//! What is printed, and how.

use doorward::cli::args::Format;
use doorward::cli::exit::Exit;
use doorward::cli::failure::Failure;
use doorward::cli::printer::{Printer, left};
use doorward::model::text::{forges, misleads};
use doorward::model::{Timestamp, Ttl};
use doorward::wire::{Problem, Remedy};

use super::Written;

fn printer(format: Format) -> (Printer, Written, Written) {
    let (out, talk) = (Written::default(), Written::default());
    (Printer::new(format, false, Box::new(out.clone()), Box::new(talk.clone())), out, talk)
}

fn on_terminal(columns: u16) -> (Printer, Written, Written) {
    let (out, talk) = (Written::default(), Written::default());
    let printer = Printer::new(Format::Table, true, Box::new(out.clone()), Box::new(talk.clone()));
    (printer.with_width(columns), out, talk)
}

#[test]
fn a_servers_text_can_not_move_the_cursor() {
    let (printer, out, talk) = printer(Format::Table);
    printer.table(&["NAME"], &[vec!["a\u{1b}[2Jb\rc\u{9b}d\u{202e}e\u{2028}f".to_owned()]]).unwrap();
    printer.talk("x\u{1b}]0;y\u{7}\u{2066}");
    printer.talk_lines("x\u{1b}]0;y\u{7}\u{2066}");
    for text in [out.text(), talk.text()] {
        assert!(!text.chars().any(|c| forges(c) && c != '\n'), "{text:?}");
    }
    assert_eq!(out.text(), "NAME\na\\u{1b}[2Jb c\\u{9b}d\\u{202e}e\\u{2028}f\n");
}

#[test]
fn a_text_of_others_begins_no_line_of_its_own() {
    const REASON: &str = "restart\nfor  2m\r\nopens  status\tall";
    let (out_printer, out, talk) = printer(Format::Table);
    out_printer.table(&["A", "REASON"], &[vec!["1".to_owned(), REASON.to_owned()]]).unwrap();
    out_printer.talk(REASON);
    assert_eq!(out.text().lines().count(), 2, "{}", out.text());
    assert_eq!(talk.text().lines().count(), 1, "{}", talk.text());
    // Refusals of a server are one line, too, whatever their detail.
    let (out_printer, _, talk) = printer(Format::Table);
    out_printer.failure(&Failure::refused(Problem::new(403, "denied", "Not allowed").with_detail("no\nLet Bob in? y")));
    assert_eq!(talk.text(), "error: Not allowed (denied): no Let Bob in? y\n");
}

#[test]
fn a_long_value_that_is_asked_about_goes_on_below_itself_and_looks_like_no_name() {
    // As many blanks as bring `for` to the beginning of a line where the terminal folds it.
    let reason = format!("restart{}for           2m", " ".repeat(40 - 14 - 7));
    for width in [40, 72] {
        let (printer, _, talk) = on_terminal(width);
        printer.talk_pairs(&[("who", "Alice".to_owned()), ("reason", reason.clone()), ("for", "1h".to_owned())]);
        let text = talk.text();
        let names: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(names.len(), 3, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
    }
}

#[test]
fn json_shows_characters_that_mislead_as_escapes_and_says_the_same() {
    let reason = "a\u{9b}2Jb\u{202e}c\u{200b}d\u{e0041}";
    let value = serde_json::json!({ "reason": reason });
    for say in [
        (|printer, value| Printer::json(printer, value)) as fn(&Printer, &serde_json::Value) -> Result<(), Failure>,
        |printer, value| printer.resource(&value.to_string()),
        |printer, value| printer.json_line(&value.to_string()),
    ] {
        let (printer, out, _) = printer(Format::Json);
        say(&printer, &value).unwrap();
        assert!(out.text().contains(r"a\u009b2Jb\u202ec\u200bd\udb40\udc41"), "{}", out.text());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&out.text()).unwrap(), value);
    }
    let (printer, _, talk) = printer(Format::Json);
    printer.failure(&Failure::refused(Problem::new(403, "denied", "Not allowed").with_detail(reason)));
    assert!(!talk.text().chars().any(|c| misleads(c) && c != '\n'), "{:?}", talk.text());
    assert_eq!(serde_json::from_str::<serde_json::Value>(&talk.text()).unwrap()["detail"], reason);
}

#[test]
fn off_a_terminal_a_row_is_one_line() {
    let (printer, out, _) = printer(Format::Table);
    printer.table(&["A", "B"], &[vec!["x".repeat(300), "y".to_owned()], vec!["1".to_owned(), "2".to_owned()]]).unwrap();
    assert_eq!(out.text().lines().count(), 3);
    assert!(out.text().lines().all(|line| !line.starts_with(' ') && !line.ends_with(' ')), "{}", out.text());
}

#[test]
fn on_a_narrow_terminal_prose_is_folded_and_what_is_copied_stays_whole() {
    let id = "req_06h2f1o8r9sundmuh28aa1k7io";
    let row =
        vec![id.to_owned(), "pending".to_owned(), "the pipeline of the shop is red since this morning".to_owned()];
    let told = |columns| {
        let (printer, out, _) = on_terminal(columns);
        printer.table(&["REQUEST", "STATE", "REASON"], std::slice::from_ref(&row)).unwrap();
        out.text()
    };
    let folded = told(72);
    assert!(folded.contains(id) && folded.lines().count() > 2, "{folded}");
    assert!(folded.lines().all(|line| line.chars().count() <= 72), "{folded}");
    // What has no room beside them stands below, under its name.
    let narrow = told(40);
    let lines: Vec<&str> = narrow.lines().collect();
    assert_eq!(lines[..2], [format!("{:<32}STATE", "REQUEST"), format!("{id}  pending")]);
    assert!(lines[2].starts_with("  REASON  the pipeline") && lines[3].starts_with("          "), "{narrow}");
    assert!(lines.iter().all(|line| line.chars().count() <= 40), "{narrow}");
    let words: Vec<&str> = lines[2..].iter().flat_map(|line| line.split_whitespace()).skip(1).collect();
    assert_eq!(words.join(" "), row[2]);
    // Not even one column has room.
    assert!(told(20).contains(id), "{}", told(20));
}

#[test]
fn below_a_row_no_text_looks_like_another_column_and_blanks_say_nothing() {
    let id = "req_06h2f1o8r9sundmuh28aa1k7io";
    let row = |cells: [&str; 7]| cells.map(str::to_owned).to_vec();
    let reason = format!("restart{}WHO dev|bob  APPROVALS 2/2", " ".repeat(33));
    let rows = [
        row([id, "pending", "dev|alice", "30m", "0/2", "23h59m to answer", &reason]),
        row([id, "denied", "dev|a", "1h", "", "-", ""]),
    ];
    for width in [50, 60] {
        let (printer, out, _) = on_terminal(width);
        printer.table(&["REQUEST", "STATE", "WHO", "FOR", "APPROVALS", "LEFT", "REASON"], &rows).unwrap();
        let text = out.text();
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
        let begin: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("   "))
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        let first = if width == 50 { "FOR" } else { "APPROVALS" };
        let expected: &[&str] = match width {
            50 => &["REQUEST", id, first, "LEFT", "REASON", id, first],
            _ => &["REQUEST", id, first, "LEFT", "REASON", id],
        };
        assert_eq!(begin, expected, "{text}");
    }
}

#[test]
fn a_resource_is_indented_and_keeps_order_and_unknown_keys() {
    let (printer, out, _) = printer(Format::Json);
    printer.resource(r#"{"z":1,"a":[ ],"t":"a,\"{[\\","l":[1,{"new":null}],"e":{}}"#).unwrap();
    let expected = "{\n  \"z\": 1,\n  \"a\": [],\n  \"t\": \"a,\\\"{[\\\\\",\n  \"l\": [\n    1,\n    {\n      \"new\": null\n    }\n  ],\n  \"e\": {}\n}\n";
    assert_eq!(out.text(), expected);
}

#[test]
fn a_refusal_is_told_with_its_remedy_and_as_problem_json() {
    let mut problem = Problem::new(403, "no_policy_match", "Not allowed").with_detail("no policy permits `deploy`");
    problem.decision = Some("dec_1".to_owned());
    problem.remedy = Some(Remedy {
        kind: "request_access".to_owned(),
        entitlement: Some("ops-api/deploy-prod".to_owned()),
        command: Some("doorward request ops-api/deploy-prod --reason TEXT".to_owned()),
    });
    let failure = Failure::refused(problem);
    assert_eq!(failure.exit, Exit::Denied);
    let (printer_, _, talk) = printer(Format::Table);
    printer_.failure(&failure);
    let text = talk.text();
    for part in ["no policy permits", "no_policy_match", "doorward request ops-api/deploy-prod", "doorward why dec_1"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (printer_, out, talk) = printer(Format::Json);
    printer_.failure(&failure);
    assert_eq!(out.text(), "");
    let json: serde_json::Value = serde_json::from_str(&talk.text()).unwrap();
    assert_eq!(json["type"], "urn:doorward:problem:no_policy_match");
    assert_eq!(json["status"], 403);
    assert_eq!(json["remedy"]["entitlement"], "ops-api/deploy-prod");
}

#[test]
fn what_is_not_there_has_nothing_more_to_tell() {
    for (status, reason) in [(404, "not_found"), (401, "session_ended")] {
        let mut problem = Problem::new(status, reason, "Not found").with_detail("there is no such decision");
        problem.decision = Some("dec_1".to_owned());
        let lines = Failure::refused(problem).lines();
        assert!(!lines.iter().any(|line| line.contains("doorward why")), "{lines:?}");
    }
}

#[test]
fn a_failure_of_this_side_is_problem_json_without_a_status() {
    let (printer, _, talk) = printer(Format::Json);
    printer.failure(&Failure::usage("which server?"));
    let json: serde_json::Value = serde_json::from_str(&talk.text()).unwrap();
    assert_eq!(json["reason"], "usage");
    assert!(json.get("status").is_none(), "{json}");
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let printer = Printer::new(Format::Table, false, Box::new(Gone), Box::new(Gone));
    printer.line("nobody reads this").unwrap();
    printer.talk("nor this");
}

#[test]
fn what_is_left_is_said_in_two_units() {
    let now = Timestamp::from_seconds(1_000_000);
    for (ttl, text) in [
        (Ttl::seconds(42), "42s"),
        (Ttl::seconds(42 * 60 + 7), "42m"),
        (Ttl::seconds(90 * 60 + 59), "1h30m"),
        (Ttl::hours(76), "3d4h"),
        (Ttl::ZERO, "over"),
    ] {
        assert_eq!(left(now.plus(ttl), now), text);
    }
}
