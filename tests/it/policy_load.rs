//! Loading a folder: what is wrong is told with place and help, and nothing of it is in force.

use std::fs;
use std::path::Path;

use doorward::model::{Principal, ServiceName, Ttl};
use doorward::policy::{
    Facts, InjectionScheme, LoadSettings, PolicySet, Reads, SecretSource, Upstream, UpstreamProtocol, load,
};

use crate::policy::{ask, examples, folder, settings, shown, user};

const SERVICE: &str =
    "upstreams = [\"http://127.0.0.1:9080\"]\n\n[[route]]\nmatch = \"GET /a/{env}\"\naction = \"read\"\n";
const ACCESS: &str = "permit (principal in Group::\"g\", action == Action::\"read\", resource);\n";

/// What loading these files says; a service `svc` is there if not given.
fn told(files: &[(&str, &str)]) -> String {
    let given = |name: &str| files.iter().any(|(file, _)| *file == name);
    let mut all: Vec<(&str, &str)> = [("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS)]
        .into_iter()
        .filter(|(name, _)| !given(name))
        .collect();
    all.extend(files);
    let dir = folder(&all);
    let found = match load(dir.path(), &settings()) {
        Ok(set) => set.warnings().to_vec(),
        Err(found) => found,
    };
    shown(&found).replace(&dir.path().display().to_string(), "DIR")
}

fn loaded(files: &[(&str, &str)]) -> PolicySet {
    let dir = folder(files);
    load(dir.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

#[test]
fn a_folder_without_faults_says_nothing() {
    assert_eq!(told(&[]), "");
}

#[test]
fn a66_a_misspelt_attribute_names_its_place_and_the_way_out() {
    let text = "@id(\"x\")\npermit (\n    principal is User,\n    action == Action::\"read\",\n    resource\n)\nwhen { principal.grups.contains(\"g\") };\n";
    assert_eq!(
        told(&[("svc/access.cedar", text)]),
        "DIR/svc/access.cedar:7:18: error: attribute `grups` on entity type `User` not found\n  \
         help: membership is written `principal in Group::\"name\"`"
    );
    let text = "permit (principal is User, action == Action::\"read\", resource) when { principal.emial == \"a@b\" };";
    assert!(told(&[("svc/access.cedar", text)]).ends_with("help: did you mean `email`?"));
}

#[test]
fn a66_policies_that_are_not_meant_so_are_refused_with_a_way_out() {
    for (policy, place, expected) in [
        (
            "permit (principal, action == Action::\"raed\", resource);",
            "Action::",
            "unrecognized action `Action::\"raed\"`\n  help: did you mean `Action::\"read\"`?",
        ),
        (
            "permit (principal, action == Action::\"zzz\", resource);",
            "Action::",
            "unrecognized action `Action::\"zzz\"`\n  help: known here: `approve`, `auto_approve`, `read`, `request`, `revoke`",
        ),
        (
            "permit (principal in Grup::\"g\", action, resource);",
            "Grup",
            "unrecognized entity type `Grup`\n  help: did you mean `Group`?",
        ),
        (
            "permit (principal, action == Action::\"read\", resource) when { context.params.evn == \"x\" };",
            "evn",
            "help: did you mean `env`?",
        ),
        (
            "permit (principal, action == Action::\"read\", resource) when { context.session.age_seconds < 5 };",
            "context.session.age",
            "has",
        ),
        (
            "permit (principal, action == Action::\"read\", resource == Service::\"other\");",
            "Service::",
            "this file decides about `svc` only, not about `other`",
        ),
        (
            "permit (principal, action == Action::\"revoke\", resource == Installation::\"doorward\");",
            "Installation::",
            "decided by `global.cedar` alone",
        ),
        (
            "permit (principal in Entitlement::\"svc/nothing\", action == Action::\"read\", resource);",
            "Entitlement::",
            "there is no entitlement `svc/nothing`",
        ),
        ("permit (principal == ?principal, action, resource);", "?principal", "is a template"),
        ("permit (principal, action, resource)", "", "unexpected end of input"),
        ("", "", "the file holds no policy"),
        ("// permit (principal, action, resource);\n", "", "the file holds no policy"),
        (
            "@id(\"a\") permit (principal in Group::\"g\", action == Action::\"read\", resource);\n@id(\"a\") forbid (principal in Group::\"h\", action == Action::\"read\", resource);",
            "",
            "two policies are named `a`",
        ),
    ] {
        let told = told(&[("svc/access.cedar", policy)]);
        let column = policy.find(place).unwrap() + 1;
        let at = if place.is_empty() { String::new() } else { format!("1:{column}: error: ") };
        assert!(told.contains(&format!("DIR/svc/access.cedar:{at}")), "{policy}\n{told}");
        assert!(told.contains(expected), "{policy}\n{told}");
    }
}

#[test]
fn a66_service_files_with_faults_are_refused_with_a_way_out() {
    let with = |more: &str| SERVICE.replacen('\n', &format!("\n{more}\n"), 1);
    for (text, place, expected) in [
        (with("upstraems = []"), "2:1", "unknown key `upstraems`\n  help: did you mean `upstreams`?"),
        (
            with("client_certificate = \"optinal\""),
            "2:22",
            "`client_certificate` can't be `optinal`\n  help: did you mean `optional`?",
        ),
        (with("encoded_slash = \"yes\""), "2:17", "`encoded_slash` must be `true` or `false`, not a text"),
        (with("hosts = [\"Svc\"]"), "2:10", "`Svc` is not a host"),
        (with("hosts = [\"svc:443\"]"), "2:10", "`svc:443` is not a host"),
        (with("hosts = [\"*.example.com\"]"), "2:10", "is not a host"),
        (with("hosts = []"), "2:9", "`hosts` is empty"),
        (with("origins = [\"https://app.example.com/\"]"), "2:12", "help: browsers write it `https://app.example.com`"),
        (with("time_zone = \"Europe/Berlln\""), "2:13", "is not a time zone"),
        (with("limits = { burst = 0 }"), "2:20", "`limits.burst` must be from 1 to 10000000"),
        (with("timeouts = { connect = \"5\" }"), "2:24", "help: write `\"5s\"`"),
        (with("timeouts = { connect = \"soon\" }"), "2:24", "help: write `90s`"),
        (
            with("timeouts = { conect = \"5s\" }"),
            "2:14",
            "in `timeouts`: unknown key `conect`\n  help: did you mean `connect`?",
        ),
        (
            with("inject = [{ header = \"X-Forwarded-For\", secret = { env = \"A\" } }]"),
            "2:22",
            "is made by the gateway",
        ),
        (
            with("inject = [{ header = \"A\", scheme = \"basic\", secret = { env = \"A\" } }]"),
            "2:11",
            "`user` is missing",
        ),
        (
            with("inject = [{ header = \"A\", secret = { env = \"A\", file = \"b\" } }]"),
            "2:36",
            "a secret has exactly one source",
        ),
        (
            SERVICE.replace("http://127.0.0.1:9080", "http://169.254.169.254"),
            "1:14",
            "`169.254.169.254` can't be an upstream",
        ),
        (SERVICE.replace("http://127.0.0.1:9080", "http://[::ffff:169.254.169.254]"), "1:14", "can't be an upstream"),
        (SERVICE.replace("http://127.0.0.1:9080", "http://2130706433"), "1:14", "is not a host"),
        (SERVICE.replace("http://127.0.0.1:9080", "http://user@host"), "1:14", "has more than a host and a port"),
        (SERVICE.replace("http://127.0.0.1:9080", "ftp://host"), "1:14", "is not an upstream"),
        (SERVICE.replace("\"read\"", "\"approve\""), "5:10", "the action `approve` is built in"),
        (SERVICE.replace("\"read\"", "\"Read\""), "5:10", "is not the name of an action"),
        (SERVICE.replace("GET ", "get "), "4:9", "`get` is not a method"),
        (SERVICE.replace("GET ", "CONNECT "), "4:9", "`CONNECT` is never passed on"),
        (SERVICE.replace("GET /a/{env}", "GET a"), "4:9", "does not start with `/`"),
        (SERVICE.replace("{env}", "{env}.json"), "4:9", "mixes a literal and a wildcard"),
        (SERVICE.replace("{env}", "**/b"), "4:9", "`**` is not at the end"),
        (SERVICE.replace("{env}", "../b"), "4:9", "the path is not canonical"),
        (SERVICE.replace("{env}", "b?c"), "4:9", "characters that no canonical path has"),
        (SERVICE.replace("{env}", "%41"), "4:9", "characters that no canonical path has"),
        (SERVICE.replace("{env}", "%2f"), "4:9", "characters that no canonical path has"),
        (SERVICE.replace("{env}", "{e-v}"), "4:9", "can't be read as `context.params"),
        (SERVICE.replace("{env}", "{a}/{a}"), "4:9", "is named twice"),
        (
            format!("{SERVICE}[[route]]\nmatch = \"GET|POST /a/{{other}}\"\naction = \"write\"\n"),
            "7:9",
            "is never reached: `GET /a/{env}` on line 4 takes the same requests",
        ),
        ("upstreams = [\"http://a\"]\n".to_owned(), "1:1", "`route` is missing"),
        ("route = []\n".to_owned(), "1:1", "`upstreams` is missing"),
        (SERVICE[..SERVICE.find('[').unwrap() + 5].to_owned(), "1:", "this is not TOML"),
        (SERVICE[..SERVICE.find("match").unwrap()].to_owned(), "3:1", "in `route`: `match` is missing"),
        (SERVICE[..SERVICE.find("action").unwrap()].to_owned(), "3:1", "in `route`: `action` is missing"),
        (format!("upstreams = []\n{SERVICE}"), "2:1", "duplicate key"),
    ] {
        let told = told(&[("svc/service.toml", &text)]);
        assert!(told.contains(&format!("DIR/svc/service.toml:{place}")), "{text}\n{told}");
        assert!(told.contains(expected), "{text}\n{told}");
    }
}

#[test]
fn a66_entitlements_with_faults_are_refused_with_a_way_out() {
    let access = "permit (principal in Entitlement::\"svc/x\", action, resource is Service);\n\
                  permit (principal, action in [Action::\"request\", Action::\"approve\"], resource);\n";
    for (text, expected) in [
        ("", ":6:1: error: in `entitlement.x`: `description` is missing"),
        ("description = \"d\"\nmax = \"0s\"", "is not a length of time"),
        ("description = \"d\"\nmax = \"-1h\"", "is not a length of time"),
        (
            "description = \"d\"\nmax = 3600",
            "`entitlement.x.max` must be a text in quotes, not a number\n  help: write `\"3600s\"`",
        ),
        ("description = \"d\"\nmax = \"3600\"", "is not a length of time: `3600`\n  help: write `\"3600s\"`"),
        ("description = \"d\"\nmax = \"9999999999999999999d\"", "is not a length of time"),
        ("description = \"d\"\nmax = \"365d\"", "longer than `30d`"),
        ("description = \"d\"\nmax = \"1h\"\nmin = \"2h\"", "the shortest grant can't be longer than the longest"),
        ("description = \"d\"\nmax = \"1h\"\ndefault = \"2h\"", "`default` is `2h`, outside of `1m` to `1h`"),
        ("description = \"d\"\napprovals = 0", "`entitlement.x.approvals` must be from 1 to 10"),
        ("description = \"d\"\napprovals = -1", "must be from 1 to 10"),
        ("description = \"d\"\nticket = \"[A-Z\"", "is not a regular expression"),
        (
            "description = \"d\"\nactions = [\"raed\"]",
            "no route of this service leads to an action `raed`\n  help: did you mean `read`?",
        ),
        ("description = \"d\"\nreason = \"always\"", "can't be `always`"),
        ("description = \"d\"\ncapacity = 0", "must be from 1 to 1000000"),
        ("description = \"d\"\nextended_max = \"5m\"", "shorter than `max`"),
        (
            "description = \"d\"\nparameters = { p = { value = [] } }",
            "unknown key `value`\n  help: did you mean `values`?",
        ),
    ] {
        let service = format!("{SERVICE}[entitlement.x]\n{text}\n");
        let told = told(&[("svc/service.toml", &service), ("svc/access.cedar", access)]);
        assert!(told.contains(expected), "{text}\n{told}");
        assert!(told.contains(" error: "), "{text}\n{told}");
    }
}

#[test]
fn a66_files_of_the_folder_are_what_they_should_be_or_refused() {
    for (files, expected) in [
        (
            &[("svc/acess.cedar", ACCESS)][..],
            "DIR/svc/acess.cedar: error: `acess.cedar` is not a file that is read here\n  help: did you mean `access.cedar`?",
        ),
        (&[("group.toml", "[group.a]\n")], "did you mean `groups.toml`?"),
        (&[("workloads.toml", "[[rule]]\n")], "each `[[rule]]` has a `name`"),
        (&[("Other/service.toml", SERVICE)], "`Other` is not the name of a service"),
        (&[("other/service.toml", SERVICE)], "DIR/other: error: `access.cedar` is missing"),
        (&[("other/access.cedar", ACCESS)], "DIR/other: error: `service.toml` is missing"),
        (
            &[("global.cedar", "permit (principal, action == Action::\"read\", resource);")],
            "DIR/global.cedar:1:30: error: unrecognized action `Action::\"read\"`\n  help: `global.cedar` holds for all services and may name built-in actions only",
        ),
        (&[("global.cedar", "\n")], "DIR/global.cedar:1:1: error: the file holds no policy"),
        (
            &[("global.cedar", "forbid (principal, action, resource == Service::\"scv\");")],
            "there is no service `scv`\n  help: did you mean `svc`?",
        ),
        (&[("groups.toml", "")], "the file holds no group"),
        (&[("groups.toml", "[group.\"a|b\"]\n")], "`a|b` can't be a group of this file"),
        (&[("groups.toml", "[group.a]\nmembers = [\"alice\"]\n")], "`alice` names nobody"),
        (&[("groups.toml", "[group.a]\nincludes = [\"b\"]\n[group.b]\nincludes = [\"a\"]\n")], "include each other"),
        (&[("groups.toml", "[group.a]\nmember = []\n")], "did you mean `members`?"),
        (
            &[("people.toml", "[[person]]\naccounts = [\"a|1\"]\n[[person]]\naccounts = [\"a|1\"]\n")],
            "`a|1` is listed twice",
        ),
        (&[("people.toml", "[[person]]\naccounts = [\"a@b.c\"]\n")], "`a@b.c` is no account"),
        (
            &[
                ("other/service.toml", &SERVICE.replacen("upstreams", "hosts = [\"svc\"]\nupstreams", 1)),
                ("other/access.cedar", ACCESS),
            ],
            "the host `svc.doorward.localhost` belongs to `other` already",
        ),
    ] {
        let told = told(files);
        assert!(told.contains(expected), "{files:?}\n{told}");
        assert!(told.contains(" error: "), "{told}");
    }
    assert!(shown(&load(Path::new("/nonexistent/policies"), &settings()).unwrap_err()).contains("could not be read"));
    let empty = tempfile::tempdir().unwrap();
    assert!(shown(&load(empty.path(), &settings()).unwrap_err()).contains("there is no service here"));
}

/// What loading says of a rule for these claims of a job.
fn told_of_claims(preset: &str, claims: &str) -> String {
    told(&[(
        "workloads.toml",
        &format!(
            "[[issuer]]\nname = \"ci\"\npreset = \"{preset}\"\naudience = \"https://d\"\n\
             [[rule]]\nname = \"build\"\nissuer = \"ci\"\nclaims = {{ {claims} }}\n"
        ),
    )])
}

#[test]
fn a_trust_rule_that_a_pull_request_meets_is_too_broad_however_it_is_written() {
    const GITHUB: &str = "github-actions";
    for (preset, id, claim) in [
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:pull*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/*:pull_request\""),
        (GITHUB, "repository_id", "sub = [\"repo:org/app:ref:refs/heads/main\", \"repo:org/app:*request\"]"),
        (GITHUB, "repository_id", "sub = \"repo:org/app:ref:*\""),
        (GITHUB, "repository_id", "ref = \"refs/*\""),
        (GITHUB, "repository_id", "ref = \"refs/p*\""),
        (GITHUB, "repository_id", "ref = \"*/1/merge\""),
        (GITHUB, "repository_id", "ref = \"refs/pull/7/head\""),
        (GITHUB, "repository_id", "workflow_ref = \"org/app/.github/workflows/deploy.yml@*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\", ref = \"refs/*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\", environment = \"*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\", event_name = \"*\""),
        ("gitlab", "project_id", "sub = \"project_path:g/p:*\""),
        ("gitlab", "project_id", "sub = \"project_path:g/p:ref_type:branch:ref:*\""),
        ("gitlab", "project_id", "ref = \"refs/merge*\""),
    ] {
        let told = told_of_claims(preset, &format!("{id} = \"7\", {claim}"));
        assert!(told.contains(" error: ") && told.contains("takes pull requests"), "{claim}\n{told}");
    }
}

#[test]
fn a_wildcard_that_no_pull_request_meets_or_another_claim_narrows_is_no_fault() {
    const GITHUB: &str = "github-actions";
    for (preset, id, claim) in [
        (GITHUB, "repository_id", "sub = \"repo:org/app:ref:refs/heads/*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/*:ref:refs/heads/main\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:environment:*\""),
        (GITHUB, "repository_id", "ref = \"refs/heads/*\""),
        (GITHUB, "repository_id", "ref = \"refs/tags/v*\""),
        (GITHUB, "repository_id", "ref = \"refs/*/release\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\", ref = \"refs/heads/main\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\", environment = \"staging\""),
        (GITHUB, "repository_id", "job_workflow_ref = \"org/ci/.github/workflows/deploy.yml@refs/heads/*\""),
        ("gitlab", "project_id", "sub = \"project_path:g/p:ref_type:branch:ref:release-*\""),
        ("gitlab", "project_id", "sub = \"project_path:g/p:ref_type:tag:ref:*\""),
        ("gitlab", "project_id", "sub = \"project_path:g/p:*\", ref_protected = \"true\""),
        ("gitlab", "project_id", "ref = \"release-*\""),
        (GITHUB, "repository_id", "sub = \"repo:org/app:*\", event_name = \"push\""),
        (GITHUB, "repository_id", "ref = \"refs/*\", ref_type = \"tag\""),
        ("gitlab", "project_id", "sub = \"project_path:g/p:*\", pipeline_source = \"web\""),
    ] {
        assert_eq!(told_of_claims(preset, &format!("{id} = \"7\", {claim}")), "", "{claim}");
    }
}

#[test]
fn a66_bytes_that_are_not_text_and_files_without_end_are_refused() {
    let dir = folder(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS)]);
    fs::write(dir.path().join("svc/access.cedar"), b"permit (\n\xff").unwrap();
    let told = shown(&load(dir.path(), &settings()).unwrap_err());
    assert!(told.contains("access.cedar:2:1: error: the file is not UTF-8"), "{told}");
    fs::write(dir.path().join("svc/access.cedar"), " ".repeat(1_048_577)).unwrap();
    let told = shown(&load(dir.path(), &settings()).unwrap_err());
    assert!(told.contains("the file has 1048577 bytes"), "{told}");
}

#[test]
fn one_run_tells_all_faults_by_place() {
    let told = told(&[
        ("svc/service.toml", &SERVICE.replace("GET ", "get ").replace("upstreams", "upstream")),
        ("groups.toml", "x = 1\n"),
    ]);
    let places: Vec<&str> =
        told.lines().filter(|line| !line.starts_with("  ")).filter_map(|line| line.split(" error").next()).collect();
    assert_eq!(
        places,
        [
            "DIR/groups.toml:1:1:",
            "DIR/groups.toml:1:1:",
            "DIR/svc/service.toml:1:1:",
            "DIR/svc/service.toml:1:1:",
            "DIR/svc/service.toml:4:9:"
        ]
    );
}

#[test]
fn errors_come_first_and_a_policy_with_an_error_is_not_called_dead_too() {
    let access = "permit (principal is User, action == Action::\"read\", resource) when { principal is Workload };\n\
                  permit (principal, action == Action::\"raed\", resource);\n";
    let told = told(&[("svc/access.cedar", access)]);
    let found: Vec<&str> = told.lines().filter(|line| !line.starts_with("  ")).collect();
    assert_eq!(found.len(), 2, "{told}");
    assert!(found[0].contains(":2:30: error: unrecognized action"), "{told}");
    assert!(found[1].contains(":1:1: warning: the policy `svc/access.cedar:1` can never match"), "{told}");
}

#[test]
fn a_list_of_entitlements_is_told_how_they_are_written() {
    let service = format!("{SERVICE}[[entitlement]]\ndescription = \"d\"\n");
    let told = told(&[("svc/service.toml", &service)]);
    assert!(told.contains("`entitlement` must be a table, not a list\n  help: write `[entitlement.NAME]`"), "{told}");
}

#[test]
fn a_method_that_is_a_slip_of_one_in_use_is_a_warning() {
    let with = |method: &str| told(&[("svc/service.toml", &SERVICE.replace("GET ", &format!("{method} ")))]);
    for (method, near) in [("GETT", "GET"), ("PSOT", "POST"), ("GET|PACH", "PATCH"), ("PROPFINDS", "PROPFIND")] {
        let told = with(method);
        assert!(told.contains(&format!("help: did you mean `{near}`?")) && told.contains(" warning: "), "{told}");
    }
    for method in ["GET", "MKCALENDAR", "PURGE", "SUBSCRIBE"] {
        assert_eq!(with(method), "", "{method}");
    }
}

#[test]
fn a_group_that_is_a_slip_of_one_that_providers_give_is_a_warning() {
    let access = "permit (principal in Group::\"enginering\", action == Action::\"read\", resource);";
    let dir = folder(&[("svc/service.toml", SERVICE), ("svc/access.cedar", access)]);
    let told = |groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        shown(load(dir.path(), &LoadSettings { groups, ..settings() }).unwrap().warnings())
    };
    assert!(
        told(&["engineering"]).contains("providers give no group `enginering`\n  help: did you mean `engineering`?")
    );
    assert_eq!(told(&["engineering", "enginering"]), "");
    assert_eq!(told(&[]), "");
}

#[test]
fn what_is_valid_and_probably_not_meant_is_a_warning() {
    let entitled = format!("{SERVICE}[entitlement.x]\ndescription = \"d\"\n");
    for (files, expected) in [
        (&[("svc/access.cedar", "permit (principal, action, resource);")][..], "permits everything to everyone"),
        (
            &[("svc/service.toml", entitled.as_str())],
            "DIR/svc/service.toml:6:14: warning: holding `svc/x` changes nothing",
        ),
        (&[("svc/service.toml", entitled.as_str())], "warning: nobody may request `svc/x`"),
        (
            &[
                ("svc/service.toml", entitled.as_str()),
                (
                    "svc/access.cedar",
                    "permit (principal in Entitlement::\"svc/x\", action, resource);\npermit (principal in Group::\"g\", action == Action::\"request\", resource);",
                ),
            ],
            "also permits to approve and revoke this service's entitlements",
        ),
        (
            &[
                ("svc/service.toml", entitled.as_str()),
                (
                    "svc/access.cedar",
                    "permit (principal in Entitlement::\"svc/x\", action, resource is Service);\npermit (principal in Group::\"g\", action == Action::\"request\", resource);",
                ),
            ],
            "nobody may approve `svc/x`",
        ),
        (
            &[(
                "svc/access.cedar",
                "permit (principal is User, action == Action::\"read\", resource) when { principal is Workload };",
            )],
            "the policy `svc/access.cedar:1` can never match",
        ),
        (
            &[("svc/access.cedar", "permit (principal, action == Action::\"read\", resource is Entitlement);")],
            "the policy `svc/access.cedar:1` can never match",
        ),
        (
            &[
                ("groups.toml", "[group.operators]\n"),
                (
                    "svc/access.cedar",
                    "permit (principal in Group::\"operatros\", action == Action::\"read\", resource);",
                ),
            ],
            "`groups.toml` has no group `operatros`\n  help: did you mean `operators`?",
        ),
        (
            &[("global.cedar", "forbid (principal is User, action == Action::\"lock\", resource is Entitlement);")],
            "the policy `global.cedar:1` can never match",
        ),
    ] {
        let told = told(files);
        assert!(told.contains(expected), "{files:?}\n{told}");
        assert!(!told.contains(" error: "), "{told}");
    }
}

#[test]
fn a_parameter_of_an_entitlement_that_no_route_of_what_it_opens_has_is_a_warning() {
    let routes = "[[route]]\nmatch = \"GET /{db}/rows\"\naction = \"rows\"\n";
    let asks = "[entitlement.x]\ndescription = \"d\"\n[entitlement.x.parameters]\nenv = {}\ndb = {}\nnote = {}\n";
    let rules = "permit (principal in Group::\"g\", action in [Action::\"request\", Action::\"approve\"], resource is Entitlement);\n";
    let opens = "permit (principal in Entitlement::\"svc/x\", action == Action::\"read\", resource is Service);\n";
    let more = "permit (principal in Entitlement::\"svc/x\", action == Action::\"rows\", resource is Service);\n";
    let said = |access: &str| {
        told(&[
            ("svc/service.toml", &format!("{SERVICE}{routes}{asks}")),
            ("svc/access.cedar", &format!("{rules}{access}")),
        ])
    };
    let warning = |name: &str| {
        format!("the parameter `{name}` of `svc/x` binds nothing: no route of what it opens has a `{{{name}}}`")
    };
    let told = said(opens);
    assert!(told.contains(&warning("db")) && told.contains(&warning("note")), "{told}");
    assert!(!told.contains(&warning("env")) && !told.contains(" error: "), "{told}");
    let told = said(&format!("{opens}{more}"));
    assert!(!told.contains(&warning("db")) && told.contains(&warning("note")), "{told}");
}

#[test]
fn a_parameter_of_an_entitlement_that_only_some_routes_of_what_it_opens_have_is_a_warning() {
    let routes = "[[route]]\nmatch = \"GET /rows/{db}\"\naction = \"read\"\n\
                  [[route]]\nmatch = \"GET /size/{db}\"\naction = \"size\"\n";
    let asks = "[entitlement.x]\ndescription = \"d\"\nactions = [\"read\", \"size\"]\n\
                [entitlement.x.parameters]\ndb = {}\n";
    let rules = "permit (principal in Group::\"g\", action in [Action::\"request\", Action::\"approve\"], resource is Entitlement);\n";
    let said = |condition: &str| {
        let opens = "permit (principal in Entitlement::\"svc/x\", action in [Action::\"read\", Action::\"size\"], resource is Service)";
        told(&[
            ("svc/service.toml", &format!("{SERVICE}{routes}{asks}")),
            ("svc/access.cedar", &format!("{rules}{opens}{condition};\n")),
        ])
    };
    let warning = "warning: the parameter `db` of `svc/x` binds only in part: it also opens `GET /a/{env}` without a \
                   `{db}`, for each value\n  help: name the segment so there, give those routes an action of their own, \
                   or let the policy ask for `context.params has db`";
    for condition in [
        "",
        " when { context.method == \"GET\" }",
        " when { context.method == \"GET\" || context.params has db }",
        " unless { context.params has db }",
    ] {
        let told = said(condition);
        assert!(told.contains(warning) && told.lines().count() == 2, "{condition}\n{told}");
    }
    // Then the other route is not open at all.
    for condition in [
        " when { context.params has db }",
        " when { context has params.db }",
        " when { context.method == \"GET\" && context.params has db && context.params.db != \"ledger\" }",
    ] {
        assert_eq!(said(condition), "", "{condition}");
    }
}

#[test]
fn a_policy_whose_conditions_contradict_each_other_is_a_warning() {
    let with = |scope: &str, condition: &str| {
        told(&[(
            "svc/access.cedar",
            &format!("{ACCESS}permit ({scope}, action == Action::\"read\", resource) {condition};"),
        )])
    };
    let ada = "principal == User::\"corp|ada\"";
    for (scope, condition, expected) in [
        (
            "principal",
            "when { context.params.env == \"a\" && context.params.env == \"b\" }",
            "`context.params.env` would have to be `\"a\"` and `\"b\"`",
        ),
        (
            "principal",
            "when { context.params.env == \"a\" } when { \"b\" == context.params.env }",
            "`context.params.env` would have to be",
        ),
        (
            ada,
            "when { context.host == \"h\" && (context.method == \"GET\" && principal == User::\"corp|bob\") }",
            "`principal` would have to be `User::\"corp|ada\"` and `User::\"corp|bob\"`",
        ),
        ("principal", "when { context.method == \"PUT\" }", "no route of its action has the method `PUT`"),
        ("principal", "when { context.method == \"get\" }", "no route of its action has the method `get`"),
        ("principal", "when { context.time.hour == 24 }", "`context.time.hour` is 0 to 23"),
        ("principal", "when { context.time.hour > 23 }", "`context.time.hour` is 0 to 23"),
        ("principal", "when { context.time.hour >= 18 && context.time.hour < 8 }", "`context.time.hour` is 0 to 23"),
        ("principal", "when { context.time.weekday == 0 }", "`context.time.weekday` is 1 to 7"),
        ("principal", "when { 7 < context.time.weekday }", "`context.time.weekday` is 1 to 7"),
    ] {
        let told = with(scope, condition);
        assert!(told.contains(&format!("can never match: {expected}")), "{condition}\n{told}");
        assert!(told.contains(":2:1: warning: the policy `svc/access.cedar:2`"), "{told}");
    }
    for (scope, condition) in [
        ("principal", "when { context.params.env == \"a\" || context.params.env == \"b\" }"),
        ("principal", "when { context.params.env == \"a\" && !(context.params.env == \"b\") }"),
        ("principal", "when { context.params.env == \"a\" } unless { context.params.env == \"b\" }"),
        (
            "principal",
            "when { if context.method == \"GET\" then context.params.env == \"a\" else context.params.env == \"b\" }",
        ),
        ("principal", "when { context has device && context.params.env == \"a\" && context.params.env == \"a\" }"),
        (ada, "when { principal == User::\"corp|ada\" }"),
        ("principal", "when { context.method == \"HEAD\" }"),
        ("principal", "unless { context.method == \"PUT\" }"),
        ("principal", "when { context.time.hour >= 0 && context.time.hour <= 23 && context.time.weekday == 7 }"),
        ("principal", "when { context.time.hour >= 18 || context.time.hour < 8 }"),
        ("principal", "when { 18 <= context.time.hour && 24 > context.time.hour }"),
    ] {
        let told = with(scope, condition);
        assert!(!told.contains("can never match"), "{condition}\n{told}");
        assert!(!told.contains(" error: "), "{condition}\n{told}");
    }
}

#[test]
fn holding_an_entitlement_only_bars_where_no_policy_gives_anything_for_it() {
    let held = "principal in Entitlement::\"svc/x\"";
    let with = |effect: &str, scope: &str, condition: &str| {
        format!("{effect} ({scope}, action == Action::\"read\", resource is Service) {condition};\n")
    };
    let forbid = |condition: &str| with("forbid", "principal", condition);
    let gives = with("permit", held, "");
    let bars = with("forbid", held, "");
    for (rule, expected) in [
        (gives.clone(), false),
        (bars.clone(), true),
        (format!("{bars}{gives}"), false),
        (bars.replace("read", "write"), false),
        (forbid(&format!("when {{ {held} && (context.method == \"GET\" || {held}) }}")), true),
        (forbid(&format!("when {{ !(context.method == \"GET\" && !({held})) }}")), true),
        (forbid(&format!("when {{ !({held}) }}")), false),
        (forbid(&format!("unless {{ {held} }}")), false),
        (forbid(&format!("unless {{ !({held}) }}")), true),
        (forbid(&format!("when {{ if {held} then false else true }}")), false),
        (forbid(&format!("when {{ ({held}) == false }}")), false),
        (forbid(&format!("when {{ {held} }} unless {{ {held} && context.method == \"GET\" }}")), false),
        (with("permit", "principal", &format!("unless {{ {held} }}")), true),
        (with("permit", "principal", &format!("when {{ !({held}) }}")), true),
        (with("permit", "principal", &format!("when {{ {held} }}")), false),
        (with("permit", "principal is User", ""), false),
    ] {
        let service = format!(
            "{SERVICE}[[route]]\nmatch = \"PUT /a/{{env}}\"\naction = \"write\"\n[entitlement.x]\ndescription = \"d\"\n"
        );
        let set = loaded(&[("svc/service.toml", &service), ("svc/access.cedar", &rule)]);
        let service = set.services().next().unwrap();
        let read = service.actions().find(|action| action.as_str() == "read").unwrap();
        let name = set.entitlements().next().unwrap().name.clone();
        assert_eq!(service.only_bars(&name, read), expected, "{rule}");
    }
}

#[test]
fn a_global_policy_opens_only_where_it_holds() {
    let there = "permit (principal in Entitlement::\"svc/x\", action, resource == Service::\"other\");\n";
    let service = format!("{SERVICE}[entitlement.x]\ndescription = \"d\"\n");
    let other = SERVICE.replace("read", "look");
    let there_too = ACCESS.replace("read", "look");
    let files = [("svc/service.toml", service.as_str()), ("svc/access.cedar", ACCESS), ("global.cedar", there)];
    let set = loaded(&[&files[..], &[("other/service.toml", &other), ("other/access.cedar", &there_too)]].concat());
    let name = set.entitlements().next().unwrap().name.clone();
    assert_eq!(set.opened_by(&name).iter().map(ToString::to_string).collect::<Vec<_>>(), ["other/look"]);
}

#[test]
fn a_global_policy_holds_for_every_service_and_is_no_warning_if_it_matches_in_one() {
    let global = "@id(\"no-strangers\") forbid (principal is User, action, resource is Service) unless { principal in Group::\"staff\" };";
    let set = loaded(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS), ("global.cedar", global)]);
    assert!(set.warnings().is_empty(), "{}", shown(set.warnings()));
    let outside = user(&set, "a", &["g"], &[]);
    let verdict = ask(&set, "svc", &outside, "GET", "/a/x").unwrap();
    assert_eq!((verdict.allow, verdict.reason.name()), (false, "forbidden_by_policy"));
    assert_eq!(verdict.policies, ["no-strangers".into()]);
    assert!(ask(&set, "svc", &user(&set, "a", &["g", "staff"], &[]), "GET", "/a/x").unwrap().allow);
}

#[test]
fn a10_a_policy_that_can_not_be_evaluated_refuses_even_beside_a_permit() {
    let access = "permit (principal, action == Action::\"read\", resource);\n\
                  @id(\"sum\") forbid (principal, action == Action::\"read\", resource) when { context.time.unix * 9223372036854775807 < 0 };\n";
    let set = loaded(&[("svc/service.toml", SERVICE), ("svc/access.cedar", access)]);
    let verdict = ask(&set, "svc", &user(&set, "a", &[], &[]), "GET", "/a/x").unwrap();
    assert!(!verdict.allow);
    assert_eq!(verdict.reason.name(), "forbidden_by_policy");
    assert!(verdict.errors[0].starts_with("sum: "), "{:?}", verdict.errors);
}

#[test]
fn the_version_is_of_the_policies_and_not_of_their_tests() {
    let base: &[(&str, &str)] = &[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS)];
    let version = |more: &[(&str, &str)]| loaded(&[base, more].concat()).version().to_string();
    let plain = version(&[]);
    assert!(plain.starts_with("sha256:") && plain.len() == 71);
    assert_eq!(plain, version(&[("svc/tests.toml", "")]));
    assert_eq!(plain, version(&[("README.md", "hello")]));
    assert_ne!(plain, version(&[("groups.toml", "[group.x]\n")]));
    assert_ne!(plain, loaded(&[base[0], ("svc/access.cedar", &format!("{ACCESS}\n"))]).version().to_string());
}

#[test]
fn hosts_get_the_domain_and_lead_to_their_service() {
    let text = SERVICE.replacen("upstreams", "hosts = [\"svc\", \"wiki.example.com\"]\nupstreams", 1);
    let set = loaded(&[("svc/service.toml", &text), ("svc/access.cedar", ACCESS)]);
    let found = |host: &str| set.service_for_host(host).map(|service| service.name.to_string());
    assert_eq!(found("svc.doorward.localhost").as_deref(), Some("svc"));
    assert_eq!(found("wiki.example.com").as_deref(), Some("svc"));
    for other in ["svc", "SVC.doorward.localhost", "x.wiki.example.com", "wiki.example.com.", ""] {
        assert_eq!(found(other), None, "{other}");
    }
    let settings = LoadSettings { domain: "corp.example".to_owned(), groups: Vec::new() };
    let dir = folder(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS)]);
    assert!(load(dir.path(), &settings).unwrap().service_for_host("svc.corp.example").is_some());
}

#[test]
fn a_service_file_sets_what_it_says() {
    let set = examples();
    let service = |name: &str| set.service(&ServiceName::parse(name).unwrap()).unwrap().clone();
    let wiki = service("legacy-wiki");
    assert_eq!(wiki.inject.len(), 1);
    assert_eq!(wiki.inject[0].scheme, InjectionScheme::Basic { user: "doorward".to_owned() });
    assert!(matches!(&wiki.inject[0].secret, SecretSource::File(path) if path.is_absolute() && path.is_file()));
    let metrics = service("metrics");
    assert_eq!(metrics.timeouts.first_byte, Ttl::minutes(3));
    assert_eq!(metrics.timeouts.connect, Ttl::seconds(5));
    assert_eq!((metrics.limits.burst, metrics.limits.body_bytes_max), (400, Some(1 << 20)));
    let prod = &service("ops-api").entitlements["deploy-prod"];
    assert_eq!((prod.min, prod.default, prod.max), (Ttl::seconds(2), Ttl::minutes(30), Ttl::hours(1)));
    let ticket = prod.ticket.as_ref().unwrap();
    assert!(ticket.matches("OPS-1") && !ticket.matches("x OPS-1") && !ticket.matches("OPS-1\n") && !ticket.matches(""));
    assert_eq!(prod.command(&[]), "doorward request ops-api/deploy-prod --reason TEXT --ticket TICKET");
    for name in ["ops-api", "metrics", "deploy-pipeline", "database-admin", "legacy-wiki"] {
        assert_eq!(
            service(name).upstreams,
            [Upstream { tls: false, host: "127.0.0.1".to_owned(), port: 9080, protocol: UpstreamProtocol::Http1 }]
        );
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name).join("service.toml"));
        assert!(text.unwrap().lines().any(|line| line == "upstreams = [\"http://127.0.0.1:9080\"]"), "dev rewrites it");
    }
}

#[test]
fn upstreams_are_read_in_all_their_spellings() {
    for (text, tls, host, port, protocol) in [
        ("http://a", false, "a", 80, UpstreamProtocol::Http1),
        ("https://A.b/", true, "a.b", 443, UpstreamProtocol::Auto),
        ("h2c://10.0.0.1:50051", false, "10.0.0.1", 50051, UpstreamProtocol::Http2),
        ("h2://[::1]:8443", true, "::1", 8443, UpstreamProtocol::Http2),
        ("http://[2001:db8::1]", false, "2001:db8::1", 80, UpstreamProtocol::Http1),
    ] {
        let text = SERVICE.replace("http://127.0.0.1:9080", text);
        let set = loaded(&[("svc/service.toml", &text), ("svc/access.cedar", ACCESS)]);
        let upstream = set.services().next().unwrap().upstreams[0].clone();
        assert_eq!(upstream, Upstream { tls, host: host.to_owned(), port, protocol });
    }
}

#[test]
fn reads_are_what_the_policies_of_an_action_look_at_and_everything_on_doubt() {
    let none = Reads::default();
    for (condition, expected) in [
        ("true", none),
        ("context.path == \"/a\"", Reads { path: true, ..none }),
        ("context.method == context.host", Reads { method: true, host: true, ..none }),
        ("context[\"path\"] == \"/a\"", Reads { path: true, ..none }),
        ("context.address.isLoopback()", Reads { address: true, ..none }),
        ("context has session && context.session.amr.contains(\"hwk\")", Reads { session: true, ..none }),
        ("context has session && context.session.age_seconds < 5", Reads { session: true, time: true, ..none }),
        ("context has device && context.device.trusted", Reads { device: true, ..none }),
        ("context has device.id", Reads::EVERYTHING),
        ("context has token && context.token.scope.contains(\"x\")", Reads { token: true, ..none }),
        ("context.time.hour < 9", Reads { time: true, ..none }),
        ("context.params.env == \"x\"", Reads { params: true, ..none }),
        (
            "if principal is User then context.path == \"x\" else context.host == \"y\"",
            Reads { path: true, host: true, ..none },
        ),
        ("[context.path, \"x\"].contains(\"y\")", Reads { path: true, ..none }),
        ("{a: context.path}.a == \"y\"", Reads { path: true, ..none }),
        ("context == context", Reads::EVERYTHING),
        ("\"context.path\" == \"context\"", none),
    ] {
        let access = format!("permit (principal, action == Action::\"read\", resource) when {{ {condition} }};");
        let set = loaded(&[("svc/service.toml", SERVICE), ("svc/access.cedar", &access)]);
        let service = set.services().next().unwrap();
        let action = service.actions().next().unwrap();
        assert_eq!(service.reads(action), expected, "{condition}");
    }
}

#[test]
fn only_policies_that_could_match_an_action_count_for_what_it_reads() {
    let set = examples();
    let service = set.service(&ServiceName::parse("deploy-pipeline").unwrap()).unwrap();
    for action in service.actions() {
        let reads = service.reads(action);
        assert_eq!(reads.time, action.as_str() == "promote", "{action}");
        assert!(!reads.path && !reads.address, "{action}");
    }
}

#[test]
fn a70_groups_come_by_provider_by_id_and_by_verified_e_mail_only_and_nest() {
    let groups = "[group.leads]\nmembers = [\"Bob@Example.COM\", \"corp|7\"]\nincludes = [\"corp|chiefs\"]\n\
                  [group.staff]\nincludes = [\"leads\"]\n[group.all]\nincludes = [\"staff\"]\n";
    let set = loaded(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS), ("groups.toml", groups)]);
    for (id, email, verified, told, expected) in [
        ("corp|1", None, true, &["x"][..], &["x"][..]),
        ("corp|7", None, false, &[], &["all", "leads", "staff"]),
        ("corp|8", None, false, &["corp|chiefs"], &["all", "corp|chiefs", "leads", "staff"]),
        ("corp|1", Some("Bob@example.com"), true, &[], &["all", "leads", "staff"]),
        ("corp|1", Some("Bob@example.com"), false, &[], &[]),
        ("corp|1", Some("bob@example.com"), true, &[], &[]),
        ("corp|1", Some("Bob@example.com@evil"), true, &[], &[]),
        ("corp|1", Some(" Bob@example.com"), true, &[], &[]),
        ("other|7", None, true, &["other|chiefs"], &["other|chiefs"]),
    ] {
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        let subject = set.subject(&Facts {
            principal: &Principal::parse(id).unwrap(),
            email,
            email_verified: verified,
            name: None,
            groups: &told,
            entitlements: &[],
            claims: None,
            breakglass: None,
        });
        assert_eq!(subject.groups(), expected, "{id} {email:?} {verified}");
    }
}

#[test]
fn a39_a_rule_on_an_address_is_met_by_a_verified_one_only() {
    let access = "permit (principal is User, action == Action::\"read\", resource) when { principal.email == \"a@example.com\" };";
    let set = loaded(&[("svc/service.toml", SERVICE), ("svc/access.cedar", access)]);
    for (email, verified, expected) in
        [(Some("a@example.com"), true, true), (Some("a@example.com"), false, false), (None, true, false)]
    {
        let subject = set.subject(&Facts {
            principal: &Principal::user("p", "1").unwrap(),
            email,
            email_verified: verified,
            name: None,
            groups: &[],
            entitlements: &[],
            claims: None,
            breakglass: None,
        });
        assert_eq!(ask(&set, "svc", &subject, "GET", "/a/x").unwrap().allow, expected, "{email:?} {verified}");
    }
}

#[test]
fn people_with_linked_accounts_or_one_verified_address_are_one() {
    let people = "[[person]]\nname = \"Alice\"\naccounts = [\"a|1\", \"b|1\"]\n[[person]]\naccounts = [\"a|2\"]\n";
    let set = loaded(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS), ("people.toml", people)]);
    let id = |text: &str| Principal::parse(text).unwrap();
    let one = |left: (&str, Option<&str>), right: (&str, Option<&str>)| {
        set.people().are_one((&id(left.0), left.1), (&id(right.0), right.1))
    };
    assert!(one(("a|1", None), ("b|1", None)));
    assert!(one(("c|9", None), ("c|9", None)));
    assert!(one(("a|1", Some("x@y.z")), ("c|9", Some("X@Y.z"))));
    assert!(!one(("a|1", None), ("a|2", None)));
    assert!(!one(("c|8", None), ("c|9", None)));
    assert_eq!(set.people().name_of(&id("b|1")), Some("Alice"));
}

#[test]
fn a_parameter_that_only_some_routes_have_must_be_asked_for_before_it_is_read() {
    let service = format!("{SERVICE}[[route]]\nmatch = \"GET /a\"\naction = \"read\"\n");
    let bare = "permit (principal, action == Action::\"read\", resource) when { context.params.env == \"x\" };";
    assert!(told(&[("svc/service.toml", &service), ("svc/access.cedar", bare)]).contains("optional attribute"));
    let asked = "permit (principal, action == Action::\"read\", resource) when { context.params has env && context.params.env == \"x\" };";
    let set = loaded(&[("svc/service.toml", &service), ("svc/access.cedar", asked)]);
    let subject = user(&set, "a", &[], &[]);
    assert!(ask(&set, "svc", &subject, "GET", "/a/x").unwrap().allow);
    assert!(!ask(&set, "svc", &subject, "GET", "/a").unwrap().allow);
}

#[test]
fn a_policy_whose_scope_nothing_here_meets_is_a_warning() {
    let said = |policy: &str| told(&[("svc/access.cedar", &format!("{ACCESS}{policy}\n"))]);
    for (policy, at, expected) in [
        (
            "permit (principal in Group::\"g\", action == Action::\"lock\", resource);",
            "Action::\"lock\"",
            "can never match: `Action::\"lock\"` is done to the installation",
        ),
        (
            "permit (principal in Group::\"g\", action in [Action::\"lock\", Action::\"review\"], resource);",
            "Action::\"lock\"",
            "write it into `global.cedar`",
        ),
        (
            "permit (principal in Group::\"g\", action == Action::\"approve\", resource);",
            "Action::\"approve\"",
            "can never match: `Action::\"approve\"` is done to an entitlement, and `svc` has none",
        ),
        (
            "permit (principal == User::\"alice\", action == Action::\"read\", resource);",
            "User::",
            "nobody is `User::\"alice\"`: an id is written `User::\"<provider>|<subject>\"`",
        ),
        (
            "permit (principal == Workload::\"ci\", action == Action::\"read\", resource);",
            "Workload::",
            "an id is written `Workload::\"<issuer>|<rule>\"`",
        ),
    ] {
        let told = said(policy);
        let place = format!("DIR/svc/access.cedar:2:{}: warning: ", policy.find(at).unwrap() + 1);
        assert!(told.starts_with(&place) && told.contains(expected), "{policy}\n{told}");
        assert_eq!(told.matches(" warning: ").count(), 1, "{told}");
    }
    for policy in [
        "permit (principal == User::\"dev|alice\", action == Action::\"read\", resource);",
        "permit (principal == Workload::\"spiffe|spiffe://a/b\", action == Action::\"read\", resource);",
        "permit (principal in Group::\"g\", action in [Action::\"read\", Action::\"approve\"], resource);",
    ] {
        assert_eq!(said(policy), "", "{policy}");
    }
}

#[test]
fn a_trust_rule_for_a_service_that_is_not_there_is_a_warning() {
    let said = |services: &str| {
        let rules = format!(
            "[[issuer]]\nname = \"ci\"\npreset = \"github-actions\"\naudience = \"a\"\n[[rule]]\nname = \"main\"\n\
             issuer = \"ci\"\nclaims = {{ repository_id = \"7\", ref = \"refs/heads/main\" }}\nservices = {services}\n"
        );
        told(&[("workloads.toml", &rules)])
    };
    assert_eq!(said("[\"svc\"]"), "");
    let gone = said("[\"svc\", \"deploy-pipeline\"]");
    assert!(
        gone.starts_with(
            "DIR/workloads.toml:9:20: warning: the rule `main` is for the service `deploy-pipeline`, which is not there"
        ) && gone.contains("take the name out"),
        "{gone}"
    );
    assert!(said("[\"scv\"]").ends_with("help: did you mean `svc`?"));
}

#[test]
fn a_service_whose_folder_can_not_be_read_is_one_fault() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = folder(&[("svc/service.toml", SERVICE), ("svc/access.cedar", ACCESS)]);
    let service = dir.path().join("svc");
    fs::set_permissions(&service, fs::Permissions::from_mode(0o000)).unwrap();
    // Some users may read everything.
    if fs::read_dir(&service).is_err() {
        let found = load(dir.path(), &settings()).unwrap_err();
        assert_eq!(found.len(), 1, "{}", shown(&found));
        assert!(found[0].message.contains("could not be read"), "{}", shown(&found));
    }
    fs::set_permissions(&service, fs::Permissions::from_mode(0o700)).unwrap();
}
