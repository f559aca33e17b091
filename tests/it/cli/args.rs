//! The command line as it is read.

use std::ffi::OsString;

use clap::{CommandFactory, Parser};
use doorward::cli::args::{Arguments, Command, Format, raw_arguments};

fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
    let line = std::iter::once("doorward").chain(line.iter().copied()).map(OsString::from);
    Arguments::try_parse_from(raw_arguments(line))
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn wrong_usage_ends_with_two_and_help_with_zero() {
    let table: &[(&[&str], i32)] = &[
        (&[], 2),
        (&["approve"], 2),
        (&["whoami", "--nonsense"], 2),
        (&["whoami", "extra"], 2),
        (&["-o", "yaml", "whoami"], 2),
        (&["login", "--as", "alice", "--device-code"], 2),
        (&["login", "--print-url", "--device-code"], 2),
        (&["login", "--as", "alice", "--print-url"], 2),
        (&["why"], 2),
        (&["revoke", "ses_x"], 2),
        (&["revoke", "ses_x", "--reason", "  "], 2),
        (&["request"], 2),
        (&["request", "no-slash", "--reason", "x"], 2),
        (&["request", "ops-api/x", "--reason", "x", "--for", "soon"], 2),
        (&["request", "ops-api/x", "--reason", "x", "--param", "novalue"], 2),
        (&["request", "ops-api/x", "--reason", "x", "--start", "tomorrow"], 2),
        (&["request", "ops-api/x", "--reason", "x", "--timeout", "1m"], 2),
        (&["sessions", "--mine", "--all"], 2),
        (&["request", "ops-api/x", "--dry-run", "--wait"], 2),
        (&["request", "ops-api/x", "--for", "-5m"], 2),
        (&["request", "ops-api/x", "--for", "99999999999999999999d"], 2),
        (&["requests", "--mine", "--to-approve"], 2),
        (&["requests", "--state", "open"], 2),
        (&["show"], 2),
        (&["deny", "req_1", "--reason", ""], 2),
        (&["grants", "--mine", "--all"], 2),
        (&["extend", "grt_1"], 2),
        (&["drop"], 2),
        (&["lock", "dev|alice"], 2),
        (&["unlock"], 2),
        (&["token"], 2),
        (&["token", "--service", "s", "--wait"], 2),
        (&["token", "--service", "s", "--reason", "x"], 2),
        (&["token", "--service", "s", "--request", "e", "--timeout", "1m"], 2),
        (&["token", "--service", "s", "--request", "e", "--grant", "grt_1"], 2),
        (&["proxy", "--listen", "127.0.0.1:0", "--socket", "s"], 2),
        (&["completions", "tcsh-not"], 2),
        (&["--help"], 0),
        (&["login", "--help"], 0),
        (&["help", "curl"], 0),
        (&["--version"], 0),
    ];
    for (line, code) in table {
        let error = parse(line).expect_err(&format!("{line:?}"));
        assert_eq!(error.exit_code(), *code, "{line:?}: {error}");
    }
}

#[test]
fn a_request_takes_every_flag_of_the_contract() {
    let line = "request ops-api/deploy-prod --reason hotfix --for 30m --ticket OPS-1 --start 2026-11-22T10:15:00Z \
                --param env=prod --param a=b=c --emergency --wait --timeout 10m -o json";
    let arguments = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
    let Command::Request(request) = arguments.command else { panic!("another command") };
    assert_eq!(request.entitlement.to_string(), "ops-api/deploy-prod");
    assert_eq!(request.length.unwrap().to_string(), "30m");
    assert_eq!(request.params, [("env".to_owned(), "prod".to_owned()), ("a".to_owned(), "b=c".to_owned())]);
    assert!(request.emergency && !request.dry_run && request.wait);
    assert_eq!(request.timeout.unwrap().to_string(), "10m");
}

#[test]
fn flags_of_all_commands_stand_before_or_after_the_command() {
    for line in [
        &["-o", "json", "services"][..],
        &["services", "-o", "json"],
        &["services", "-ojson"],
        &["--output=json", "services"],
        &["why", "dec_x", "-o", "json"],
        &["why", "-o", "json", "dec_x"],
    ] {
        assert_eq!(parse(line).unwrap().global.output, Format::Json, "{line:?}");
    }
    let arguments = parse(&["whoami", "--profile", "work", "--server", "https://a.example"]).unwrap();
    assert_eq!(arguments.global.profile.as_deref(), Some("work"));
    assert_eq!(arguments.global.server.as_deref(), Some("https://a.example"));
    assert_eq!(arguments.global.output, Format::Table);
}

#[test]
fn what_follows_curl_is_curls() {
    let raw: &[&str] =
        &["-o", "out.json", "--profile", "theirs", "--help", "-X", "POST", "--", "https://a.example", "-"];
    let mut line = vec!["--profile", "ours", "-o", "json", "curl"];
    line.extend(raw);
    let arguments = parse(&line).unwrap();
    assert_eq!(arguments.global.profile.as_deref(), Some("ours"));
    assert_eq!(arguments.global.output, Format::Json);
    let Command::Curl(curl) = arguments.command else { panic!("another command") };
    assert_eq!(curl.arguments, raw.iter().map(OsString::from).collect::<Vec<_>>());
    let arguments = parse(&["curl"]).unwrap();
    let Command::Curl(curl) = arguments.command else { panic!("another command") };
    assert!(curl.arguments.is_empty());
}

#[test]
fn what_curl_says_of_itself_needs_no_sign_in() {
    use std::os::unix::fs::PermissionsExt;

    let folder = crate::support::temporary_folder();
    let curl = folder.path().join("curl");
    std::fs::write(&curl, "#!/bin/sh\necho \"curl $*\"\n").unwrap();
    std::fs::set_permissions(&curl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |line: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"));
        command.arg("curl").args(line).env_clear().env("PATH", folder.path()).env("DOORWARD_HOME", folder.path());
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    for line in [&["--help"][..], &["-h"], &["--version"], &["-V"], &["--help", "all"]] {
        assert_eq!(run(line), (Some(0), format!("curl {}\n", line.join(" "))), "{line:?}");
    }
    // With anything else somebody has to be signed in.
    for line in [&["https://a.example"][..], &["-V", "https://a.example"], &[]] {
        assert_ne!(run(line).0, Some(0), "{line:?}");
    }
}

#[test]
fn a_profile_named_curl_is_not_the_command() {
    let arguments = parse(&["--profile", "curl", "whoami"]).unwrap();
    assert_eq!(arguments.global.profile.as_deref(), Some("curl"));
    let Command::Login(login) = parse(&["login", "--as", "curl"]).unwrap().command else { panic!("another command") };
    assert_eq!(login.sign_in_as.as_deref(), Some("curl"));
}

#[test]
fn a72_only_loopback_can_be_listened_on() {
    for address in ["0.0.0.0:0", "[::]:0", "10.0.0.1:3128", "localhost:1", "3128"] {
        assert_eq!(parse(&["proxy", "--listen", address]).expect_err(address).exit_code(), 2);
    }
    for address in ["127.0.0.1:0", "127.9.9.9:3128", "[::1]:3128"] {
        assert!(parse(&["proxy", "--listen", address]).is_ok(), "{address}");
    }
}

#[test]
fn help_begins_with_examples_and_lists_nothing_that_is_not_there() {
    let mut command = Arguments::command();
    let help = command.render_long_help().to_string();
    assert!(help.starts_with("Examples:"), "{help}");
    assert!(!help.contains("\n  junit"), "a format of one command is listed:\n{help}");
    for command in command.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let help = command.render_long_help().to_string();
        assert!(help.starts_with("Example"), "{}", command.get_name());
    }
}

#[test]
fn what_an_item_of_a_review_is_is_said_where_it_is_none() {
    let told = parse(&["review", "decide", "rev_1", "keep", "--reason", "x"]).unwrap_err().to_string();
    assert!(told.contains("the number that `doorward review show` gives the rule"), "{told}");
}

/// What a terminal of 80 columns shows in one line, so that what is copied from it is a command.
const EXAMPLE_COLUMNS_MAX: usize = 78;

fn example_faults(command: &clap::Command, faults: &mut Vec<String>) {
    for text in [command.get_before_help(), command.get_after_help()].into_iter().flatten() {
        let text = text.to_string();
        let lines = text.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
        let mut goes_on = false;
        for line in lines.take_while(|line| !line.is_empty()) {
            let begins = ["  doorward ", "  ssh-keygen ", "  git ", "  http_proxy="];
            let fits = line.chars().count() <= EXAMPLE_COLUMNS_MAX;
            if !fits || (!goes_on && !begins.iter().any(|begin| line.starts_with(begin))) {
                faults.push(format!("{}: {line}", command.get_name()));
            }
            goes_on = line.ends_with('\\');
        }
    }
    command.get_subcommands().for_each(|command| example_faults(command, faults));
}

#[test]
fn an_example_is_a_command_that_no_terminal_breaks() {
    let mut faults = Vec::new();
    example_faults(&Arguments::command(), &mut faults);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn wrong_usage_is_told_in_json_to_who_asked_for_json() {
    let run = |line: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_doorward")).args(line).env_clear().output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let json: &[&[&str]] = &[
        &["nonsense", "-o", "json"],
        &["-o", "json", "whoami", "--nonsense"],
        &["whoami", "extra", "--output=json"],
        &["request", "-ojson"],
        &["audit", "nonsense", "--output", "json"],
    ];
    for line in json {
        let (code, out, told) = run(line);
        assert_eq!((code, out.len()), (Some(2), 0), "{line:?}");
        let problem: serde_json::Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{line:?}: {told}"));
        assert_eq!(problem["reason"], "usage", "{line:?}");
        assert!(problem["detail"].as_str().unwrap().contains("--help"), "{line:?}: {told}");
    }
    let table: &[&[&str]] = &[&["nonsense"], &["whoami", "-o", "yaml"], &["nonsense", "-o", "table"]];
    for line in table {
        let (code, _, told) = run(line);
        assert!(code == Some(2) && told.starts_with("error: "), "{line:?}: {told}");
    }
    let (code, out, told) = run(&["--help", "-o", "json"]);
    assert!(code == Some(0) && !out.is_empty() && told.is_empty(), "help is data");
}
