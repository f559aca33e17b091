//! Certificates and tokens that are out: who sees which, until when, and withdrawing them.

use doorward::control::session;
use doorward::model::Ttl;
use doorward::model::session::CERTIFICATE_URI_PREFIX;
use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType,
};
use serde_json::{Value, json};
use x509_parser::pem::parse_x509_pem;

use crate::api_house::{Caller, House, csr};
use crate::support::databases;

async fn listed(house: &House, caller: &Caller, query: &str) -> Vec<Value> {
    let answer = house.get(caller, &format!("/api/v1/credentials{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["items"].as_array().unwrap().clone()
}

/// Sorted: what is issued in one moment has no order.
fn kinds(items: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = items.iter().map(|item| item["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

fn of_kind<'a>(items: &'a [Value], kind: &str) -> &'a Value {
    items.iter().find(|item| item["kind"] == kind).unwrap()
}

#[tokio::test]
async fn what_is_issued_is_listed_until_it_ends_and_nothing_of_it_could_be_used() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, answer, key) = house.command_line("alice").await;
        let items = listed(&house, &alice, "").await;
        assert_eq!(kinds(&items), ["token", "x509"], "{items:?}");
        let (token, certificate) = (of_kind(&items, "token"), of_kind(&items, "x509"));
        for item in &items {
            assert_eq!((&item["principal"]["id"], &item["session"]), (&json!("dev|alice"), &answer["session"]["id"]));
            assert!(!item.to_string().contains(answer["access_token"].as_str().unwrap()));
        }
        assert_eq!(
            (&token["audience"], &token["revoking_ends"]),
            (&json!("https://doorward.localhost:8443"), &json!("credential"))
        );
        assert_eq!(certificate["expires_at"], answer["certificate_expires_at"]);
        assert_eq!(token["thumbprint"], certificate["thumbprint"], "the token is bound to the certificate");
        // Renewed, there are two certificates until the first ends by itself, and two tokens.
        house.clock.advance(Ttl::minutes(10));
        let refresh = answer["refresh_token"].as_str().unwrap();
        assert_eq!(house.refresh(&alice, refresh, &[("csr", &csr(&key))]).await.status, 200);
        assert_eq!(kinds(&listed(&house, &alice, "").await), ["token", "token", "x509", "x509"]);
        house.clock.advance(Ttl::minutes(5));
        assert_eq!(kinds(&listed(&house, &alice, "").await), ["token", "x509", "x509"], "the first token is over");
        // One by one, and at what the cursor names.
        let mut seen = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = house.get(&alice, &format!("/api/v1/credentials?limit=1{cursor}")).await;
            seen.extend(page.body["items"].as_array().unwrap().clone());
            let Some(next) = page.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, listed(&house, &alice, "").await);
        let one = house.get(&alice, &format!("/api/v1/credentials/{}", seen[0]["id"].as_str().unwrap())).await;
        assert_eq!(one.body, seen[0]);
        // A certificate may be shown for less than its session; what is swept was over.
        house.clock.advance(Ttl::minutes(60));
        session::sweep(&house.desk, house.now()).await.unwrap();
        let (again, _, _) = house.command_line("alice").await;
        assert_eq!(listed(&house, &again, "").await.len(), 2);
    }
}

#[tokio::test]
async fn a54_of_others_one_sees_what_one_may_revoke_and_revoking_ends_just_that() {
    for url in databases() {
        let house = House::new(&url).await;
        let (alice, _, _) = house.command_line("alice").await;
        let (bob, answer, _) = house.command_line("bob").await;
        let (carol, _, _) = house.command_line("carol").await;
        assert_eq!(listed(&house, &alice, "?all=true").await.len(), 2, "alice may revoke nobody's");
        assert_eq!(listed(&house, &carol, "?all=true").await.len(), 6);
        assert_eq!(listed(&house, &carol, "").await.len(), 2);
        let bobs = listed(&house, &bob, "").await;
        let bobs = [of_kind(&bobs, "token").clone(), of_kind(&bobs, "x509").clone()];
        let path = |item: &Value| format!("/api/v1/credentials/{}", item["id"].as_str().unwrap());
        let reason = json!({ "reason": "leaked" });
        assert_eq!(house.get(&alice, &path(&bobs[0])).await.status, 404);
        assert_eq!(house.json(&alice, &format!("{}/revoke", path(&bobs[0])), &reason).await.status, 404);
        for body in [json!({ "reason": " " }), json!({}), json!({ "reason": "x", "more": 1 })] {
            assert_eq!(house.json(&carol, &format!("{}/revoke", path(&bobs[0])), &body).await.status, 400, "{body}");
        }
        // The token alone: it is refused, and its session goes on.
        let with_token = Caller { bearer: answer["access_token"].as_str().map(str::to_owned), ..bob.clone() };
        assert_eq!(house.get(&with_token, "/api/v1/whoami").await.status, 200);
        let revoked = house.json(&carol, &format!("{}/revoke", path(&bobs[0])), &reason).await;
        assert_eq!((revoked.status.as_u16(), &revoked.body["id"]), (200, &bobs[0]["id"]));
        assert_eq!(house.get(&with_token, "/api/v1/whoami").await.text("/reason"), "bad_credential");
        assert_eq!(kinds(&listed(&house, &bob, "").await), ["x509"]);
        assert_eq!(house.json(&carol, &format!("{}/revoke", path(&bobs[0])), &reason).await.status, 404, "it is over");
        // The certificate takes its session along, which it says before.
        assert_eq!(bobs[1]["revoking_ends"], "session");
        assert_eq!(house.json(&carol, &format!("{}/revoke", path(&bobs[1])), &reason).await.status, 200);
        assert_eq!(house.get(&bob, "/api/v1/whoami").await.text("/reason"), "session_ended");
        assert_eq!(listed(&house, &carol, "?all=true").await.len(), 4);
        // One's own, without anybody's leave.
        let own = listed(&house, &alice, "").await;
        assert_eq!(house.json(&alice, &format!("{}/revoke", path(&own[0])), &reason).await.status, 200);
    }
}

#[tokio::test]
async fn there_are_no_leases_and_bad_questions_are_told_so() {
    let house = House::new(&databases()[0]).await;
    let (alice, _, _) = house.command_line("alice").await;
    let leases = house.get(&alice, "/api/v1/leases?all=true&limit=5").await;
    assert_eq!((leases.status.as_u16(), &leases.body), (200, &json!({ "items": [], "next": null })));
    for path in ["credentials", "leases"] {
        for query in
            ["all=maybe", "limit=0", "limit=201", "limit=x", "cursor=x", "cursor=ses_06h01rs2cto0b2afh7rgi8mlb0"]
        {
            assert_eq!(house.get(&alice, &format!("/api/v1/{path}?{query}")).await.status, 400, "{path}?{query}");
        }
    }
    for id in ["x", "crd_x", "crd_06h01rs2cto0b2afh7rgi8mlb0"] {
        assert_eq!(house.get(&alice, &format!("/api/v1/credentials/{id}")).await.status, 404, "{id}");
    }
}

/// What a certificate says beside its key, its number and the session that it is for.
fn said(pem: &str, session: &str) -> String {
    let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
    let certificate = block.parse_x509().unwrap();
    // The identifier of the key is the key once more.
    let extensions = certificate.extensions().iter().filter(|extension| extension.oid.to_id_string() != "2.5.29.14");
    let extensions: Vec<_> = extensions.map(|e| (e.oid.to_id_string(), e.critical, e.parsed_extension())).collect();
    format!("{} {} {extensions:?}", certificate.subject(), certificate.issuer()).replace(session, "SESSION")
}

type Change<'a> = &'a dyn Fn(&mut CertificateParams);

#[tokio::test]
async fn a58_a_certificate_has_nothing_of_what_its_request_asked_for_but_the_key() {
    let house = House::new(&databases()[0]).await;
    let (browser, _) = house.browser("alice").await;
    let (_, other, _) = house.command_line("bob").await;
    let others_session = other["session"]["id"].as_str().unwrap();
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let extension = |oid: &[u64], content: &[u8]| CustomExtension::from_oid_content(oid, content.to_vec());
    let plain = |_: &mut CertificateParams| {};
    let name = |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, others_session);
        params.distinguished_name.push(DnType::OrganizationName, "a,b\nCN=doorward\0/*");
    };
    let names = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![
            uri(&format!("{CERTIFICATE_URI_PREFIX}{others_session}")),
            uri("spiffe://example.com/ns/prod"),
            SanType::DnsName("door.doorward.localhost".try_into().unwrap()),
            SanType::Rfc822Name("bob@example.com".try_into().unwrap()),
        ];
    };
    let uses = |params: &mut CertificateParams| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any];
    };
    // `CA:TRUE`, a name constraint of nothing, and what nobody knows, all critical or not as they come.
    let authority = |params: &mut CertificateParams| {
        params.custom_extensions = vec![extension(&[2, 5, 29, 19], &[0x30, 3, 1, 1, 0xff])];
    };
    let unknown = |params: &mut CertificateParams| {
        params.custom_extensions = vec![extension(&[1, 3, 6, 1, 4, 1, 99999, 1], b"\x04\x03abc")];
    };
    let asked: [(&str, Change<'_>); 6] = [
        ("nothing", &plain),
        ("another's name", &name),
        ("other names", &names),
        ("other uses", &uses),
        ("to be an authority", &authority),
        ("what nobody knows", &unknown),
    ];
    let (mut as_plain, mut refused) = (None, Vec::new());
    for (what, change) in asked {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        change(&mut params);
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let answer = house.exchange(&house.code(&browser).await, &[("csr", &request)]).await;
        if answer.status == 400 {
            refused.push(what);
            continue;
        }
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        let pem = answer.text("/certificate");
        let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
        assert_eq!(block.parse_x509().unwrap().public_key().raw, key.subject_public_key_info(), "{what}");
        let said = said(pem, answer.text("/session/id"));
        assert!(said.contains("SESSION") && !said.contains(others_session), "{what}: {said}");
        assert_eq!(as_plain.get_or_insert_with(|| said.clone()), &said, "{what}");
    }
    // What can't be read to its end is not read at all.
    assert_eq!(refused, ["what nobody knows"]);
    // A signature of another key than the one that is asked about.
    let (mine, theirs) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let request = CertificateParams::default().serialize_request(&mine).unwrap();
    let swapped = request.der().to_vec();
    let at = swapped.windows(91).position(|part| part == mine.subject_public_key_info()).unwrap();
    let swapped = [&swapped[..at], &theirs.subject_public_key_info(), &swapped[at + 91..]].concat();
    let text = data_encoding::BASE64.encode(&swapped);
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
    let answer = house.exchange(&house.code(&browser).await, &[("csr", &pem)]).await;
    assert_eq!((answer.status.as_u16(), answer.text("/error")), (400, "invalid_request"), "{answer:?}");
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let answer = house.exchange(&house.code(&browser).await, &[("csr", &csr(&key))]).await;
        assert_eq!((answer.status.as_u16(), answer.text("/error")), (400, "invalid_request"), "{answer:?}");
    }
}
