//! The emergency path through the whole door, signed by the real `ssh-keygen`: a59.

use std::path::Path;
use std::process::Command;

use doorward::audit::{EventType, PersonalField};
use doorward::identity::breakglass::certificate::EVIDENCE_OID;
use doorward::identity::breakglass::{Custodians, OpeningRules, QuorumError, SignatureFault};
use doorward::model::breakglass::{Challenge, ChallengeError, Evidence, SIGN_NAMESPACE, Scope};
use doorward::model::{BreakGlassId, Clock, Principal, ServiceName, SessionId, Timestamp, Ttl};
use doorward::server::ambient::{SystemClock, SystemEntropy};
use rcgen::PublicKeyData;
use sha2::{Digest, Sha256};

use crate::support::temporary_folder;

use super::fixture::{Door, Person, Plan, Speaks, with_door};

const NAMES: [&str; 4] = ["ann", "ben", "cid", "dot"];

fn ssh_keygen(arguments: &[&str], folder: &Path) {
    let done = Command::new("ssh-keygen").args(arguments).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Keys of four custodians, and the file that names three of them.
pub(super) fn custodians(folder: &Path) {
    let mut file = "# who may open\n".to_owned();
    for (index, name) in NAMES.iter().enumerate() {
        let kind: &[&str] = if index == 1 { &["-t", "ecdsa", "-b", "256"] } else { &["-t", "ed25519"] };
        ssh_keygen(&[kind, &["-q", "-N", "", "-C", name, "-f", name]].concat(), folder);
        let public = std::fs::read_to_string(folder.join(format!("{name}.pub"))).unwrap();
        if *name != "dot" {
            file.push_str(&format!("{name} namespaces=\"{SIGN_NAMESPACE}\" {public}"));
        }
    }
    std::fs::write(folder.join("custodians"), file).unwrap();
}

pub(super) fn rules(folder: &Path, threshold: u32) -> OpeningRules {
    let custodians = Custodians::parse(&std::fs::read(folder.join("custodians")).unwrap()).unwrap();
    let trust_domain = "doorward.localhost".to_owned();
    OpeningRules { custodians, threshold, duration_max: Ttl::hours(1), trust_domain }
}

/// A client key and a challenge for it.
pub(super) fn challenge(rules: &OpeningRules, scope: Scope, from: Timestamp) -> (rcgen::KeyPair, Challenge) {
    let key = rcgen::KeyPair::generate().unwrap();
    let challenge = Challenge {
        id: BreakGlassId::fresh(from, &SystemEntropy),
        opener: "erin".to_owned(),
        scope,
        reason: "provider and database are down".to_owned(),
        not_before: from,
        expires: from.plus(Ttl::minutes(10)),
        trust_domain: rules.trust_domain.clone(),
        custodians: *rules.custodians.sha256(),
        threshold: rules.threshold,
        client_key: Sha256::digest(key.subject_public_key_info()).into(),
        nonce: [7; 32],
    };
    (key, challenge)
}

pub(super) fn signed(folder: &Path, name: &str, namespace: &str, text: &str) -> Vec<u8> {
    let file = folder.join("challenge");
    std::fs::write(&file, text).unwrap();
    let _ = std::fs::remove_file(folder.join("challenge.sig"));
    ssh_keygen(&["-q", "-Y", "sign", "-n", namespace, "-f", name, "challenge"], folder);
    std::fs::read(folder.join("challenge.sig")).unwrap()
}

pub(super) fn evidence(folder: &Path, challenge: &Challenge, names: &[&str]) -> Evidence {
    let text = challenge.text();
    let signatures = names.iter().map(|name| signed(folder, name, SIGN_NAMESPACE, &text)).collect();
    Evidence { challenge: text.into_bytes(), signatures }
}

pub(super) fn certificate(key: &rcgen::KeyPair, evidence: &Evidence) -> Person {
    let mut params = rcgen::CertificateParams::default();
    params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(EVIDENCE_OID, evidence.to_der())];
    let id = Challenge::parse(&evidence.challenge).map(|challenge| challenge.id);
    let id = id.unwrap_or_else(|_| BreakGlassId::from_bytes([0; 16]));
    Person {
        key_pem: key.serialize_pem(),
        certificate_pem: params.self_signed(key).unwrap().pem(),
        session: SessionId::from_bytes([0; 16]),
        principal: Principal::breakglass(id),
    }
}

pub(super) fn prepared(dir: &Path) {
    custodians(dir);
    let path = dir.join("doorward.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let section = "\n[breakglass]\ncustodians = \"custodians\"\nthreshold = 2\nmax_duration = \"30m\"\n";
    std::fs::write(&path, text + section).unwrap();
    for service in std::fs::read_dir(dir.join("policies")).unwrap().flatten() {
        let path = service.path().join("access.cedar");
        if let Ok(text) = std::fs::read_to_string(&path) {
            let permit =
                "@id(\"emergency\")\npermit (principal is BreakGlass, action == Action::\"open\", resource);\n";
            std::fs::write(&path, text + permit).unwrap();
        }
    }
}

async fn refused(door: &Door, person: &Person, service: &str) {
    let name = super::fixture::host(service);
    let request = format!("GET /x HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let shaken = door.connect_with(door.tls(Some(person)), &name).await;
    let Ok(mut stream) = shaken else { return };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut got = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        // TLS 1.3 tells of a refused certificate after the client's side is done.
        let _ = stream.read_to_end(&mut got).await;
    }
    assert!(!got.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&got));
}

#[test]
fn a59_custodians_open_the_door_and_only_what_they_signed() {
    with_door(Plan { change: Some(prepared), ..Plan::default() }, async |door| {
        let rules = rules(&door.dir, 2);
        let app = Scope::Services(vec![ServiceName::parse("app").unwrap()]);
        let (key, asked) = challenge(&rules, app, SystemClock.now());
        let both = evidence(&door.dir, &asked, &["ann", "ben"]);
        let person = certificate(&key, &both);
        for speaks in [Speaks::Http1, Speaks::Http2] {
            let got = door.get("app", Some(&person), speaks, "/x").await;
            assert_eq!(got.status, 200, "{}", got.text());
            let recorded = door.recorded(got.decision()).await;
            assert_eq!(recorded.personal(PersonalField::Principal), Some(&*person.principal.to_string()));
        }
        // Policy still judges, and the scope holds.
        let got = door.get("app", Some(&person), Speaks::Http1, "/admin/x").await;
        assert_eq!(got.status, 403, "{}", got.text());
        let got = door.get("web", Some(&person), Speaks::Http1, "/x").await;
        assert_eq!(got.reason(), "bad_credential");
        // A sign-in would not help.
        let told = got.problem();
        assert!(told["detail"].as_str().unwrap().contains("does not cover the service"), "{told}");
        assert_eq!(told["remedy"]["kind"], "none");
        // Opened once on record, however many connections used it.
        let store = &door.running().desk.store;
        let opened = store.emergency_events(EventType::BreakGlassOpened, |_| true).await.unwrap();
        let [opened] = &opened[..] else { panic!("{} are on record", opened.len()) };
        assert_eq!(opened.text("/data/id"), Some(&*asked.id.to_string()));
        assert!(opened.body.to_string().contains("provider and database are down"), "{}", opened.body);
        // Another's key, one signature, and a forged certificate get no answer at all.
        refused(door, &certificate(&rcgen::KeyPair::generate().unwrap(), &both), "app").await;
        let one = Evidence { challenge: both.challenge.clone(), signatures: both.signatures[..1].to_vec() };
        refused(door, &certificate(&key, &one), "app").await;
        let junk = Evidence { challenge: vec![b'x'; 9000], signatures: both.signatures.clone() };
        refused(door, &certificate(&key, &junk), "app").await;
        // A lock beats it, and its end ends it on the open connection.
        door.running().shared.directory.lock(&person.principal);
        let got = door.get("app", Some(&person), Speaks::Http1, "/x").await;
        assert_eq!(got.reason(), "locked");
        door.running().shared.directory.unlock(&person.principal);
        let mut client = door.client("app", Some(&person), Speaks::Http1).await;
        assert_eq!(client.get("/x").await.status, 200);
        door.clock.advance(Ttl::minutes(11));
        assert_eq!(client.get("/x").await.reason(), "session_ended");
    });
}

#[test]
fn a59_each_fault_of_a_signature_is_told() {
    let folder = temporary_folder();
    let dir = folder.path();
    custodians(dir);
    let (rules, now) = (rules(dir, 2), SystemClock.now());
    let (key, asked) = challenge(&rules, Scope::All, now);
    let print: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    let open = |evidence: &Evidence, now| rules.open(&print, evidence, now);
    let good = evidence(dir, &asked, &["ann", "cid"]);
    assert_eq!(open(&good, now).unwrap().custodians, ["ann", "cid"]);
    let with = |signature: Vec<u8>| Evidence {
        challenge: good.challenge.clone(),
        signatures: vec![good.signatures[0].clone(), signature],
    };
    let fault = |evidence: &Evidence| match open(evidence, now).unwrap_err() {
        QuorumError::Signature { number: 2, fault } => fault,
        other => panic!("{other}"),
    };
    let text = asked.text();
    assert_eq!(fault(&with(good.signatures[0].clone())), SignatureFault::Repeated("ann".to_owned()));
    assert_eq!(
        fault(&with(signed(dir, "ben", "file", &text))),
        SignatureFault::Namespace { theirs: "file".to_owned(), ours: SIGN_NAMESPACE }
    );
    assert!(matches!(fault(&with(signed(dir, "dot", SIGN_NAMESPACE, &text))), SignatureFault::NotACustodian(_)));
    let (_, other) = challenge(&rules, Scope::All, now);
    let mixed = with(signed(dir, "ben", SIGN_NAMESPACE, &other.text()));
    assert_eq!(fault(&mixed), SignatureFault::OtherChallenge("ben".to_owned()));
    assert_eq!(fault(&with(b"no signature".to_vec())), SignatureFault::Unreadable);

    // Early, late, for another key, changed, and by an opener who would count.
    assert!(matches!(open(&good, now.minus(Ttl::hours(240))), Err(QuorumError::NotYet { .. })));
    assert!(matches!(open(&good, now.plus(Ttl::hours(240))), Err(QuorumError::Over { .. })));
    assert_eq!(rules.open(&[0; 32], &good, now), Err(QuorumError::OtherKey));
    let changed = String::from_utf8(good.challenge.clone()).unwrap().replace("scope: all services", "scope: app");
    let changed = Evidence { challenge: changed.into_bytes(), signatures: good.signatures.clone() };
    assert!(matches!(open(&changed, now), Err(QuorumError::Signature { number: 1, .. })));
    let own = Challenge { opener: "ann".to_owned(), ..asked.clone() };
    let own = evidence(dir, &own, &["ann", "cid"]);
    assert!(matches!(open(&own, now), Err(QuorumError::TooFew { counted, .. }) if counted == ["cid"]));
    let many = Evidence { challenge: good.challenge.clone(), signatures: vec![good.signatures[0].clone(); 17] };
    assert_eq!(open(&many, now), Err(QuorumError::TooMany));
    assert_eq!(Evidence::from_der(&many.to_der()), None);
    assert_eq!(Evidence::from_der(&good.to_der()), Some(good));
}

#[test]
fn a59_an_opener_does_not_count_with_another_key_or_under_another_name_of_theirs() {
    let folder = temporary_folder();
    let dir = folder.path();
    custodians(dir);
    let key = |name: &str| std::fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap();
    let file = format!("ann,ann@example.com {}ann {}cid {}", key("ann"), key("dot"), key("cid"));
    let rules = OpeningRules { custodians: Custodians::parse(file.as_bytes()).unwrap(), ..rules(dir, 2) };
    let (key, asked) = challenge(&rules, Scope::All, SystemClock.now());
    let print: [u8; 32] = Sha256::digest(key.subject_public_key_info()).into();
    let by = |opener: &str, signers: &[&str]| {
        let asked = Challenge { opener: opener.to_owned(), ..asked.clone() };
        rules.open(&print, &evidence(dir, &asked, signers), asked.not_before)
    };
    for opener in ["ann@example.com", "ann", "ANN", "Ann@Example.com"] {
        for own in ["ann", "dot"] {
            let refused = by(opener, &[own, "cid"]).unwrap_err();
            let QuorumError::TooFew { counted, opener: named, .. } = refused else { panic!("{opener}: {refused}") };
            assert_eq!((counted, named.as_deref()), (vec!["cid".to_owned()], Some("ann")), "{opener} {own}");
        }
    }
    // What looks like another's name is no name: a space of no width, a joiner, a filler, a turned direction.
    for opener in ["ann\u{200b}", "a\u{2060}nn", "ann\u{3164}", "ann\u{fe0f}", "\u{202e}nna"] {
        let refused = by(opener, &["ann", "cid"]).unwrap_err();
        assert!(matches!(refused, QuorumError::Challenge(ChallengeError::Line { .. })), "{opener:?}: {refused}");
    }
    assert_eq!(by("erin", &["dot", "cid"]).unwrap().custodians, ["ann", "cid"]);
}

#[test]
fn custodians_whose_names_can_not_be_told_apart_are_refused() {
    let folder = temporary_folder();
    let dir = folder.path();
    custodians(dir);
    let key = |name: &str| std::fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap();
    for (names, told) in [
        ("Ann", "`Ann` is also a name of `ann` on line 1"),
        ("ann\u{200b}", "a name has a character that nobody sees"),
        ("ben namespaces=\"*\"", "`namespaces` is taken without patterns: name `doorward-breakglass` itself"),
        ("ben namespaces=\"file\"", "`namespaces` leaves out `doorward-breakglass`"),
    ] {
        let file = format!("ann {}{names} {}", key("ann"), key("cid"));
        let refused = Custodians::parse(file.as_bytes()).unwrap_err();
        assert!(refused.line == 2 && refused.message.contains(told), "{names}: {refused}");
    }
}
