//! Machines by their SPIFFE certificates: a rule makes one a `Workload`, its bundle speaks for its own
//! trust domain alone, and nothing goes together with it.

use std::path::Path;
use std::time::Duration;

use doorward::model::{Principal, SessionId};
use http::Method;
use http_body_util::BodyExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::fixture::{BOTH, Door, Person, Plan, Speaks, full, read, with_door};

/// The authority of a trust domain, made anew from its name each time.
fn authority(domain: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{domain} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A machine with a certificate of `authority` for these names.
fn machine(authority: &CertifiedIssuer<'_, KeyPair>, names: &[&str]) -> Person {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(&key, authority).unwrap();
    Person {
        key_pem: key.serialize_pem(),
        certificate_pem: certificate.pem(),
        session: SessionId::parse("ses_06h01rs2cto0b2afh7rgi8mlb0").unwrap(),
        principal: Principal::workload("spiffe", names.first().unwrap()).unwrap(),
    }
}

fn trusting(dir: &Path) {
    let rules = "[[rule]]\nname = \"batch\"\nspiffe = \"spiffe://prod.example.com/ns/batch/*\"\ngroups = [\"engineering\"]\n\
        [[rule]]\nname = \"lab\"\nspiffe = \"spiffe://lab.example.com/ns/*\"\n";
    std::fs::write(dir.join("policies/workloads.toml"), rules).unwrap();
    let path = dir.join("doorward.toml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for domain in ["prod.example.com", "lab.example.com"] {
        let ca = authority(domain);
        std::fs::write(dir.join(format!("keys/{domain}.crt")), ca.pem()).unwrap();
        std::fs::write(dir.join(format!("keys/{domain}.key")), ca.key().serialize_pem()).unwrap();
        text.push_str(&format!("\n[[trust.spiffe]]\ntrust_domain = \"{domain}\"\nbundle = \"keys/{domain}.crt\"\n"));
    }
    std::fs::write(path, text).unwrap();
}

/// The authority whose bundle the door has.
fn of_door(door: &Door, domain: &str) -> CertifiedIssuer<'static, KeyPair> {
    let key =
        KeyPair::from_pem(&std::fs::read_to_string(door.dir.join(format!("keys/{domain}.key"))).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("{domain} authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, key).unwrap()
}

#[test]
fn a_machine_is_the_workload_that_a_rule_makes_of_its_spiffe_id() {
    with_door(Plan { change: Some(trusting), ..Plan::default() }, async |door| {
        let (prod, lab) = (of_door(door, "prod.example.com"), of_door(door, "lab.example.com"));
        let job = machine(&prod, &["spiffe://prod.example.com/ns/batch/report"]);
        for speaks in BOTH {
            let got = door.get("app", Some(&job), speaks, "/x").await;
            assert_eq!(got.status, 200, "{}", got.text());
            let recorded = door.recorded(got.decision()).await;
            let actor = recorded.body["actor"].to_string();
            assert!(actor.contains("Workload") || recorded.text("/actor/kind") == Some("Workload"), "{actor}");
            let got = door.get("app", Some(&job), speaks, "/admin/x").await;
            assert_eq!((got.status.as_u16(), got.reason().as_str()), (403, "no_policy_match"));
        }
        // Known, and without any right.
        let bench = machine(&lab, &["spiffe://lab.example.com/ns/bench"]);
        assert_eq!(door.get("app", Some(&bench), Speaks::Http2, "/x").await.reason(), "no_policy_match");
        // Trusted, and known to no rule.
        let stray = machine(&prod, &["spiffe://prod.example.com/ns/other/report"]);
        assert_eq!(door.get("app", Some(&stray), Speaks::Http2, "/x").await.reason(), "bad_credential");
        // A machine's certificate names nobody at the control host.
        let got = door.client("", Some(&job), Speaks::Http1).await.get("/api/v1/whoami").await;
        assert_eq!(got.status, 401, "{}", got.text());
        let before = door.raw.count();
        // Beside a person's token it is a refusal.
        let alice = door.sign_in("alice").await;
        let token = super::tokens::Token::of(door, &alice).mint(door);
        let bearer = format!("Bearer {token}");
        let mut client = door.client("app", Some(&job), Speaks::Http2).await;
        let got = client.ask(Method::GET, "/x", &[("authorization", &bearer)], b"").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"));
        assert_eq!(door.raw.count(), before);
    });
}

#[test]
fn the_authority_of_one_trust_domain_says_nothing_of_anothers_machines() {
    with_door(Plan { change: Some(trusting), ..Plan::default() }, async |door| {
        let (prod, lab) = (of_door(door, "prod.example.com"), of_door(door, "lab.example.com"));
        let id = "spiffe://prod.example.com/ns/batch/report";
        let evil = authority("prod.example.com");
        let refused: Vec<(&str, Person)> = vec![
            ("another bundle's authority", machine(&lab, &[id])),
            ("an authority of the same name", machine(&evil, &[id])),
            ("two ids", machine(&prod, &[id, "spiffe://prod.example.com/ns/batch/other"])),
            ("an id and an address", machine(&prod, &[id, "https://prod.example.com/"])),
            ("the whole trust domain", machine(&prod, &["spiffe://prod.example.com"])),
            ("an empty path", machine(&prod, &["spiffe://prod.example.com/"])),
            ("capitals", machine(&prod, &["spiffe://PROD.example.com/ns/batch/report"])),
            ("a port", machine(&prod, &["spiffe://prod.example.com:443/ns/batch/report"])),
            ("dots", machine(&prod, &["spiffe://prod.example.com/ns/batch/../other"])),
            ("an empty segment", machine(&prod, &["spiffe://prod.example.com/ns/batch//report"])),
            ("an encoded segment", machine(&prod, &["spiffe://prod.example.com/ns/batch/%2e%2e"])),
            ("a query", machine(&prod, &["spiffe://prod.example.com/ns/batch/report?x"])),
            ("a subdomain", machine(&prod, &["spiffe://a.prod.example.com/ns/batch/report"])),
            ("a session of ours", machine(&prod, &["doorward:session:ses_06h01rs2cto0b2afh7rgi8mlb0"])),
        ];
        for (what, person) in &refused {
            for service in ["app", "web"] {
                // The handshake fails, which in TLS 1.3 a client may learn with its first read.
                let request =
                    format!("GET /x HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", super::fixture::host(service));
                if let Ok(mut stream) = door.connect(service, Some(person), Speaks::Http1).await {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let _ = stream.write_all(request.as_bytes()).await;
                    let mut got = Vec::new();
                    let read = stream.read_to_end(&mut got).await;
                    assert!(read.is_err() && got.is_empty(), "{what}: {}", String::from_utf8_lossy(&got));
                }
            }
        }
        assert_eq!(door.raw.count(), 0);
        // An authority that is taken away: its machines' open connections are worth nothing.
        let job = machine(&prod, &[id]);
        let mut client = door.client("app", Some(&job), Speaks::Http2).await;
        assert_eq!(client.get("/x").await.status, 200);
        std::fs::write(door.dir.join("keys/prod.example.com.crt"), evil.pem()).unwrap();
        door.running().reload().unwrap();
        // Its connection is refused its next request, or closed already.
        let request = client.request(Method::GET, "/x").body(full("")).unwrap();
        if let Ok(answer) = client.send(request).await {
            assert_eq!(read(answer).await.reason(), "bad_credential");
        }
    });
}

#[test]
fn a28_a_lock_cuts_what_a_machine_has_open() {
    with_door(Plan { change: Some(trusting), ..Plan::default() }, async |door| {
        let prod = of_door(door, "prod.example.com");
        let job = machine(&prod, &["spiffe://prod.example.com/ns/batch/report"]);
        let directory = &door.running().shared.directory;
        for speaks in BOTH {
            let mut client = door.client("app", Some(&job), speaks).await;
            let mut body =
                client.send(client.request(Method::GET, "/sse").body(full("")).unwrap()).await.unwrap().into_body();
            assert!(body.frame().await.unwrap().is_ok());
            directory.lock(&job.principal);
            let cut =
                tokio::time::timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = body.frame().await {} });
            cut.await.expect("a stream outlived the lock of its workload");
            assert_eq!(door.get("app", Some(&job), speaks, "/x").await.reason(), "locked");
            directory.unlock(&job.principal);
            assert_eq!(door.get("app", Some(&job), speaks, "/x").await.status, 200);
        }
    });
}
