//! What the emergency path does with what it should not be given: a59 and a60 through the whole door.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use doorward::control::breakglass::{self, CheckError, Presented};
use doorward::identity::breakglass::{Custodians, OpeningRules, QuorumError, SignatureFault};
use doorward::model::breakglass::{Challenge, Evidence, SIGN_NAMESPACE, Scope};
use doorward::model::closing::CLOSE_NAMESPACE;
use doorward::model::{Clock, ServiceName, Ttl};
use doorward::server::ambient::SystemClock;
use hyper::Method;
use serde_json::json;
use sha2::{Digest, Sha256, Sha512};

use crate::support::temporary_folder;

use super::breakglass::{certificate, challenge, custodians, evidence, rules, signed};
use super::emergency::{close, closing, opened, plan};
use super::fixture::{BOTH, Door, Person, Plan, Speaks, with_door};

const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Whether the door lets in whoever shows this certificate.
async fn let_in(door: &Door, person: &Person) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let host = super::fixture::host("app");
    let Ok(mut stream) = door.connect("app", Some(person), Speaks::Http1).await else { return false };
    let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut got = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        // TLS 1.3 tells of a refused certificate after the client's side is done.
        let _ = stream.read_to_end(&mut got).await;
    }
    got.starts_with(b"HTTP/1.1 2")
}

#[test]
fn a59_nothing_is_signed_in_advance_and_nothing_lasts_for_longer_than_is_allowed() {
    with_door(plan(), async |door| {
        let (rules, now) = (rules(&door.dir, 2), SystemClock.now());
        let desk = &door.running().desk;
        let judged = async |asked: &Challenge, evidence: &Evidence| {
            let presented = Presented { client_key: asked.client_key, evidence: evidence.clone() };
            breakglass::check(desk, &presented, HERE, desk.clock.now()).await.map(drop)
        };
        // Stock-piled for tomorrow; over since an hour; ten days off, either way.
        for from in
            [now.plus(Ttl::hours(24)), now.minus(Ttl::hours(1)), now.plus(Ttl::hours(240)), now.minus(Ttl::hours(240))]
        {
            let (key, asked) = challenge(&rules, Scope::All, from);
            let both = evidence(&door.dir, &asked, &["ann", "ben"]);
            let refused = judged(&asked, &both).await.unwrap_err();
            let said = refused.to_string();
            assert!(
                said.contains(&desk.clock.now().to_string()[..13]) && said.contains("one of the clocks is off"),
                "{said}"
            );
            assert!(!let_in(door, &certificate(&key, &both)).await, "{from}");
        }
        // This installation opens for half an hour at most; a challenge says an hour at most anywhere.
        let (key, asked) = challenge(&rules, Scope::All, now);
        let long = Challenge { expires: now.plus(Ttl::minutes(31)), ..asked.clone() };
        let both = evidence(&door.dir, &long, &["ann", "ben"]);
        let refused = judged(&long, &both).await.unwrap_err();
        assert!(matches!(refused, CheckError::Quorum(QuorumError::TooLong { .. })), "{refused}");
        assert!(!let_in(door, &certificate(&key, &both)).await);
        let forever = Challenge { expires: now.plus(Ttl::hours(1000)), ..asked };
        let both = evidence(&door.dir, &forever, &["ann", "ben"]);
        assert!(matches!(judged(&forever, &both).await, Err(CheckError::Quorum(QuorumError::Challenge(_)))));
    });
}

#[test]
fn a59_a_custodian_who_is_removed_opens_nothing_any_more_not_even_what_is_open() {
    with_door(plan(), async |door| {
        let (_, _, person) = opened(&door.dir, &["ann", "ben"]);
        let mut client = door.client("app", Some(&person), Speaks::Http2).await;
        assert_eq!(client.get("/x").await.status, 200);
        let file = door.dir.join("custodians");
        let text = std::fs::read_to_string(&file).unwrap();
        let without: String =
            text.lines().filter(|line| !line.starts_with("ben ")).map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, without).unwrap();
        door.running().reload().unwrap();
        assert_eq!(client.get("/x").await.reason(), "bad_credential", "on the connection that is open");
        let emergency = &door.running().desk.directory.emergency;
        assert!(emergency.open(door.clock.now()).is_empty(), "nobody is told that it is open");
        assert!(!let_in(door, &person).await);
        // Nor with a challenge for the new file.
        let (_, asked) = challenge(&rules(&door.dir, 2), Scope::All, SystemClock.now());
        let presented =
            Presented { client_key: asked.client_key, evidence: evidence(&door.dir, &asked, &["ann", "ben"]) };
        let desk = &door.running().desk;
        let refused = breakglass::check(desk, &presented, HERE, desk.clock.now()).await.unwrap_err();
        let fault = CheckError::Quorum(QuorumError::Signature {
            number: 2,
            fault: SignatureFault::NotACustodian(String::new()),
        });
        assert!(std::mem::discriminant(&refused) == std::mem::discriminant(&fault), "{refused}");
        assert!(refused.to_string().contains("no custodian of the file has"), "{refused}");
    });
}

#[test]
fn a59_a_second_opening_while_one_is_open_is_one_of_its_own() {
    with_door(plan(), async |door| {
        let (first, _, one) = opened(&door.dir, &["ann", "ben"]);
        let (second, _, other) = opened(&door.dir, &["ben", "cid"]);
        for person in [&one, &other] {
            assert_eq!(door.get("app", Some(person), Speaks::Http1, "/x").await.status, 200);
        }
        let desk = &door.running().desk;
        let open: Vec<_> = desk.directory.emergency.open(desk.clock.now()).iter().map(|it| it.id).collect();
        assert!(open.len() == 2 && open.contains(&first.id) && open.contains(&second.id), "both are told: {open:?}");
        // The signatures of one are worth nothing under the other, and the end of one is not the other's.
        let text = second.text();
        let mixed = Evidence {
            challenge: text.clone().into_bytes(),
            signatures: vec![
                signed(&door.dir, "ben", SIGN_NAMESPACE, &text),
                signed(&door.dir, "ann", SIGN_NAMESPACE, &first.text()),
            ],
        };
        let presented = Presented { client_key: second.client_key, evidence: mixed };
        let refused = breakglass::check(desk, &presented, HERE, desk.clock.now()).await.unwrap_err();
        assert!(refused.to_string().contains("signature 2 of `ann` is for another text"), "{refused}");
        close(door, first.id, &closing(&door.dir, "cid", first.id, CLOSE_NAMESPACE)).await.unwrap();
        assert_eq!(door.get("app", Some(&one), Speaks::Http1, "/x").await.reason(), "session_ended");
        assert_eq!(door.get("app", Some(&other), Speaks::Http1, "/x").await.status, 200);
    });
}

#[test]
fn a59_an_upgrade_and_a_stream_are_asked_what_a_request_is_asked() {
    with_door(plan(), async |door| {
        // For `web` only: neither a request nor an upgrade nor a stream to `app`.
        let rules = rules(&door.dir, 2);
        let web = Scope::Services(vec![ServiceName::parse("web").unwrap()]);
        let (key, asked) = challenge(&rules, web, SystemClock.now());
        let person = certificate(&key, &evidence(&door.dir, &asked, &["ann", "cid"]));
        let upgrade = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let mut client = door.client("app", Some(&person), Speaks::Http1).await;
        let got = client.ask(Method::GET, "/ws", &upgrade, b"").await;
        assert_eq!((got.status.as_u16(), got.reason().as_str()), (401, "bad_credential"));
        for speaks in BOTH {
            let mut client = door.client("app", Some(&person), speaks).await;
            assert_eq!(client.get("/sse").await.reason(), "bad_credential");
        }
        // A page of another site upgrades nothing, and a cookie or token beside it spoils it.
        let (_, _, all) = opened(&door.dir, &["ann", "ben"]);
        let mut crossing = upgrade.to_vec();
        crossing.push(("origin", "https://evil.example"));
        let got = door.client("app", Some(&all), Speaks::Http1).await.ask(Method::GET, "/ws", &crossing, b"").await;
        assert_eq!(got.status, 403, "{}", got.text());
        for more in [("cookie", "__Host-doorward=x"), ("authorization", "Bearer x"), ("doorward-token", "x")] {
            let got = door.client("app", Some(&all), Speaks::Http2).await.ask(Method::GET, "/x", &[more], b"").await;
            assert_eq!(got.reason(), "bad_credential", "{more:?}");
        }
        // It is nobody at the control host.
        let got = door.client("", Some(&all), Speaks::Http1).await.get("/api/v1/whoami").await;
        assert_eq!(got.status, 401, "{}", got.text());
    });
}

/// A key of hardware that is made of bytes here: what OpenSSH makes of a FIDO2 key (PROTOCOL.u2f).
struct Hardware {
    key: Ed25519KeyPair,
}

const APPLICATION: &str = "ssh:";

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

impl Hardware {
    fn public(&self) -> Vec<u8> {
        let mut blob = text(b"sk-ssh-ed25519@openssh.com");
        blob.extend(text(self.key.public_key().as_ref()));
        blob.extend(text(APPLICATION.as_bytes()));
        blob
    }

    fn line(&self, name: &str) -> String {
        format!("{name} sk-ssh-ed25519@openssh.com {}\n", data_encoding::BASE64.encode(&self.public()))
    }

    /// SSHSIG over `message`, with these flags: 1 is a touch, 4 a verified user.
    fn sign(&self, message: &[u8], flags: u8) -> Vec<u8> {
        let mut signed = b"SSHSIG".to_vec();
        for part in [SIGN_NAMESPACE.as_bytes(), b"", b"sha512", &Sha512::digest(message)] {
            signed.extend(text(part));
        }
        let counter = 7u32.to_be_bytes();
        let mut by_device = Sha256::digest(APPLICATION.as_bytes()).to_vec();
        by_device.push(flags);
        by_device.extend(counter);
        by_device.extend(Sha256::digest(&signed));
        let mut signature = text(b"sk-ssh-ed25519@openssh.com");
        signature.extend(text(self.key.sign(&by_device).as_ref()));
        signature.push(flags);
        signature.extend(counter);
        let mut blob = b"SSHSIG".to_vec();
        blob.extend(1u32.to_be_bytes());
        for part in [&self.public()[..], SIGN_NAMESPACE.as_bytes(), b"", b"sha512", &signature] {
            blob.extend(text(part));
        }
        let encoded = data_encoding::BASE64.encode(&blob);
        let lines: Vec<&str> = encoded.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let armoured = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
        armoured.into_bytes()
    }
}

/// OpenSSH's own word on a signature: whether it is one of this key.
fn openssh_agrees(dir: &Path, line: &str, signature: &[u8], message: &[u8]) -> bool {
    use std::io::Write;
    std::fs::write(dir.join("allowed"), line).unwrap();
    std::fs::write(dir.join("it.sig"), signature).unwrap();
    let mut child = std::process::Command::new("ssh-keygen")
        .args(["-Y", "verify", "-f", "allowed", "-I", "key", "-n", SIGN_NAMESPACE, "-s", "it.sig"])
        .current_dir(dir)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(message).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn a59_a_hardware_key_counts_only_with_a_touch() {
    let folder = temporary_folder();
    let dir = folder.path();
    custodians(dir);
    let hardware = Hardware { key: Ed25519KeyPair::from_seed_unchecked(&[5; 32]).unwrap() };
    let mut file = std::fs::read_to_string(dir.join("custodians")).unwrap();
    file.push_str(&hardware.line("key"));
    let rules = OpeningRules { custodians: Custodians::parse(file.as_bytes()).unwrap(), ..rules(dir, 2) };
    let now = SystemClock.now();
    let (key, asked) = challenge(&rules, Scope::All, now);
    let print: [u8; 32] = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&key)).into();
    let message = asked.text();
    let ann = signed(dir, "ann", SIGN_NAMESPACE, &message);
    let with = |signature: Vec<u8>| {
        let signatures = vec![ann.clone(), signature];
        rules.open(&print, &Evidence { challenge: message.clone().into_bytes(), signatures }, now)
    };
    for (flags, touched) in [(0u8, false), (1, true), (4, false), (5, true)] {
        let signature = hardware.sign(message.as_bytes(), flags);
        // The signature itself is right, with a touch or without.
        assert!(
            openssh_agrees(dir, &hardware.line("key"), &signature, message.as_bytes()) || flags & 1 == 0,
            "{flags}"
        );
        match with(signature) {
            Ok(opening) => assert!(touched && opening.custodians == ["ann", "key"], "{flags}"),
            Err(error) => {
                let fault = SignatureFault::NoPresence("key".to_owned());
                assert_eq!((error, touched), (QuorumError::Signature { number: 2, fault }, false), "{flags}");
            }
        }
    }
    // Flags are under the signature: to say afterwards that there was a touch is no touch.
    let mut changed = hardware.sign(message.as_bytes(), 0);
    let text = String::from_utf8(changed.clone()).unwrap();
    let inner: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut blob = data_encoding::BASE64.decode(inner.as_bytes()).unwrap();
    let flags = blob.len() - 5;
    blob[flags] = 1;
    let encoded = data_encoding::BASE64.encode(&blob);
    let lines: Vec<&str> = encoded.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    changed =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n")).into_bytes();
    let fault = SignatureFault::OtherChallenge("key".to_owned());
    assert_eq!(with(changed), Err(QuorumError::Signature { number: 2, fault }));
}

/// Everything that changes something at the control host.
fn changes() -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("/api/v1/locks", json!({ "principal": "dev|alice", "reason": "x" })),
        ("/api/v1/locks/clear", json!({ "principal": "dev|alice", "reason": "x" })),
        ("/api/v1/sessions/ses_06h01rs2cto0b2afh7rgi8mlb0/revoke", json!({ "reason": "x" })),
        ("/api/v1/grants/grt_06h01rs2cto0b2afh7rgi8mlb0/revoke", json!({ "reason": "x" })),
        ("/api/v1/grants/grt_06h01rs2cto0b2afh7rgi8mlb0/drop", json!({})),
        ("/api/v1/requests", json!({ "entitlement": "app/x" })),
        ("/api/v1/requests/req_06h01rs2cto0b2afh7rgi8mlb0/approvals", json!({ "answer": "approve" })),
        ("/api/v1/requests/req_06h01rs2cto0b2afh7rgi8mlb0/withdraw", json!({})),
        ("/api/v1/breakglass/brk_06h01rs2cto0b2afh7rgi8mlb0/reviews", json!({ "finding": "x" })),
        ("/api/v1/notices/evt_06h01rs2cto0b2afh7rgi8mlb0/retry", json!({})),
    ]
}

#[test]
fn a60_nothing_is_changed_without_a_credential_or_by_a_page_of_another_site() {
    let many = |name| (name, "5000".to_owned());
    let environment = vec![
        many("DOORWARD__SERVER__LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS"),
        many("DOORWARD__SERVER__LIMITS__BURST_PER_ADDRESS"),
    ];
    with_door(Plan { environment, ..plan() }, async |door| {
        let carol = door.sign_in("carol").await;
        let own = door.origin.clone();
        for speaks in BOTH {
            for (path, body) in changes() {
                let body = body.to_string();
                let ask = async |person: Option<&Person>, more: &[(&str, &str)]| {
                    let mut headers = vec![("content-type", "application/json")];
                    headers.extend_from_slice(more);
                    let mut client = door.client("", person, speaks).await;
                    client.ask(Method::POST, path, &headers, body.as_bytes()).await
                };
                let nobody = ask(None, &[]).await;
                assert_eq!(nobody.status, 401, "{path}: {}", nobody.text());
                // A browser shows the certificate by itself: only our own pages may use it.
                for origin in
                    ["https://evil.example", "null", "http://127.0.0.1:8080", "https://app.doorward.localhost"]
                {
                    let crossing = ask(Some(&carol), &[("origin", origin)]).await;
                    assert_eq!(crossing.status, 403, "{path} {origin}: {}", crossing.text());
                }
                let crossing = ask(Some(&carol), &[("sec-fetch-site", "cross-site")]).await;
                assert_eq!(crossing.status, 403, "{path}: {}", crossing.text());
                let ours = ask(Some(&carol), &[("origin", &own)]).await;
                assert!(!matches!(ours.status.as_u16(), 401 | 421), "{path}: {}", ours.text());
            }
        }
        // A form of another site can't send what is wanted, also where no credential is asked for.
        for path in ["/api/v1/breakglass/check", "/api/v1/breakglass/drills", "/api/v1/locks"] {
            for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
                let mut client = door.client("", Some(&carol), Speaks::Http1).await;
                let got = client.ask(Method::POST, path, &[("content-type", kind)], b"{}").await;
                assert_eq!(got.status, 415, "{path} {kind}: {}", got.text());
            }
        }
        // A name that was made to point here is not this host's.
        let got = door
            .bytes("", Some(&carol), b"POST /api/v1/locks HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert!(got.starts_with("HTTP/1.1 421"), "{got}");
        // No other host lets a page read its answers.
        let got = door
            .client("", None, Speaks::Http1)
            .await
            .ask(Method::GET, "/api/v1/breakglass/terms", &[("origin", "https://evil.example")], b"")
            .await;
        assert!(got.header("access-control-allow-origin").is_none(), "{:?}", got.headers);
    });
}

#[test]
fn a60_the_plain_listener_answers_no_page_that_was_led_to_it() {
    with_door(plan(), async |door| {
        let telemetry = door.running().telemetry.unwrap();
        let ask = async |host: &str| {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::TcpStream::connect(telemetry).await.unwrap();
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut got = String::new();
            stream.read_to_string(&mut got).await.unwrap();
            got
        };
        for ours in [
            telemetry.to_string(),
            "127.0.0.1".to_owned(),
            format!("localhost:{}", telemetry.port()),
            "[::1]:9464".to_owned(),
        ] {
            assert!(ask(&ours).await.starts_with("HTTP/1.1 200"), "{ours}");
        }
        for theirs in ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
            assert!(ask(theirs).await.starts_with("HTTP/1.1 421"), "{theirs}");
        }
    });
}

#[test]
fn a59_a_threshold_below_two_or_above_the_custodians_is_refused_at_load() {
    let folder = temporary_folder();
    let dir = folder.path();
    custodians(dir);
    for (threshold, told) in
        [("1", "threshold"), ("0", "threshold"), ("4", "there are 3 custodians"), ("-1", "threshold")]
    {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[breakglass]\ncustodians = \"custodians\"\nthreshold = {threshold}\n"
        );
        std::fs::write(dir.join("doorward.toml"), text).unwrap();
        let refused = doorward::config::load(&dir.join("doorward.toml"), &doorward::config::Environment::default());
        let said = format!("{:?}", refused.expect_err(threshold));
        assert!(said.contains(told), "{threshold}: {said}");
    }
}
