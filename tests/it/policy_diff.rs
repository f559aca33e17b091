//! `doorward policy diff` as an approver and a script see it.

use std::path::Path;

use clap::Parser;
use doorward::cli::args::{Arguments, Command};
use doorward::cli::policy::{PolicyCommand, Printed, run};
use doorward::model::Timestamp;
use serde_json::{Value, json};

use crate::policy::folder;

const SERVICE: &str = "\
upstreams = [\"http://127.0.0.1:9080\"]
[[route]]
match = \"GET /a\"
action = \"read\"
[[route]]
match = \"POST /a\"
action = \"write\"
[limits]
requests_per_second = 100
burst = 200
[entitlement.write]
description = \"Write\"
max = \"1h\"
actions = [\"write\"]
";
const ACCESS: &str = "\
@id(\"g-reads\")
permit (principal in Group::\"g\", action == Action::\"read\", resource);
// No id: known by what it means.
permit (principal in Entitlement::\"svc/write\", action == Action::\"write\", resource);
permit (principal in Group::\"g\", action == Action::\"request\", resource == Entitlement::\"svc/write\");
permit (principal in Group::\"h\", action == Action::\"approve\", resource == Entitlement::\"svc/write\");
";
const TESTS: &str = "\
[[test]]
name = \"members read\"
principal = \"x@example.com\"
groups = [\"g\"]
request = \"GET /a\"
expect = \"allow\"
[[test]]
name = \"holders write\"
principal = \"x@example.com\"
groups = [\"g\"]
entitlements = [\"svc/write\"]
request = \"POST /a\"
expect = \"allow\"
[[test]]
name = \"the others approve\"
principal = \"y@example.com\"
groups = [\"h\"]
action = \"approve\"
on = \"svc/write\"
expect = \"allow\"
";
const GROUPS: &str = "[group.h]\nmembers = [\"y@example.com\"]\n";

fn diff(words: &[&str]) -> Printed {
    let line = ["doorward", "policy", "diff"].iter().chain(words);
    let arguments = Arguments::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
    let Command::Policy(PolicyCommand::Offline(command)) = arguments.command else { panic!("another command") };
    run(command, arguments.global.output, Timestamp::from_seconds(1_795_608_000))
}

fn before() -> tempfile::TempDir {
    after(&[])
}

/// The folder of before, with other texts for some of its files.
fn after(changed: &[(&str, &str)]) -> tempfile::TempDir {
    let mut files = vec![
        ("svc/service.toml", SERVICE),
        ("svc/access.cedar", ACCESS),
        ("svc/tests.toml", TESTS),
        ("groups.toml", GROUPS),
    ];
    files.retain(|(name, _)| changed.iter().all(|(other, _)| other != name));
    files.extend(changed.iter().filter(|(_, text)| !text.is_empty()));
    folder(&files)
}

/// What differs, as JSON: `kind service name field old new` of changes, `question old new` of decisions.
fn items(old: &Path, new: &Path) -> (Vec<Value>, Vec<Value>) {
    let printed = diff(&[&old.display().to_string(), &new.display().to_string(), "-o", "json"]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""));
    let page: Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(page["next"], Value::Null);
    let all = page["items"].as_array().unwrap();
    let of = |kind: &'static str| all.iter().filter(move |item| item["type"] == kind);
    let changes = of("change").map(|item| {
        json!([item["change"], item["kind"], item["service"], item["name"], item["field"], item["old"], item["new"]])
    });
    let decisions =
        of("decision").map(|item| json!([item["question"], item["old"]["outcome"], item["new"]["outcome"]]));
    (changes.collect(), decisions.collect())
}

#[test]
fn a_folder_does_not_differ_from_one_that_says_the_same_in_other_words() {
    let old = before();
    let mut statements: Vec<&str> = ACCESS.split_inclusive(";\n").collect();
    statements.reverse();
    let reworded = statements.concat().replace("principal in Group", "// why\n  principal\n  in Group");
    let new = after(&[("svc/access.cedar", &reworded), ("svc/service.toml", &format!("# a comment\n{SERVICE}"))]);
    assert_eq!(items(old.path(), new.path()), (vec![], vec![]));
    let printed = diff(&[&old.path().display().to_string(), &new.path().display().to_string(), "--exit-code"]);
    assert_eq!(printed.code, 0);
    assert_eq!(printed.stdout, "no changes; of 3 tested decisions asked of both, 0 come out otherwise\n");
}

#[test]
fn each_kind_of_change_is_told_with_what_it_was_and_what_it_is() {
    let old = before();
    let moved = SERVICE
        .replace("http://127.0.0.1:9080", "http://127.0.0.1:9090")
        .replace("burst = 200", "burst = 300")
        .replace(
            "max = \"1h\"",
            "max = \"4h\"\napprovals = 2\n[entitlement.write.parameters.region]\nvalues = [\"eu\"]\n",
        )
        .replace("actions = [\"write\"]", "")
        .replace(
            "match = \"POST /a\"\naction = \"write\"",
            "match = \"POST /a\"\naction = \"write\"\n[[route]]\nmatch = \"GET /b\"\naction = \"read\"",
        );
    let policies =
        ACCESS.replace("Group::\"g\", action == Action::\"read\"", "Group::\"h\", action == Action::\"read\"");
    let global = "@id(\"auditors-read\")\npermit (principal in Group::\"auditors\", action == Action::\"read_audit\", resource);\n";
    type Case<'a> = (&'a [(&'a str, &'a str)], Vec<Value>);
    let cases: [Case<'_>; 4] = [
        (
            &[("svc/service.toml", &moved)],
            vec![
                json!(["changed", "service", "svc", "svc", "limits.burst", "200", "300"]),
                json!(["removed", "service", "svc", "svc", "upstream", "http://127.0.0.1:9080", null]),
                json!(["added", "service", "svc", "svc", "upstream", null, "http://127.0.0.1:9090"]),
                json!(["added", "route", "svc", "GET /b", null, null, "action read"]),
                json!(["changed", "entitlement", "svc", "write", "approvals", "1", "2"]),
                json!(["changed", "entitlement", "svc", "write", "max", "1h", "4h"]),
                json!(["added", "entitlement", "svc", "write", "parameter", null, "region: eu, required"]),
            ],
        ),
        (
            &[("svc/access.cedar", &policies)],
            vec![json!([
                "changed",
                "policy",
                "svc",
                "g-reads",
                "text",
                "permit (principal in Group::\"g\", action == Action::\"read\", resource);",
                "permit (principal in Group::\"h\", action == Action::\"read\", resource);"
            ])],
        ),
        (
            &[("groups.toml", "[group.h]\nincludes = [\"corp|all\"]\n[group.z]\nmembers = [\"z@example.com\"]\n")],
            vec![
                json!(["added", "group", null, "h", "included group", null, "corp|all"]),
                json!(["removed", "group", null, "h", "member", "y@example.com", null]),
                json!(["added", "group", null, "z", null, null, "member z@example.com"]),
            ],
        ),
        (
            &[
                ("global.cedar", global),
                ("people.toml", "[[person]]\nname = \"X\"\naccounts = [\"corp|1\", \"corp|2\"]\n"),
                (
                    "workloads.toml",
                    "[[issuer]]\nname = \"github\"\npreset = \"github-actions\"\naudience = \"https://d\"\n\
                     [[rule]]\nname = \"ci\"\nissuer = \"github\"\n\
                     claims = { repository_id = \"7\", ref = \"refs/heads/main\" }\ngroups = [\"g\"]\n",
                ),
            ],
            vec![
                json!([
                    "added",
                    "policy",
                    null,
                    "auditors-read",
                    null,
                    null,
                    "permit (principal in Group::\"auditors\", action == Action::\"read_audit\", resource);"
                ]),
                json!(["added", "person", null, "X", null, null, "account User::\"corp|1\", User::\"corp|2\""]),
                json!([
                    "added",
                    "issuer",
                    null,
                    "github",
                    null,
                    null,
                    "allow_loopback false; audience https://d; issuer https://token.actions.githubusercontent.com; preset github-actions"
                ]),
                json!([
                    "added",
                    "trust rule",
                    null,
                    "ci",
                    null,
                    null,
                    "issuer github; place 1; claim ref = `refs/heads/main`, repository_id = `7`; group g"
                ]),
            ],
        ),
    ];
    for (changed, expected) in cases {
        let new = after(changed);
        let sorted = |mut values: Vec<Value>| {
            values.sort_by_key(Value::to_string);
            values
        };
        assert_eq!(sorted(items(old.path(), new.path()).0), sorted(expected), "{changed:?}");
    }
}

#[test]
fn what_an_entitlement_opens_is_told_also_where_only_a_policy_opens_it() {
    let old = before();
    let wider = ACCESS.replace("action == Action::\"write\"", "action in [Action::\"read\", Action::\"write\"]");
    let new = after(&[("svc/access.cedar", &wider)]);
    let (changes, _) = items(old.path(), new.path());
    assert!(changes.contains(&json!(["added", "entitlement", "svc", "write", "opens", null, "read"])), "{changes:?}");
}

#[test]
fn tested_decisions_that_turn_are_told_in_both_directions() {
    let old = before();
    let turned = ACCESS.replace("Group::\"g\", action == Action::\"read\"", "Group::\"h\", action == Action::\"read\"");
    let more = format!(
        "{TESTS}[[test]]\nname = \"the others read\"\nprincipal = \"y@example.com\"\ngroups = [\"h\"]\n\
         request = \"GET /a\"\nexpect = \"allow\"\n"
    );
    let new = after(&[("svc/access.cedar", &turned), ("svc/tests.toml", &more)]);
    let (_, decisions) = items(old.path(), new.path());
    assert_eq!(decisions, [json!(["GET /a", "allow", "deny"]), json!(["GET /a", "deny", "allow"])]);
    let (old, new) = (old.path().display().to_string(), new.path().display().to_string());
    let printed = diff(&[&old, &new, "--exit-code"]);
    assert_eq!(printed.code, 1);
    assert_eq!(
        printed.stdout,
        "CHANGE   KIND    SERVICE  NAME     WHAT\n\
         changed  policy  svc      g-reads  - permit (principal in Group::\"g\", action == Action::\"read\", resource);\n\
         \x20                                  + permit (principal in Group::\"h\", action == Action::\"read\", resource);\n\
         \n\
         DECISION      SERVICE  WHO            ASKS    BECAUSE OF\n\
         allow → deny  svc      x@example.com  GET /a  g-reads → no_policy_match\n\
         deny → allow  svc      y@example.com  GET /a  no_policy_match → g-reads\n\
         \n\
         1 change; of 4 tested decisions asked of both, 2 come out otherwise\n"
    );
}

#[test]
fn what_is_gone_takes_its_decisions_with_it() {
    let old = before();
    // The entitlement goes, and with it what is asked of it and who held it.
    let (head, _) = SERVICE.split_once("[entitlement").unwrap();
    let reads: String = ACCESS.split_inclusive(";\n").take(1).collect();
    let first: String = TESTS.split_inclusive("expect = \"allow\"\n").take(1).collect();
    let new = after(&[("svc/service.toml", head), ("svc/access.cedar", &reads), ("svc/tests.toml", &first)]);
    let (changes, decisions) = items(old.path(), new.path());
    assert_eq!(
        decisions,
        [json!(["POST /a", "allow", "deny"]), json!(["approve svc/write", "allow", "deny"])],
        "cases that only the old table has are asked, too"
    );
    assert!(changes.iter().any(|change| change[0] == "removed" && change[1] == "entitlement"), "{changes:?}");
    // And a service as a whole, where another stays.
    let alone = folder(&[("other/service.toml", head), ("other/access.cedar", &reads), ("groups.toml", GROUPS)]);
    let (changes, decisions) = items(old.path(), alone.path());
    assert_eq!(decisions.len(), 3, "{decisions:?}");
    for (word, name) in [("removed", "svc"), ("added", "other")] {
        assert!(changes.iter().any(|change| change[0] == word && change[1] == "service" && change[3] == name));
    }
}

#[test]
fn a_folder_that_can_not_be_read_is_exit_2_by_file_line_and_column() {
    let good = before();
    let good = good.path().display().to_string();
    let broken = after(&[("svc/access.cedar", "permit (principal, action == Action::\"raed\", resource);\n")]);
    let table = after(&[("svc/tests.toml", &TESTS.replacen("expect", "expct", 1))]);
    let (broken, table) = (broken.path().display().to_string(), table.path().display().to_string());
    for (old, new, expected) in [
        (&*good, &*broken, format!("{broken}/svc/access.cedar:1:")),
        (&broken, &good, format!("{broken}/svc/access.cedar:1:")),
        (&good, &table, format!("{table}/svc/tests.toml:6:1: error: in `test`: unknown key `expct`")),
        (&good, "/nowhere/at/all", "/nowhere/at/all: error: the folder could not be read".to_owned()),
    ] {
        let printed = diff(&[old, new]);
        assert_eq!((printed.code, printed.stdout.as_str()), (2, ""), "{old} {new}");
        assert!(printed.stderr.contains(&expected), "{expected} in {}", printed.stderr);
    }
    let both = diff(&[&broken, &table]);
    assert!(both.stderr.contains("access.cedar:1:") && both.stderr.contains("tests.toml:6:1"), "{}", both.stderr);
}
