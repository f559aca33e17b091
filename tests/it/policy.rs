//! The judge, by tables: loading, routes, decisions, remedies.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use doorward::model::{EntitlementName, Principal, ServiceName, Timestamp};
use doorward::policy::{
    Ambient, BreakGlassFacts, DenyReason, Diagnostic, EntitlementAction, Facts, InstallationAction, LoadSettings,
    PolicySet, RequestContext, SessionContext, Subject, Verdict, load,
};

pub(crate) fn settings() -> LoadSettings {
    LoadSettings { domain: "doorward.localhost".to_owned(), groups: Vec::new() }
}

/// The policies that come with the product.
pub(crate) fn examples() -> PolicySet {
    match load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies"), &settings()) {
        Ok(set) => set,
        Err(found) => panic!("{}", shown(&found)),
    }
}

pub(crate) fn shown(found: &[Diagnostic]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub(crate) fn user(set: &PolicySet, name: &str, groups: &[&str], held: &[&str]) -> Subject {
    let principal = Principal::user("dev", name).unwrap();
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let held: Vec<EntitlementName> = held.iter().map(|name| EntitlementName::parse(name).unwrap()).collect();
    let email = format!("{name}@example.com");
    set.subject(&Facts {
        principal: &principal,
        email: Some(&email),
        email_verified: true,
        name: None,
        groups: &groups,
        entitlements: &held,
        claims: None,
        breakglass: None,
    })
}

pub(crate) const NOON: Timestamp = Timestamp::from_seconds(1_795_348_800);

pub(crate) fn ambient() -> Ambient<'static> {
    Ambient {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        now: NOON,
        session: Some(SessionContext { created_at: NOON, authenticated_at: NOON, amr: &[] }),
        device: None,
        token_scope: None,
    }
}

/// Routes and judges a request; `None` where no route takes it.
pub(crate) fn ask(set: &PolicySet, service: &str, subject: &Subject, method: &str, path: &str) -> Option<Verdict> {
    let service = set.service(&ServiceName::parse(service).unwrap()).unwrap();
    let matched = service.route(method, path)?;
    let context = RequestContext { method, path, host: &service.hosts[0], params: &matched.params, ambient: ambient() };
    Some(service.decide(subject, &matched.action, &context))
}

#[test]
fn the_sample_service_decides_as_the_contract_says() {
    let set = examples();
    let alice = user(&set, "alice", &["engineering"], &[]);
    let carol = user(&set, "carol", &["security", "auditors"], &[]);
    let dave = user(&set, "dave", &[], &[]);
    let granted = user(&set, "alice", &["engineering"], &["ops-api/deploy-prod"]);
    for (subject, method, path, expected) in [
        (&alice, "GET", "/status", Some(true)),
        (&alice, "HEAD", "/status", Some(true)),
        (&alice, "POST", "/status", None),
        (&alice, "GET", "/echo/a/b", Some(true)),
        (&alice, "GET", "/events", Some(true)),
        (&alice, "GET", "/ws", Some(true)),
        (&alice, "GET", "/admin/x", Some(false)),
        (&alice, "POST", "/v1/deployments/staging", Some(true)),
        (&alice, "POST", "/v1/deployments/prod", Some(false)),
        (&granted, "POST", "/v1/deployments/prod", Some(true)),
        (&granted, "POST", "/v1/deployments/staging", Some(true)),
        (&granted, "POST", "/v1/deployments/prod/", None),
        (&carol, "GET", "/admin/x", Some(true)),
        (&carol, "GET", "/status", Some(false)),
        (&dave, "GET", "/status", Some(false)),
        (&dave, "GET", "/nowhere", None),
    ] {
        let verdict = ask(&set, "ops-api", subject, method, path);
        assert_eq!(verdict.as_ref().map(|v| v.allow), expected, "{subject:?} {method} {path}");
        if let Some(verdict) = verdict.filter(|verdict| !verdict.allow) {
            assert_eq!(verdict.reason, DenyReason::NoPolicyMatch);
            assert!(verdict.policies.is_empty() && verdict.errors.is_empty());
        }
    }
    let verdict = ask(&set, "ops-api", &granted, "POST", "/v1/deployments/prod").unwrap();
    assert_eq!(verdict.policies, ["deploy-prod-while-granted".into()]);
}

#[test]
fn a_remedy_is_what_the_principal_may_request_and_would_be_let_in_with() {
    let set = examples();
    let service = set.service(&ServiceName::parse("ops-api").unwrap()).unwrap();
    let remedy = |subject: &Subject, method, path| {
        let matched = service.route(method, path).unwrap();
        let context = RequestContext { method, path, host: "h", params: &matched.params, ambient: ambient() };
        service.remedy(&set, subject, &matched.action, &context)
    };
    let alice = user(&set, "alice", &["engineering"], &[]);
    let dave = user(&set, "dave", &[], &[]);
    let prod = EntitlementName::parse("ops-api/deploy-prod").unwrap();
    assert_eq!(remedy(&alice, "POST", "/v1/deployments/prod"), [prod]);
    assert!(remedy(&dave, "POST", "/v1/deployments/prod").is_empty(), "dave may not ask");
    assert!(remedy(&alice, "GET", "/admin/x").is_empty(), "no entitlement opens it");
}

#[test]
fn asking_approving_and_running_the_installation_are_judged_too() {
    let set = examples();
    let prod = EntitlementName::parse("ops-api/deploy-prod").unwrap();
    let unknown = EntitlementName::parse("ops-api/nothing").unwrap();
    let alice = user(&set, "alice", &["engineering"], &[]);
    let bob = user(&set, "bob", &["engineering", "release-managers"], &[]);
    let carol = user(&set, "carol", &["security", "auditors"], &[]);
    let on = |subject: &Subject, action, name: &EntitlementName| {
        set.entitlement_decide(subject, action, name, &ambient()).allow
    };
    assert!(on(&alice, EntitlementAction::Request, &prod));
    assert!(!on(&alice, EntitlementAction::Approve, &prod));
    assert!(!on(&alice, EntitlementAction::AutoApprove, &prod));
    assert!(on(&bob, EntitlementAction::Approve, &prod));
    assert!(!on(&alice, EntitlementAction::Request, &unknown));
    for action in InstallationAction::ALL {
        let may = action != InstallationAction::Administer;
        assert_eq!(set.installation_decide(&carol, action, &ambient()).allow, may, "{action:?}");
        assert!(!set.installation_decide(&alice, action, &ambient()).allow, "{action:?}");
    }
}

#[test]
fn break_glass_may_do_all_at_the_sample_service_and_nothing_beyond() {
    let set = examples();
    let principal = Principal::parse("BreakGlass::\"brk_1\"").unwrap();
    let subject = set.subject(&Facts {
        principal: &principal,
        email: None,
        email_verified: false,
        name: None,
        groups: &["security".to_owned()],
        entitlements: &[],
        claims: None,
        breakglass: Some(BreakGlassFacts { opener: "erin", custodians: &[], reason: "all is down" }),
    });
    assert!(subject.groups().is_empty(), "the emergency path has no groups");
    assert!(ask(&set, "ops-api", &subject, "GET", "/admin/x").unwrap().allow);
    assert!(ask(&set, "ops-api", &subject, "POST", "/v1/deployments/prod").unwrap().allow);
    let prod = EntitlementName::parse("ops-api/deploy-prod").unwrap();
    assert!(!set.entitlement_decide(&subject, EntitlementAction::Approve, &prod, &ambient()).allow);
    assert!(!set.installation_decide(&subject, InstallationAction::Lock, &ambient()).allow);
}

/// A folder of policies, made for one test.
pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}
