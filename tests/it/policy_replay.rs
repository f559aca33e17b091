//! `doorward policy replay` over exports that are written here line by line: what each fact of the
//! record does to a decision that is judged anew, and what is said where it is not there.

use std::sync::Arc;

use clap::Parser;
use doorward::cli::args::{Arguments, Command, Format};
use doorward::cli::context::Context;
use doorward::cli::environment::Environment;
use doorward::cli::exit::Exit;
use doorward::cli::policy::{PolicyCommand, replay};
use doorward::cli::printer::Printer;
use doorward::model::{SessionId, Timestamp, Ttl};
use serde_json::{Value, json};

use crate::cli::Written;
use crate::policy::folder;
use crate::support::{SeededEntropy, TestClock};

/// A Wednesday, 12:00 UTC.
const NOON: Timestamp = Timestamp::from_seconds(1_795_608_000);
const SERVICE: &str = "\
upstreams = [\"http://127.0.0.1:9080\"]
client_certificate = \"optional\"
[[route]]
match = \"GET /a\"
action = \"read\"
[[route]]
match = \"GET /b/{id}\"
action = \"look\"
[entitlement.look]
description = \"Look\"
actions = [\"look\"]
";
/// Everybody may do all, so that only what a test takes away is missing.
const ALL: &str = "@id(\"all\") permit (principal, action, resource is Service);\n";

fn minutes(count: u32) -> Timestamp {
    NOON.plus(Ttl::minutes(count))
}

fn session() -> SessionId {
    SessionId::fresh(NOON, &SeededEntropy::new(1))
}

fn sign_in(data: &Value) -> Value {
    let id = session().to_string();
    json!({ "id": "evt_1", "time": NOON.to_string(), "type": "session.start", "resource": id, "data": data,
        "outcome": "success", "actor": { "kind": "User", "principal": "User::\"corp|1\"", "session": id } })
}

fn told(groups: &[&str]) -> Value {
    json!({ "groups": groups, "email_verified": true, "authenticated_at": NOON.to_string(), "kind": "cli" })
}

/// A decision about `GET path` of the service.
fn decision(allowed: bool, at: Timestamp, path: &str) -> Value {
    let (kind, outcome) = if allowed { ("decision.allow", "success") } else { ("decision.deny", "denied") };
    let mut event = json!({
        "id": format!("evt_{}", at.millis()), "time": at.to_string(), "type": kind, "outcome": outcome,
        "service": "svc", "action": "read", "decision": format!("dec_{}", at.millis()),
        "actor": { "kind": "User", "id": "usr_1", "principal": "User::\"corp|1\"", "email": "x@example.com",
            "session": session().to_string(), "address": "10.0.0.7" },
        "request": { "method": "GET", "host": "svc.doorward.localhost", "path": path, "protocol": "h2" },
        "data": { "policies": [] },
    });
    if !allowed {
        event["reason"] = json!("no_policy_match");
    }
    event
}

/// The value with something else at a JSON pointer; `null` takes it away.
fn with(mut event: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let object = event.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => drop(object.remove(key)),
        value => drop(object.insert(key.to_owned(), value)),
    }
    event
}

fn ran(words: &[&str], format: Format) -> (Exit, String, String) {
    let line = ["doorward", "policy", "replay"].iter().chain(words);
    let arguments = Arguments::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
    let Command::Policy(PolicyCommand::Replay(args)) = arguments.command else { panic!("another command") };
    let (out, talk) = (Written::default(), Written::default());
    let context = Context {
        printer: Printer::new(format, false, Box::new(out.clone()), Box::new(talk.clone())),
        environment: Environment::default(),
        global: arguments.global,
        clock: Arc::new(TestClock::at(minutes(120))),
        entropy: Arc::new(SeededEntropy::new(7)),
        banner: Default::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (exit, said) = match runtime.block_on(replay::run(&context, &args)) {
        Ok(()) => (Exit::Done, String::new()),
        Err(failure) => (failure.exit, failure.lines().join("\n")),
    };
    (exit, out.text(), said)
}

/// Replays these lines under these files.
fn replayed_as(format: Format, lines: &[Value], files: &[(&str, &str)], words: &[&str]) -> (Exit, String) {
    let policies = folder(files);
    let export = policies.path().join(".events.jsonl");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&export, text).unwrap();
    let (dir, export) = (policies.path().display().to_string(), export.display().to_string());
    let (exit, out, said) = ran(&[&["--dir", &dir, "--from", &export], words].concat(), format);
    assert_eq!(said.replace("error:  ()", ""), "", "{said}");
    (exit, out)
}

fn replayed(lines: &[Value], files: &[(&str, &str)]) -> Value {
    let (exit, out) = replayed_as(Format::Json, lines, files, &[]);
    assert_eq!(exit, Exit::Done);
    serde_json::from_str(&out).unwrap()
}

/// Gain, lose, unchanged.
fn counts(answer: &Value) -> (u64, u64, u64) {
    let of = |name: &str| answer["summary"][name].as_u64().unwrap();
    assert_eq!(of("replayed"), of("gain") + of("lose") + of("unchanged"));
    (of("gain"), of("lose"), of("unchanged"))
}

#[test]
fn groups_are_those_of_that_moment() {
    let access = "@id(\"h-reads\") permit (principal in Group::\"h\", action == Action::\"read\", resource);\n";
    let change = json!({ "id": "evt_2", "time": minutes(10).to_string(), "type": "session.groups_changed",
        "resource": session().to_string(), "outcome": "success", "data": { "added": ["h"], "removed": ["g"] } });
    let lines = [
        sign_in(&told(&["g"])),
        decision(true, minutes(5), "/a"),
        change,
        decision(false, minutes(15), "/a"),
        decision(false, minutes(20), "/a"),
    ];
    let answer = replayed(&lines, &[("svc/service.toml", SERVICE), ("svc/access.cedar", access)]);
    assert_eq!(counts(&answer), (2, 1, 0));
    let (lost, gained) = (&answer["items"][0], &answer["items"][1]);
    assert_eq!(
        (&lost["change"], &lost["now"], &lost["was"]),
        (&json!("lose"), &json!("no_policy_match"), &json!("allowed"))
    );
    assert_eq!((&gained["change"], &gained["now"], &gained["count"]), (&json!("gain"), &json!("allowed"), &json!(2)));
    assert_eq!(gained["policies"], json!(["h-reads"]));
    assert_eq!(gained["principal"], json!({ "kind": "User", "id": "corp|1", "email": "x@example.com" }));
    assert_eq!(gained["first"]["decision"], format!("dec_{}", minutes(15).millis()));
    assert_eq!(gained["last"]["decision"], format!("dec_{}", minutes(20).millis()));
}

#[test]
fn every_fact_of_the_record_is_judged() {
    let told = |pointer: &'static str, value: Value| (true, pointer, value);
    let asked = |pointer: &'static str, value: Value| (false, pointer, value);
    // Under which condition; with what it holds; with what it does not.
    let table = [
        (
            "context.address.isInRange(ip(\"10.0.0.0/8\"))",
            asked("/actor/address", json!("10.1.1.1")),
            asked("/actor/address", json!("192.0.2.1")),
        ),
        (
            "context.time.hour == 12",
            asked("/time", json!(minutes(30).to_string())),
            asked("/time", json!(minutes(90).to_string())),
        ),
        (
            "context has device && context.device.trusted",
            asked("/actor/device", json!("laptop")),
            asked("/actor/device", Value::Null),
        ),
        (
            "context has session && context.session.amr.contains(\"hwk\")",
            told("/data/amr", json!(["hwk"])),
            told("/data/amr", json!(["pwd"])),
        ),
        (
            "context has session && context.session.auth_age_seconds < 3600",
            told("/data/authenticated_at", json!(NOON.to_string())),
            told("/data/authenticated_at", json!(NOON.minus(Ttl::hours(2)).to_string())),
        ),
        (
            "context has session && context.session.age_seconds <= 60",
            asked("/time", json!(minutes(1).to_string())),
            asked("/time", json!(minutes(2).to_string())),
        ),
        (
            "context has token && context.token.scope.contains(\"look\")",
            asked("/data/scope", json!(["read", "look"])),
            asked("/data/scope", json!(["read"])),
        ),
        (
            "principal is User && principal.email == \"x@example.com\"",
            told("/data/email_verified", json!(true)),
            told("/data/email_verified", json!(false)),
        ),
        ("principal in Group::\"told\"", told("/data/groups", json!(["told"])), told("/data/groups", json!([]))),
        (
            "principal in Group::\"local\"",
            told("/data/email_verified", json!(true)),
            told("/data/email_verified", Value::Null),
        ),
        ("context.method == \"GET\"", asked("/request/method", json!("GET")), asked("/request/method", json!("HEAD"))),
    ];
    for (condition, holds, fails) in table {
        let access = format!("permit (principal, action == Action::\"read\", resource) when {{ {condition} }};\n");
        let files = [
            ("svc/service.toml", SERVICE),
            ("svc/access.cedar", &*access),
            ("groups.toml", "[group.local]\nmembers = [\"x@example.com\"]\n"),
        ];
        for (fact, expected) in [(holds, (0, 0, 1)), (fails, (0, 1, 0))] {
            let mut lines = [sign_in(&self::told(&["told"])), decision(true, minutes(1), "/a")];
            let (is_sign_in, pointer, value) = fact;
            let line = usize::from(!is_sign_in);
            lines[line] = with(lines[line].clone(), pointer, value.clone());
            assert_eq!(counts(&replayed(&lines, &files)), expected, "{condition}: {pointer} {value}");
        }
    }
}

#[test]
fn what_is_not_on_record_is_said_and_never_guessed() {
    let ordinary = || decision(true, minutes(1), "/a");
    let named = "permit (principal is User, action == Action::\"read\", resource) when { principal.name == \"X\" };\n";
    let table: [(&str, Value, Value, &str); 9] = [
        (ALL, sign_in(&json!({ "kind": "cli" })), ordinary(), "no groups on record"),
        (ALL, json!({}), ordinary(), "no sign-in on record"),
        (ALL, sign_in(&told(&[])), with(ordinary(), "/withheld", json!("pruned")), "pruned, or left out of the export"),
        (ALL, sign_in(&told(&[])), with(ordinary(), "/actor/principal", Value::Null), "erased from the record"),
        (ALL, sign_in(&told(&[])), with(ordinary(), "/request/path", Value::Null), "erased from the record"),
        (
            ALL,
            sign_in(&told(&[])),
            with(ordinary(), "/request/path", json!(format!("/{}", "a".repeat(3000)))),
            "a path that was too long to be kept",
        ),
        (ALL, sign_in(&told(&[])), with(ordinary(), "/grant", json!("grt_1")), "no grants on record"),
        (ALL, sign_in(&told(&[])), with(ordinary(), "/actor/session", Value::Null), "no groups on record"),
        (named, sign_in(&told(&[])), ordinary(), "a policy reads `principal.name`, which is not on record"),
    ];
    for (access, first, second, expected) in table {
        let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", access)];
        let answer = replayed(&[first, second], &files);
        assert_eq!(counts(&answer), (0, 0, 0), "{expected}: {answer}");
        assert_eq!(answer["summary"]["not_replayable"], json!({ expected: 1 }));
    }
}

#[test]
fn refusals_that_no_policy_had_a_part_in_are_counted_apart() {
    let refused = || decision(false, minutes(1), "/a");
    let lines = [
        sign_in(&told(&[])),
        with(refused(), "/reason", json!("rate_limited")),
        with(refused(), "/reason", json!("rate_limited")),
        with(with(refused(), "/reason", json!("forbidden_by_policy")), "/data", json!({ "note": "cross-site" })),
        with(refused(), "/service", Value::Null),
        json!({ "id": "evt_9", "time": NOON.to_string(), "type": "decision.deny", "outcome": "denied", "service": "svc",
            "reason": "no_route", "actor": { "address": "10.0.0.7" } }),
        json!({ "id": "evt_8", "time": NOON.to_string(), "type": "decision.deny_counted", "outcome": "denied" }),
        with(with(refused(), "/reason", json!("forbidden_by_policy")), "/data", json!({ "policies": ["x"] })),
    ];
    let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", ALL)];
    let answer = replayed(&lines, &files);
    assert_eq!(counts(&answer), (1, 0, 0));
    assert_eq!(
        answer["summary"]["not_policy"],
        json!({ "rate_limited": 2, "forbidden_by_policy": 1, "of the control host": 1, "no_route of nobody known": 1 })
    );
    let (_, out) = replayed_as(Format::Table, &lines, &files, &[]);
    assert!(
        out.ends_with(
            "\n1 decision replayed: 1 gains, 0 lose, 0 unchanged, 0 not replayable\n\
             5 other refusals, not by a service's policies: 1 forbidden_by_policy, 1 no_route of nobody known, \
             1 of the control host, 2 rate_limited\n"
        ),
        "{out}"
    );
}

#[test]
fn the_way_to_the_policy_is_the_new_one() {
    let moved = SERVICE.replace("\"read\"", "\"peruse\"").replace("GET /a", "GET /elsewhere");
    let required = SERVICE.replace("\"optional\"", "\"required\"");
    let renamed = SERVICE.replace("\"read\"", "\"peruse\"");
    let narrow = with(decision(true, minutes(1), "/a"), "/data/scope", json!(["read"]));
    let shown = with(decision(true, minutes(1), "/a"), "/actor/certificate", json!("AAAA"));
    for (folder, service, event, expected) in [
        ("svc", &*moved, decision(true, minutes(1), "/a"), "no_route"),
        ("other", SERVICE, decision(true, minutes(1), "/a"), "no_service"),
        ("svc", &required, decision(true, minutes(1), "/a"), "no_credential"),
        ("svc", &required, shown, "allowed"),
        ("svc", &renamed, narrow.clone(), "scope_insufficient"),
        ("svc", SERVICE, narrow, "allowed"),
        ("svc", SERVICE, with(decision(false, minutes(1), "/a"), "/reason", json!("no_route")), "gain"),
    ] {
        let files = [(format!("{folder}/service.toml"), service), (format!("{folder}/access.cedar"), ALL)];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        let answer = replayed(&[sign_in(&told(&[])), event], &files);
        match expected {
            "allowed" => assert_eq!(counts(&answer), (0, 0, 1), "{expected}"),
            "gain" => assert_eq!(counts(&answer), (1, 0, 0), "{expected}"),
            reason => {
                assert_eq!(counts(&answer), (0, 1, 0), "{reason}");
                assert_eq!(answer["items"][0]["now"], reason);
            }
        }
    }
}

#[test]
fn a_grant_counts_as_it_would_have_counted() {
    let held = "@id(\"held\") permit (principal in Entitlement::\"svc/look\", action == Action::\"look\", resource);\n";
    let asks = "permit (principal in Group::\"g\", action == Action::\"request\", resource == Entitlement::\"svc/look\");\n\
                permit (principal in Group::\"g\", action == Action::\"approve\", resource == Entitlement::\"svc/look\");\n";
    let grants = json!([{ "grant": "grt_1", "entitlement": "svc/look", "active_at": NOON.to_string() }]);
    let mut event = with(decision(true, minutes(1), "/b/7"), "/data/grants", grants);
    event = with(with(event, "/grant", json!("grt_1")), "/action", json!("look"));
    let night = asks.replacen(
        "resource == Entitlement::\"svc/look\");",
        "resource == Entitlement::\"svc/look\") when { context.time.hour < 6 };",
        1,
    );
    let fresh = night.replace("context.time.hour < 6", "context has session && context.session.auth_age_seconds < 60");
    let undefined = SERVICE.split_once("[entitlement").unwrap().0;
    let renamed = SERVICE.replace("action = \"look\"", "action = \"view\"").replace("[\"look\"]", "[\"view\"]");
    for (service, access, expected, why) in [
        (SERVICE, format!("{held}{asks}"), (0, 0, 1), "as it was"),
        (
            SERVICE,
            format!("{held}{}", asks.replace("\"g\"", "\"h\"")),
            (0, 1, 0),
            "its holder may not ask for it any more",
        ),
        (SERVICE, format!("{held}{night}"), (0, 1, 0), "at that hour it could not have been asked for"),
        (SERVICE, format!("{held}{fresh}"), (0, 0, 1), "the sign-in was as fresh as it had to be"),
        (
            undefined,
            "permit (principal in Group::\"h\", action == Action::\"look\", resource);\n".to_owned(),
            (0, 1, 0),
            "there is no such entitlement any more",
        ),
        (
            &*renamed,
            format!("{held}{asks}").replace("Action::\"look\"", "Action::\"view\""),
            (0, 1, 0),
            "another action was approved",
        ),
    ] {
        let files = [("svc/service.toml", service), ("svc/access.cedar", &access)];
        assert_eq!(counts(&replayed(&[sign_in(&told(&["g"])), event.clone()], &files)), expected, "{why}");
    }
    // A token that was made under a grant, of somebody who needs none.
    let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", ALL)];
    let needless = with(event, "/data/grants", json!([]));
    assert_eq!(counts(&replayed(&[sign_in(&told(&["g"])), needless], &files)), (0, 0, 1));
}

#[test]
fn pipelines_and_machines_are_who_the_new_trust_rules_say() {
    let rule = |claims: &str, more: &str| {
        format!(
            "[[issuer]]\nname = \"github\"\npreset = \"github-actions\"\naudience = \"https://d\"\n\
             [[rule]]\nname = \"ci\"\nissuer = \"github\"\nclaims = {{ repository_id = \"7\"{claims} }}\ngroups = [\"ci\"]\n{more}\n\
             [[rule]]\nname = \"machine\"\nspiffe = \"spiffe://prod.example.com/ns/batch/*\"\ngroups = [\"ci\"]\n"
        )
    };
    let access = "permit (principal in Group::\"ci\", action == Action::\"read\", resource);\n";
    let claims = json!({ "repository_id": "7", "ref": "refs/heads/main", "sub": "repo:o/n:ref:refs/heads/main" });
    let start = with(sign_in(&told(&["ci"])), "/data/claims", claims);
    let of = |id: &str| {
        with(
            with(decision(true, minutes(1), "/a"), "/actor/principal", json!(format!("Workload::\"{id}\""))),
            "/actor/kind",
            json!("Workload"),
        )
    };
    let job = of("github|ci");
    let machine =
        |path: &str| with(of(&format!("spiffe|spiffe://prod.example.com/ns/{path}")), "/actor/session", Value::Null);
    let reads_actor = "permit (principal is Workload, action == Action::\"read\", resource) when { principal.claims has actor && principal.claims.actor == \"x\" };\n";
    for (event, workloads, access, expected) in [
        (&job, rule(", ref = \"refs/heads/main\"", ""), access, "unchanged"),
        (&job, rule(", ref = \"refs/heads/release\"", ""), access, "no_trust_rule"),
        (&job, rule(", ref = \"refs/heads/main\"", "services = [\"svc\"]"), access, "unchanged"),
        (&job, rule(", ref = \"refs/heads/main\"", "").replace("[\"ci\"]", "[\"other\"]"), access, "no_policy_match"),
        (
            &job,
            rule(", ref = \"refs/heads/main\", actor_id = \"3\"", ""),
            access,
            "a trust rule reads the claim `actor_id`, which is not on record",
        ),
        (
            &job,
            rule(", ref = \"refs/heads/main\"", ""),
            reads_actor,
            "a policy reads `principal.claims.actor`, which is not on record",
        ),
        (&machine("batch/7"), rule(", ref = \"refs/heads/main\"", ""), access, "unchanged"),
        (&machine("web/7"), rule(", ref = \"refs/heads/main\"", ""), access, "no_trust_rule"),
    ] {
        let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", access), ("workloads.toml", &*workloads)];
        let answer = replayed(&[start.clone(), event.clone()], &files);
        match expected {
            "unchanged" => assert_eq!(counts(&answer), (0, 0, 1), "{workloads}"),
            missing if missing.contains(' ') => {
                assert_eq!(answer["summary"]["not_replayable"], json!({ missing: 1 }), "{answer}");
            }
            reason => assert_eq!(answer["items"][0]["now"], reason, "{answer}"),
        }
    }
}

#[test]
fn the_emergency_path_is_replayed_with_its_opening() {
    let access = "permit (principal is BreakGlass, action == Action::\"read\", resource) when { principal.custodians.contains(\"frank\") };\n";
    let who = "BreakGlass::\"brk_1\"";
    let event = with(
        with(
            with(decision(true, minutes(1), "/a"), "/actor/principal", json!(who)),
            "/actor/kind",
            json!("BreakGlass"),
        ),
        "/actor/session",
        Value::Null,
    );
    let opened = |custodian: &str| {
        json!({ "id": "evt_1", "time": NOON.to_string(), "type": "breakglass.opened", "outcome": "success",
            "actor": { "kind": "BreakGlass", "principal": who },
            "data": { "opener": "erin", "reason": "all is down", "custodians": [custodian, "grace"] } })
    };
    let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", access)];
    assert_eq!(counts(&replayed(&[opened("frank"), event.clone()], &files)), (0, 0, 1));
    assert_eq!(counts(&replayed(&[opened("heidi"), event.clone()], &files)), (0, 1, 0));
    let alone = replayed(&[event], &files);
    assert_eq!(alone["summary"]["not_replayable"], json!({ "no opening on record": 1 }));
}

#[test]
fn many_paths_of_one_route_become_one_row() {
    let mut lines = vec![sign_in(&told(&[]))];
    lines.extend((0..50).map(|number| decision(false, minutes(number), &format!("/b/{number}"))));
    let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", ALL)];
    let answer = replayed(&lines, &files);
    assert_eq!(counts(&answer), (50, 0, 0));
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 21);
    assert_eq!((&items[0]["request"]["path"], &items[0]["count"]), (&json!("/b/{id}"), &json!(30)));
    let total: u64 = items.iter().map(|item| item["count"].as_u64().unwrap()).sum();
    assert_eq!(total, 50);
}

#[test]
fn the_exit_code_says_whether_anything_changes_where_that_is_asked() {
    let files = [("svc/service.toml", SERVICE), ("svc/access.cedar", ALL)];
    for (allowed, words, expected) in [
        (true, &["--exit-code"][..], Exit::Done),
        (false, &["--exit-code"], Exit::Failed),
        (false, &[], Exit::Done),
        (false, &["--exit-code", "--service", "other"], Exit::Done),
        // Two hours later the decision is an hour and 59 minutes old.
        (false, &["--exit-code", "--since", "1h59m"], Exit::Failed),
        (false, &["--exit-code", "--since", "1h58m"], Exit::Done),
    ] {
        let lines = [sign_in(&told(&[])), decision(allowed, minutes(1), "/a")];
        assert_eq!(replayed_as(Format::Table, &lines, &files, words).0, expected, "{allowed} {words:?}");
    }
}

#[test]
fn what_can_not_be_read_is_wrong_usage_and_named() {
    let good = folder(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ALL)]);
    let bad = folder(&[("svc/service.toml", SERVICE), ("svc/access.cedar", "permit (\n")]);
    let (good, bad) = (good.path().display().to_string(), bad.path().display().to_string());
    let files = folder(&[("empty", ""), ("text", "{\"id\":1}\nnot json\n")]);
    let file = |name: &str| files.path().join(name).display().to_string();
    for (dir, from, expected) in [
        (&good, file("none"), "reading the export `"),
        (&good, file("empty"), "has no event in it"),
        (&good, file("text"), "line 2: it is not JSON"),
        (&bad, file("empty"), "svc/access.cedar:"),
    ] {
        let (exit, out, said) = ran(&["--dir", dir, "--from", &from], Format::Table);
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""), "{said}");
        assert!(said.contains(expected), "{expected} in {said}");
    }
}
