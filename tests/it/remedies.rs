//! What a refusal says would help: what of several is named first, and the command that is pasted.

use std::process::Command;
use std::sync::Arc;

use doorward::model::text::{misleads, shell_word};
use doorward::model::{EntitlementName, ServiceName};
use doorward::policy::{PolicySet, RequestContext, load};

use crate::policy::{ambient, folder, settings, shown, user};

const SERVICE: &str = r#"upstreams = ["http://127.0.0.1:9080"]

[[route]]
match = "POST /{pipeline}/{stage}"
action = "promote"

[[route]]
match = "GET /{pipeline}"
action = "read"
"#;

const RULES: &str = r#"
permit (principal in Group::"eng", action in [Action::"request", Action::"approve"], resource is Entitlement);
"#;

/// A service with these entitlements, each of which opens `promote` by a policy of its own.
fn loaded(entitlements: &str, names: &[&str], rules: &str) -> PolicySet {
    let opens = |name: &&str| {
        format!("permit (principal in Entitlement::\"svc/{name}\", action == Action::\"promote\", resource);\n")
    };
    let access: String = names.iter().map(opens).collect();
    let files = [
        ("svc/service.toml", format!("{SERVICE}{entitlements}")),
        ("svc/access.cedar", format!("{RULES}{access}{rules}")),
    ];
    let dir = folder(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    load(dir.path(), &settings()).unwrap_or_else(|found| panic!("{}", shown(&found)))
}

/// What helps somebody of these groups with a promotion.
fn offered(set: &PolicySet, groups: &[&str]) -> Vec<String> {
    let service = set.service(&ServiceName::parse("svc").unwrap()).unwrap();
    let (method, path) = ("POST", "/web/prod");
    let matched = service.route(method, path).unwrap();
    let context = RequestContext { method, path, host: "svc", params: &matched.params, ambient: ambient() };
    let found = service.remedy(set, &user(set, "alice", groups, &[]), &matched.action, &context);
    found.iter().map(|name| name.name().to_owned()).collect()
}

#[test]
fn what_is_had_most_easily_is_named_first() {
    let entitlements = r#"
[entitlement.a-two]
description = "Two approvals"
approvals = 2
actions = ["promote"]

[entitlement.b-wide]
description = "Opens more"
actions = ["promote", "read"]

[entitlement.c-long]
description = "Lasts longer"
max = "8h"
actions = ["promote"]

[entitlement.d-one]
description = "One approval"
actions = ["promote"]

[entitlement.e-one]
description = "The same"
actions = ["promote"]

[entitlement.z-office]
description = "None for some"
approvals = 9
actions = ["promote"]
"#;
    let names = ["a-two", "b-wide", "c-long", "d-one", "e-one", "z-office"];
    let by_itself = "permit (principal in Group::\"office\", action == Action::\"auto_approve\", \
                     resource == Entitlement::\"svc/z-office\");\n";
    let set = loaded(entitlements, &names, by_itself);
    assert_eq!(offered(&set, &["eng"]), ["d-one", "e-one", "c-long", "b-wide", "a-two", "z-office"]);
    assert_eq!(offered(&set, &["eng", "office"]), ["z-office", "d-one", "e-one", "c-long", "b-wide", "a-two"]);
    assert!(offered(&set, &["office"]).is_empty(), "what may not be asked for is not named");
}

#[test]
fn a_command_asks_for_what_the_request_knows_as_far_as_it_may_be_asked_for() {
    let entitlements = r#"
[entitlement.x]
description = "Promote"
reason = "optional"
actions = ["promote"]

[entitlement.x.parameters]
pipeline = { required = false }
stage = { values = ["prod", "dev"] }
region = {}
note = { required = false }
"#;
    let set = loaded(entitlements, &["x"], "");
    let service = set.service(&ServiceName::parse("svc").unwrap()).unwrap();
    let asked = set.entitlement(&EntitlementName::parse("svc/x").unwrap()).unwrap();
    for (path, params) in [
        ("/web/prod", "--param pipeline=web --param region=VALUE --param stage=prod"),
        ("/two%20words/dev", "--param 'pipeline=two words' --param region=VALUE --param stage=dev"),
        // What may not be asked for, and what can't be shown, is for the asker to say.
        ("/web/live", "--param pipeline=web --param region=VALUE --param stage=VALUE"),
        ("/it's/prod", "--param region=VALUE --param stage=prod"),
    ] {
        let params_known = service.route("POST", path).unwrap().params;
        assert_eq!(asked.command(&params_known), format!("doorward request svc/x {params}"), "{path}");
        let of_job = format!("doorward token --service svc --request x {params} --wait");
        assert_eq!(asked.command_of_job(&params_known), of_job, "{path}");
    }
    assert_eq!(asked.command(&[]), "doorward request svc/x --param region=VALUE --param stage=VALUE");
    let of_length = |count: usize| -> Vec<(Arc<str>, String)> { vec![(Arc::from("pipeline"), "x".repeat(count))] };
    assert!(asked.command(&of_length(200)).contains("--param pipeline=x"));
    assert!(!asked.command(&of_length(201)).contains("pipeline"));
    for blank in ["", "  "] {
        assert!(!asked.command(&[(Arc::from("pipeline"), blank.to_owned())]).contains("pipeline"), "{blank:?}");
    }
}

#[test]
fn what_can_not_be_asked_for_so_that_it_helps_is_not_named() {
    let entitlements = r#"
[entitlement.a-dev]
description = "The lower stages"
actions = ["promote"]
parameters.stage = { values = ["dev"] }

[entitlement.b-prod]
description = "Production"
actions = ["promote"]
parameters.stage = { values = ["prod"] }

[entitlement.c-left-out]
description = "What may be left out is no hindrance"
actions = ["promote"]
parameters.stage = { values = ["dev"], required = false }

[entitlement.d-other]
description = "What the request does not have is for the asker to say"
actions = ["promote"]
parameters.region = { values = ["north"] }
"#;
    let set = loaded(entitlements, &["a-dev", "b-prod", "c-left-out", "d-other"], "");
    assert_eq!(offered(&set, &["eng"]), ["b-prod", "c-left-out", "d-other"]);
}

#[test]
fn a_word_that_is_pasted_stays_one_word_and_does_nothing() {
    for bare in ["web", "pipeline=web", "a.b_c/d@e:f=g-h", "A1"] {
        assert_eq!(shell_word(bare).as_deref(), Some(bare));
    }
    for text in [
        "two words",
        "a;id",
        "$(id)",
        "`id`",
        "a&b|c<d>e",
        "*?[a]{b,c}",
        "~root",
        "#a",
        "\"a\"",
        "$HOME ${HOME}",
        "%PATH%",
        "a^b",
        "na\u{ef}ve",
        " a ",
        "",
    ] {
        let word = shell_word(text).unwrap();
        assert_eq!(word, format!("'{text}'"));
        let ran = Command::new("sh").arg("-c").arg(format!("printf '<%s>' {word} end")).output().unwrap();
        assert_eq!(String::from_utf8(ran.stdout).unwrap(), format!("<{text}><end>"));
    }
    for text in ["it's", "a\u{2019}; id; \u{2018}b", "a\\", "a!b", "a\nb", "a\tb", "a\u{a0}b", "a\u{3164}b", "a\u{ad}b"]
    {
        assert_eq!(shell_word(text), None, "{text:?}");
    }
    let all = (0..=0x2fff).filter_map(char::from_u32).filter(|c| misleads(*c));
    all.for_each(|c| assert_eq!(shell_word(&format!("a{c}b")), None, "{c:?}"));
}
