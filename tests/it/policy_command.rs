//! `doorward policy …` as people and scripts see it.

use std::path::Path;

use clap::Parser;
use doorward::cli::args::{Arguments, Command};
use doorward::cli::policy::{self as command, PolicyCommand, Printed};
use doorward::model::Timestamp;
use serde_json::Value;

use crate::policy::folder;

const NOW: Timestamp = Timestamp::from_seconds(1_795_608_000);

/// Runs a line as the binary reads it.
fn run(words: &[&str]) -> Printed {
    let line = ["doorward", "policy"].iter().chain(words);
    let arguments = Arguments::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
    let Command::Policy(PolicyCommand::Offline(command)) = arguments.command else { panic!("another command") };
    command::run(command, arguments.global.output, NOW)
}

fn examples() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").display().to_string()
}

fn json(printed: &Printed) -> Value {
    serde_json::from_str(&printed.stdout).unwrap()
}

#[test]
fn the_examples_check_clean_and_all_their_tests_pass() {
    let checked = run(&["check", "--dir", &examples()]);
    assert_eq!(checked.code, 0, "{}", checked.stdout);
    assert!(
        checked.stdout.contains(" is good: 5 services, 6 entitlements, 0 warnings; version "),
        "{}",
        checked.stdout
    );
    assert_eq!(json(&run(&["check", "--dir", &examples(), "-o", "json"]))["items"], Value::Array(vec![]));
    let tested = run(&["test", "--dir", &examples()]);
    assert_eq!(tested.code, 0, "{}{}", tested.stdout, tested.stderr);
    assert!(tested.stdout.ends_with("0 failed\n"));
    let items = json(&run(&["test", "--dir", &examples(), "-o", "json"]));
    assert!(items["items"].as_array().unwrap().len() > 40);
    for service in ["ops-api", "deploy-pipeline", "metrics", "database-admin", "legacy-wiki"] {
        assert!(
            items["items"].as_array().unwrap().iter().any(|item| item["service"] == service),
            "{service} has tests"
        );
    }
}

#[test]
fn explain_says_who_what_why_and_what_would_change_it() {
    let alice = ["explain", "--principal", "alice@example.com", "--group", "engineering"];
    let question = ["--dir", &examples(), "ops-api", "POST", "/v1/deployments/prod"];
    let printed = run(&[&alice[..], &question[..]].concat());
    assert_eq!(printed.code, 0);
    assert_eq!(
        printed.stdout,
        "decision   deny (no_policy_match)\n\
         principal  User::\"email|alice@example.com\"\n\
         groups     engineering\n\
         action     Action::\"deploy\"\n\
         resource   Service::\"ops-api\"\n\
         policies   none matched\n\
         route      POST /v1/deployments/{env}\n\
         remedy     ops-api/deploy-prod: doorward request ops-api/deploy-prod --reason TEXT --ticket TICKET\n"
    );
    let answer =
        json(&run(&[&alice[..], &["--entitlement", "ops-api/deploy-prod", "-o", "json"], &question[..]].concat()));
    assert_eq!(answer["outcome"], "allow");
    assert_eq!(answer["reason"], Value::Null);
    assert_eq!(answer["policies"], serde_json::json!(["deploy-prod-while-granted"]));
    assert_eq!(answer["remedy"], Value::Null);
    let refused = json(&run(&[&alice[..], &["-o", "json"], &question[..]].concat()));
    assert_eq!(refused["remedy"]["kind"], "request_access");
    assert_eq!(refused["remedy"]["entitlement"], "ops-api/deploy-prod");
    assert_eq!(refused["policy_version"].as_str().unwrap().len(), "sha256:".len() + 64);
}

#[test]
fn explain_answers_for_built_in_actions_and_for_requests_without_a_route() {
    let dir = examples();
    let ask = |words: &[&str]| {
        json(&run(&[&["explain", "--dir", &dir, "-o", "json", "--principal", "dev|bob"], words].concat()))
    };
    let approve = ask(&["--group", "release-managers", "approve", "ops-api/deploy-prod"]);
    assert_eq!(
        (&approve["outcome"], &approve["resource"]),
        (&"allow".into(), &"Entitlement::\"ops-api/deploy-prod\"".into())
    );
    let lock = ask(&["--group", "security", "lock", "installation"]);
    assert_eq!(lock["policies"], serde_json::json!(["security-ends-and-bars"]));
    let nowhere = ask(&["ops-api", "PUT", "/status"]);
    assert_eq!((&nowhere["reason"], &nowhere["action"]), (&"no_route".into(), &Value::Null));
}

#[test]
fn explain_refuses_what_it_can_not_be_asked() {
    let dir = examples();
    for (words, expected) in [
        (&["--principal", "alice", "ops-api", "GET", "/status"][..], "`alice` names nobody"),
        (
            &["--principal", "dev|a", "ops-ap", "GET", "/status"],
            "there is no service `ops-ap`; did you mean `ops-api`?",
        ),
        (&["--principal", "dev|a", "ops-api", "GET", "/a/../status"], "not a canonical path"),
        (&["--principal", "dev|a", "ops-api", "GET", "/status?x=1"], "not a canonical path"),
        (&["--principal", "dev|a", "aprove", "ops-api/deploy-prod"], "request, approve, auto_approve, revoke"),
        (&["--principal", "dev|a", "approve", "ops-api/deploy-prd"], "did you mean `ops-api/deploy-prod`?"),
        (
            &["--principal", "dev|a", "--entitlement", "ops-api/x", "ops-api", "GET", "/status"],
            "there is no entitlement",
        ),
        (&["--principal", "dev|a", "--at", "noon", "ops-api", "GET", "/status"], "is not a time"),
    ] {
        let printed = run(&[&["explain", "--dir", &dir], words].concat());
        assert_eq!((printed.code, printed.stdout.as_str()), (2, ""), "{words:?}");
        assert!(printed.stderr.contains(expected), "{words:?}: {}", printed.stderr);
    }
}

#[test]
fn the_schema_of_a_service_shows_its_actions_and_parameters() {
    let printed = run(&["schema", "--dir", &examples(), "ops-api"]);
    assert_eq!(printed.code, 0);
    for expected in ["action \"deploy\"", "env: String", "entity User in [Group, Entitlement]", "action \"approve\""] {
        assert!(printed.stdout.contains(expected), "{expected} in\n{}", printed.stdout);
    }
    let unknown = run(&["schema", "--dir", &examples(), "ops"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("ops-api"));
}

#[test]
fn without_a_service_the_schemas_of_all_are_shown() {
    let printed = run(&["schema", "--dir", &examples()]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let one = run(&["schema", "--dir", &examples(), "ops-api"]).stdout;
    assert!(printed.stdout.contains(&format!("// ops-api\n{one}")), "{}", printed.stdout);
    let list = json(&run(&["schema", "--dir", &examples(), "-o", "json"]));
    assert!(list["next"].is_null());
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), printed.stdout.lines().filter(|line| line.starts_with("// ")).count());
    let alone = json(&run(&["schema", "--dir", &examples(), "-o", "json", "ops-api"]));
    assert!(items.contains(&alone));
}

const SERVICE: &str = "upstreams = [\"http://127.0.0.1:9080\"]\n[[route]]\nmatch = \"GET /a\"\naction = \"read\"\n";

#[test]
fn a_test_that_fails_names_its_line_and_what_came_out() {
    let dir = folder(&[
        ("svc/service.toml", SERVICE),
        ("svc/access.cedar", "permit (principal in Group::\"g\", action == Action::\"read\", resource);\n"),
        (
            "svc/tests.toml",
            "[[test]]\nname = \"a <b> & \\\"c\\\"\"\nprincipal = \"x@example.com\"\ngroups = [\"g\"]\nrequest = \"GET /a\"\nexpect = \"deny\"\nreason = \"no_policy_match\"\n",
        ),
    ]);
    let path = dir.path().display().to_string();
    let printed = run(&["test", "--dir", &path]);
    assert_eq!(printed.code, 1);
    assert_eq!(
        printed.stdout.replace(&path, "DIR"),
        "FAILED  svc: a <b> & \"c\"\n        \
         DIR/svc/tests.toml:1: expected deny, got allow (decided by `svc/access.cedar:1`)\n        \
         DIR/svc/tests.toml:1: expected the reason `no_policy_match`, got `none`\n\
         0 passed, 1 failed\n"
    );
    let junit = run(&["test", "--dir", &path, "-o", "junit"]);
    assert_eq!(junit.code, 1);
    assert!(junit.stdout.contains("<testsuite name=\"svc\" tests=\"1\" failures=\"1\""), "{}", junit.stdout);
    assert!(junit.stdout.contains("name=\"a &lt;b&gt; &amp; &quot;c&quot;\""), "{}", junit.stdout);
}

#[test]
fn a_table_that_can_not_be_read_is_exit_2_for_test_and_check() {
    let dir = folder(&[
        ("svc/service.toml", SERVICE),
        ("svc/access.cedar", "permit (principal in Group::\"g\", action == Action::\"read\", resource);\n"),
        (
            "svc/tests.toml",
            "[principal.alice]\nid = \"dev|alice\"\n[[test]]\nprincipal = \"alise\"\nrequest = \"GET /a\"\nexpct = \"allow\"\n",
        ),
    ]);
    let path = dir.path().display().to_string();
    for words in [["check", "--dir"], ["test", "--dir"]] {
        let printed = run(&[&words[..], &[&path]].concat());
        assert_eq!(printed.code, 2);
        let shown = format!("{}{}", printed.stdout, printed.stderr).replace(&path, "DIR");
        assert_eq!(
            shown,
            "DIR/svc/tests.toml:3:1: error: in `test`: `expect` is missing\n  help: write `expect = \"allow\"` or `\"deny\"`\n\
             DIR/svc/tests.toml:4:13: error: there is no `[principal.alise]`\n  help: did you mean `alice`?\n\
             DIR/svc/tests.toml:6:1: error: in `test`: unknown key `expct`\n  help: did you mean `expect`?\n"
        );
    }
}

#[test]
fn a_token_without_a_key_to_check_it_by_is_held_against_its_times_all_the_same() {
    let rules = "[[issuer]]\nname = \"ci\"\npreset = \"github-actions\"\nissuer = \"https://ci.example.com\"\n\
        audience = \"https://door.example.com\"\n[[rule]]\nname = \"main\"\nissuer = \"ci\"\ngroups = [\"g\"]\n\
        claims = { repository_id = \"74\", ref = \"refs/heads/main\" }\n";
    let dir = folder(&[
        ("svc/service.toml", SERVICE),
        ("svc/access.cedar", "permit (principal in Group::\"g\", action == Action::\"read\", resource);\n"),
        ("workloads.toml", rules),
    ]);
    let path = dir.path().display().to_string();
    let tested = |from: i64, until: i64| {
        let claims = serde_json::json!({
            "iss": "https://ci.example.com", "aud": "https://door.example.com", "sub": "s", "jti": "1",
            "iat": NOW.seconds() - 600, "nbf": NOW.seconds() + from, "exp": NOW.seconds() + until,
            "repository_id": "74", "repository": "o/r", "ref": "refs/heads/main",
        });
        let part = |value: &Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let token = format!("{}.{}.c2ln", part(&serde_json::json!({ "alg": "ES256" })), part(&claims));
        let file = dir.path().join("token.jwt");
        std::fs::write(&file, token).unwrap();
        run(&["trust-test", "--dir", &path, "--token-file", file.to_str().unwrap()])
    };
    let good = tested(-600, 300);
    assert_eq!(good.code, 0, "{}{}", good.stdout, good.stderr);
    assert!(good.stdout.contains("times      hold\n"), "{}", good.stdout);
    assert!(good.stdout.contains("signature  not checked: "), "{}", good.stdout);
    // What nobody looked at is neither so nor not so.
    let file = dir.path().join("token.jwt");
    let told = json(&run(&["trust-test", "-o", "json", "--dir", &path, "--token-file", file.to_str().unwrap()]));
    let checks = told["checks"].as_array().unwrap();
    let holds: Vec<_> =
        checks.iter().map(|check| (check["check"].as_str().unwrap(), check["holds"].as_bool())).collect();
    assert_eq!(holds, [("audience", Some(true)), ("signature", None), ("times", Some(true))], "{told}");
    for (from, until, why) in [(-600, 0, "has expired"), (60, 300, "is not valid yet"), (-600, 86_400, "`exp`")] {
        let told = tested(from, until);
        assert_eq!(told.code, 1, "{}", told.stdout);
        assert!(
            told.stdout.lines().any(|line| line.starts_with("times      NO: ") && line.contains(why)),
            "{}",
            told.stdout
        );
    }
}
