//! `doorward policy diff` as an approver and a script see it.

use std::path::Path;

use clap::Parser;
use doorward::cli::args::{Arguments, Command};
use doorward::cli::policy::{PolicyCommand, Printed, run};
use doorward::model::{ServiceName, Timestamp};
use doorward::policy::load;
use serde_json::{Value, json};

use crate::policy::{folder, settings};

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

/// Keys of a file as a case gives them: before, after, and the field that tells the difference.
type Field = (&'static str, &'static str, &'static str);

/// Each field by itself differs, and the difference names it; a file that did not change tells nothing.
fn each_is_told(file: &str, whole: impl Fn(&str) -> String, fields: &[Field]) {
    for (old, new, name) in fields {
        let (before, same, changed) =
            (after(&[(file, &whole(old))]), after(&[(file, &whole(old))]), after(&[(file, &whole(new))]));
        assert_eq!(items(before.path(), same.path()), (vec![], vec![]), "{old}");
        let (changes, _) = items(before.path(), changed.path());
        assert!(changes.iter().any(|change| change[4] == *name), "{old} → {new}: {changes:?}");
    }
}

#[test]
fn each_field_of_a_service_is_told_where_it_changes() {
    let top = |text: &str| format!("{text}\n{SERVICE}");
    each_is_told(
        "svc/service.toml",
        top,
        &[
            ("", "description = \"What it is\"", "description"),
            ("", "hosts = [\"other\"]", "host"),
            ("", "client_certificate = \"optional\"", "client_certificate"),
            ("", "unbound_bearer = true", "unbound_bearer"),
            ("", "pass_authorization = true", "pass_authorization"),
            ("", "on_stale = \"continue\"", "on_stale"),
            ("", "origins = [\"https://app.example.com\"]", "origin"),
            ("", "assertion = \"off\"", "assertion"),
            ("", "encoded_slash = true", "encoded_slash"),
            ("", "record = \"buffered\"", "record"),
            ("", "exact_paths = true", "exact_paths"),
            ("", "time_zone = \"Europe/Berlin\"", "time_zone"),
        ],
    );
    let below = |text: &str| {
        let (head, tail) = SERVICE.split_once("[limits]\nrequests_per_second = 100\nburst = 200\n").unwrap();
        format!("{head}{text}\n{tail}")
    };
    let tls = "[upstream_tls]";
    let of = |table: &str, key: &str| -> &'static str { format!("{table}\n{key}").leak() };
    let health = "[health]\npath = \"/healthz\"";
    each_is_told(
        "svc/service.toml",
        below,
        &[
            ("", "[limits]\nrequests_per_second = 7", "limits.requests_per_second"),
            ("", "[limits]\nburst = 500", "limits.burst"),
            ("", "[limits]\nbody_bytes_max = 5", "limits.body_bytes_max"),
            ("", "[limits]\nconnections_per_upstream = 5", "limits.connections_per_upstream"),
            ("", "[timeouts]\nconnect = \"1s\"", "timeouts.connect"),
            ("", "[timeouts]\nfirst_byte = \"1s\"", "timeouts.first_byte"),
            ("", "[timeouts]\nbody_idle = \"1s\"", "timeouts.body_idle"),
            ("", "[timeouts]\nstream_idle = \"1s\"", "timeouts.stream_idle"),
            ("", health, "health.path"),
            (health, "[health]\npath = \"/ready\"", "health.path"),
            (health, of(health, "host = \"other\""), "health.host"),
            (health, of(health, "interval = \"9s\""), "health.interval"),
            (health, of(health, "timeout = \"1s\""), "health.timeout"),
            (health, of(health, "healthy_threshold = 9"), "health.healthy_threshold"),
            (health, of(health, "unhealthy_threshold = 9"), "health.unhealthy_threshold"),
            (health, of(health, "status = 204"), "health.status"),
            (of(tls, "ca = \"a/ca.pem\""), of(tls, "ca = \"b/ca.pem\""), "upstream_tls.ca"),
            (
                of(tls, "certificate = \"c.pem\"\nkey = \"k.pem\""),
                of(tls, "certificate = \"d.pem\"\nkey = \"k.pem\""),
                "upstream_tls.certificate",
            ),
            (
                of(tls, "certificate = \"c.pem\"\nkey = \"k.pem\""),
                of(tls, "certificate = \"c.pem\"\nkey = \"l.pem\""),
                "upstream_tls.key",
            ),
            ("", of(tls, "server_name = \"other\""), "upstream_tls.server_name"),
        ],
    );
    let inject = |text: &str| below(&format!("[[inject]]\n{text}"));
    each_is_told(
        "svc/service.toml",
        inject,
        &[
            (
                "header = \"X-Key\"\nsecret = { env = \"KEY\" }",
                "header = \"X-Other\"\nsecret = { env = \"KEY\" }",
                "injected header",
            ),
            (
                "header = \"X-Key\"\nsecret = { env = \"KEY\" }",
                "header = \"X-Key\"\nsecret = { env = \"OTHER\" }",
                "injected header",
            ),
            (
                "header = \"X-Key\"\nsecret = { file = \"../staging/key\" }",
                "header = \"X-Key\"\nsecret = { file = \"../prod/key\" }",
                "injected header",
            ),
            (
                "header = \"X-Key\"\nsecret = { env = \"KEY\" }",
                "header = \"X-Key\"\nscheme = \"bearer\"\nsecret = { env = \"KEY\" }",
                "injected header",
            ),
            (
                "header = \"X-Key\"\nscheme = \"basic\"\nuser = \"a\"\nsecret = { env = \"KEY\" }",
                "header = \"X-Key\"\nscheme = \"basic\"\nuser = \"b\"\nsecret = { env = \"KEY\" }",
                "injected header",
            ),
        ],
    );
}

#[test]
fn each_field_of_an_entitlement_is_told_where_it_changes() {
    let more = |text: &str| {
        let defined = ["description", "max", "actions"].iter().any(|key| text.starts_with(&format!("{key} =")));
        let key = text.split(" =").next().filter(|_| defined).unwrap_or("nothing");
        let kept: String =
            SERVICE.split_inclusive('\n').filter(|line| !line.starts_with(&format!("{key} ="))).collect();
        format!("{kept}{text}\n")
    };
    each_is_told(
        "svc/service.toml",
        more,
        &[
            ("", "description = \"Other\"", "description"),
            ("", "max = \"2h\"", "max"),
            ("", "default = \"5m\"", "default"),
            ("", "min = \"5m\"", "min"),
            ("", "approvals = 3", "approvals"),
            ("", "reason = \"optional\"", "reason"),
            ("", "ticket = \"^A$\"", "ticket"),
            ("", "actions = [\"read\", \"write\"]", "opens"),
            ("", "capacity = 2", "capacity"),
            ("capacity = 2", "capacity = 2\nwhen_full = \"queue\"", "when_full"),
            ("", "idle = \"5m\"", "idle"),
            ("", "earliest_start = \"5m\"", "earliest_start"),
            ("extended_max = \"2h\"", "extended_max = \"2h\"\nbreak = \"5m\"", "break"),
            ("", "scheduled_max = \"5m\"", "scheduled_max"),
            ("", "extended_max = \"2h\"", "extended_max"),
            ("", "answer_within = \"5m\"", "answer_within"),
            ("", "emergency = true", "emergency"),
            ("emergency = true", "emergency = true\nemergency_max = \"5m\"", "emergency"),
            ("", "parameters.region = {}", "parameter"),
            ("parameters.region = {}", "parameters.region = { values = [\"eu\"] }", "parameter"),
            ("parameters.region = {}", "parameters.region = { required = false }", "parameter"),
        ],
    );
}

#[test]
fn each_field_of_groups_people_and_workloads_is_told_where_it_changes() {
    let group = |text: &str| format!("{GROUPS}[group.z]\n{text}\n");
    each_is_told(
        "groups.toml",
        group,
        &[("", "members = [\"z@example.com\"]", "member"), ("", "includes = [\"corp|z\"]", "included group")],
    );
    let person = |text: &str| format!("[[person]]\nname = \"X\"\n{text}\n");
    each_is_told("people.toml", person, &[("accounts = [\"c|1\"]", "accounts = [\"c|1\", \"c|2\"]", "account")]);
    let issuer = |text: &str| {
        let of = |key: &str, line: &'static str| if text.contains(key) { "" } else { line };
        format!(
            "[[issuer]]\nname = \"ci\"\n{}{}{}{text}\n",
            of("preset =", "preset = \"oidc\"\n"),
            of("issuer =", "issuer = \"https://ci\"\n"),
            of("audience =", "audience = \"https://d\"\n"),
        )
    };
    each_is_told(
        "workloads.toml",
        issuer,
        &[
            ("", "preset = \"kubernetes\"", "preset"),
            ("", "issuer = \"https://other\"", "issuer"),
            ("", "audience = \"https://other\"", "audience"),
            ("", "jwks_file = \"a/keys\"", "jwks_file"),
            ("jwks_file = \"a/keys\"", "jwks_file = \"b/keys\"", "jwks_file"),
            ("", "ca = \"a/ca.pem\"", "ca"),
            ("ca = \"a/ca.pem\"", "ca = \"b/ca.pem\"", "ca"),
            ("", "allow_loopback = true", "allow_loopback"),
        ],
    );
    let rule = |text: &str| {
        let issuer = |name: &str| {
            format!("[[issuer]]\nname = \"{name}\"\nissuer = \"https://{name}\"\naudience = \"https://d\"\n")
        };
        format!("{}{}[[rule]]\nname = \"r\"\n{text}\n", issuer("ci"), issuer("other"))
    };
    const CLAIMS: &str = "issuer = \"ci\"\nclaims = { sub = \"a\" }\n";
    const FIRST: &str = "[[rule]]\nname = \"first\"\nspiffe = \"spiffe://a/x\"";
    let with = |more: &str| -> &'static str { format!("{CLAIMS}{more}").leak() };
    let spiffe = |more: &str| -> &'static str { format!("spiffe = \"spiffe://a/{more}").leak() };
    each_is_told(
        "workloads.toml",
        rule,
        &[
            (CLAIMS, "issuer = \"other\"\nclaims = { sub = \"a\" }", "issuer"),
            (CLAIMS, "issuer = \"ci\"\nclaims = { sub = \"b\" }", "claim"),
            (CLAIMS, with("groups = [\"g\"]"), "group"),
            (CLAIMS, with("services = [\"svc\"]"), "service"),
            (CLAIMS, with("acts_for = [\"g\"]"), "acts for"),
            (spiffe("b\""), spiffe("c\""), "spiffe"),
        ],
    );
    // The order of rules says which one names a workload.
    let other = |text: &str| format!("{FIRST}\n{}", rule(text));
    let (old, new) = (format!("{}{FIRST}\n", rule(spiffe("b\""))), other(spiffe("b\"")));
    let (old, new) = (after(&[("workloads.toml", &old)]), after(&[("workloads.toml", &new)]));
    let (changes, _) = items(old.path(), new.path());
    assert!(changes.iter().any(|change| change[4] == "place"), "{changes:?}");
}

/// What a policy may say, each something else: blanks, comments and signs are none within a string.
const SAID: &[&str] = &[
    "permit (principal in Group::\"g\", action == Action::\"read\", resource);",
    "permit (principal in Group::\"h\", action == Action::\"read\", resource);",
    "permit (principal, action == Action::\"read\", resource);",
    "permit (principal in Group::\"g\", action == Action::\"write\", resource);",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"a b\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"a  b\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"a\n b\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"a( b )\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"a(b)\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"// a\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"\n// a;\n\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"\n@id(\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) when { context.host == \"\\\";\" };",
    "permit (principal in Group::\"g\", action == Action::\"read\", resource) unless { context.host == \"a b\" };",
];

/// How a policy may stand in its file.
const LAYOUTS: &[fn(&str) -> String] = &[
    |said| format!("@id(\"p\")\n{said}\n"),
    |said| format!("@id(\"p\") {said}\n"),
    |said| format!("@id(\"p\"){said}\n"),
    |said| format!("  @ id // not \"p;\n ( \"p\" // \")\n )\t{said}// permit (principal, action, resource);\n"),
    |said| format!("// why\r@id(\"p\")\r\n{}\r\n", said.replacen("permit (", "permit // all;\r( ", 1)),
    |said| format!("@id(\"p\")\n{}\n", said.replacen("resource)", "// not \"\n  resource\n)", 1)),
];

#[test]
fn policies_that_mean_different_things_differ_however_they_stand_in_their_files() {
    let folders: Vec<Vec<tempfile::TempDir>> = SAID
        .iter()
        .map(|said| LAYOUTS.iter().map(|layout| after(&[("svc/access.cedar", &layout(said))])).collect())
        .collect();
    for (one, layouts) in folders.iter().enumerate() {
        for (other, others) in folders.iter().enumerate().skip(one) {
            // Each layout of one against another layout of the other.
            let (old, new) = (&layouts[other % LAYOUTS.len()], &others[one % LAYOUTS.len()]);
            let (changes, _) = items(old.path(), new.path());
            let told: Vec<_> = changes.iter().filter(|change| change[1] == "policy").collect();
            assert_eq!(told.is_empty(), one == other, "{} → {}: {changes:?}", SAID[one], SAID[other]);
            for change in told {
                assert_eq!((&change[0], &change[3], &change[4]), (&json!("changed"), &json!("p"), &json!("text")));
                assert_ne!(change[5], change[6]);
            }
        }
    }
}

#[test]
fn a_policy_on_one_line_is_told_and_reviewed_as_any_other() {
    let approvers =
        |line: &str| ACCESS.replace("permit (principal in Group::\"h\", action == Action::\"approve\"", line);
    let old = "@id(\"ap\") permit (principal in Group::\"h\", action == Action::\"approve\"";
    let new = "@id(\"ap\") permit (principal, action == Action::\"approve\"";
    let (old, new) = (approvers(old), approvers(new));
    let (old, new) = (after(&[("svc/access.cedar", &old)]), after(&[("svc/access.cedar", &new)]));
    let printed = diff(&[&old.path().display().to_string(), &new.path().display().to_string(), "--exit-code"]);
    assert_eq!(printed.code, 1);
    let said =
        "permit (principal in Group::\"h\", action == Action::\"approve\", resource == Entitlement::\"svc/write\");";
    assert!(printed.stdout.contains(&format!("- {said}")), "{}", printed.stdout);
    assert!(printed.stdout.contains("+ permit (principal, action == Action::\"approve\""), "{}", printed.stdout);

    let set = load(old.path(), &settings()).unwrap();
    let rules = set.rules(&ServiceName::parse("svc").unwrap());
    let texts: Vec<&str> = rules.iter().flat_map(|rule| &rule.policies).map(|policy| policy.text.as_str()).collect();
    assert!(texts.contains(&said) && texts.iter().all(|text| text.starts_with("permit (")), "{texts:?}");
}

#[test]
fn an_annotation_that_is_not_the_id_is_part_of_what_is_told() {
    let with =
        |owner: &str| format!("@owner(\"{owner}\")@id(\"p\")permit (principal in Group::\"g\", action, resource);");
    let (old, new) = (after(&[("svc/access.cedar", &with("a"))]), after(&[("svc/access.cedar", &with("b"))]));
    let text = |owner: &str| format!("@owner(\"{owner}\")permit (principal in Group::\"g\", action, resource);");
    let expected = json!(["changed", "policy", "svc", "p", "text", text("a"), text("b")]);
    assert_eq!(items(old.path(), new.path()).0, [expected]);
}
