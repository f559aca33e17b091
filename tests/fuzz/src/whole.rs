//! What must hold for any bytes in readers that stand on the whole program: tokens, proofs, cookies,
//! certificates, policy files, contexts, the record. Shared by the fuzz targets of `whole/` and by the
//! replay on stable.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use doorward::audit::Leaf;
use doorward::audit::checkpoint::Checkpoint;
use doorward::audit::evidence::{Head, Manifest, RangeProof, StatementText};
use doorward::audit::line::check_line;
use doorward::audit::note::{Note, NoteKey, split_notes};
use doorward::identity::breakglass::{carries_opening, evidence_of};
use doorward::identity::certificate::{ClientCertificate, Issuer};
use doorward::identity::cookie::{Presented, SESSION_COOKIE, presented};
use doorward::identity::dpop::{self, Purpose};
use doorward::identity::dpop_nonce::Nonces;
use doorward::identity::token::{Expected, KeySet, claimed, verify};
use doorward::model::{Principal, ServiceName, Timestamp};
use doorward::policy::{Ambient, Facts, LoadSettings, PolicySet, RequestContext, SessionContext, load};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

const NOW: Timestamp = Timestamp::from_seconds(1_795_341_600);
const TOKEN: &str = include_str!("../corpus/token/good");
const KEYS: &str = include_str!("../corpus/token/keys");
const PROOF: &str = include_str!("../corpus/proof/good");
const PROOF_FOR_Y: &str = include_str!("../corpus/proof/query");

/// Cookie lines: at most one value of ours is ever seen, and it is the one that stands there.
pub fn cookie(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let named = |line: &HeaderValue| {
        let key = |pair: &[u8]| pair.split(|byte| *byte == b'=').next().map(|key| key.trim_ascii().to_vec());
        let pairs = line.as_bytes().split(|byte| *byte == b';').filter(|pair| pair.contains(&b'='));
        pairs.filter(|pair| key(pair).is_some_and(|key| key == SESSION_COOKIE.as_bytes())).count()
    };
    let ours: usize = headers.get_all(COOKIE).iter().map(named).sum();
    if let Presented::One(value) = presented(&headers, SESSION_COOKIE) {
        assert_eq!(ours, 1, "one of several was chosen");
        let written = value.expose();
        assert!(data.windows(written.len()).any(|part| part == written.as_bytes()));
    }
}

/// A token: only the one that was signed is taken, to the byte.
pub fn token(data: &[u8]) {
    static KEY: OnceLock<KeySet> = OnceLock::new();
    let Ok(text) = std::str::from_utf8(data) else { return };
    let keys = KEY.get_or_init(|| KeySet::from_json(&serde_json::from_str(KEYS).expect("a key set")));
    let expected = Expected { issuer: "https://door.example", audiences: &["svc"], types: &["at+jwt"] };
    let _ = claimed(text);
    if verify(text, keys, &expected, NOW).is_ok() {
        assert_eq!(text, TOKEN, "a token that nobody signed was taken");
    }
    // The same bytes as somebody's key set.
    if let Ok(value) = serde_json::from_str(text) {
        let set = KeySet::from_json(&value);
        assert!(set.count() <= 64);
        if text != KEYS {
            let _ = verify(TOKEN, &set, &expected, NOW);
        }
    }
}

/// A proof of possession: one that holds is one that was signed, for what it was signed for. The nonce is
/// asked for last, so one that lacks nothing else holds as far as this goes.
pub fn proof(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let nonces = Nonces::new(b"of this run");
    let purpose = Purpose { method: "POST", host: "svc.example", port: 8443, path: "/x", token: None, nonces: &nonces };
    let holds = |purpose: &Purpose<'_>| matches!(dpop::verify(text, purpose, NOW), Ok(_) | Err(dpop::NONCE_WANTED));
    if holds(&purpose) {
        assert_eq!(text, PROOF, "a proof that nobody made holds");
    }
    if holds(&Purpose { path: "/y", ..purpose }) {
        assert_eq!(text, PROOF_FOR_Y);
    }
    assert!(!holds(&Purpose { token: Some(TOKEN), ..purpose }), "no `ath` was signed");
}

/// A certificate: it names a session only in the one form, and says nothing beyond its end.
pub fn certificate(data: &[u8]) {
    for issuer in [Issuer::Ours, Issuer::Device, Issuer::Spiffe, Issuer::BreakGlass] {
        let Ok(read) = ClientCertificate::read(data, issuer) else { continue };
        assert_eq!(read.session.is_some(), issuer == Issuer::Ours);
        assert_eq!(read.spiffe_id.is_some(), issuer == Issuer::Spiffe);
        assert_eq!(read.device().is_some(), issuer == Issuer::Device);
        assert!(!read.is_current(read.not_after));
    }
    if evidence_of(data).is_some() {
        assert!(carries_opening(data), "an opening that the handshake would not see");
    }
}

/// A `service.toml` beside a policy that permits all: it is refused with a place, or its routes take
/// what they say and no path makes them stumble.
pub fn service_toml(data: &[u8]) {
    let folder = tempfile::Builder::new().prefix("doorward-fuzz-").tempdir().expect("a folder");
    let service = folder.path().join("svc");
    std::fs::create_dir(&service).expect("a folder");
    std::fs::write(service.join("service.toml"), data).expect("a file");
    std::fs::write(service.join("access.cedar"), "@id(\"all\") permit (principal, action, resource);").expect("a file");
    let settings = LoadSettings { domain: "example.com".to_owned(), groups: Vec::new() };
    match load(folder.path(), &settings) {
        Err(found) => assert!(!found.is_empty() && found.iter().all(|fault| !fault.message.is_empty())),
        Ok(set) => {
            for service in set.services() {
                for path in ["/", "/status", "/a/b/c", "/../x", "/%", "//", "", "/v1/deployments/prod"] {
                    for method in ["GET", "POST", "get", ""] {
                        let _ = service.route(method, path);
                    }
                }
                assert!(!service.hosts.is_empty() && !service.upstreams.is_empty());
            }
        }
    }
}

/// Lines as method, path, host, name and value of a parameter, and scope: the judge answers, and what
/// somebody without a group asks for is never allowed whatever it is called.
pub fn cedar_context(data: &[u8]) {
    static SET: OnceLock<PolicySet> = OnceLock::new();
    let set = SET.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        // Of the program itself, or of the fuzz targets that stand below it.
        let found =
            folder.ancestors().map(|above| above.join("policies")).find(|path| path.join("global.cedar").exists());
        let settings = LoadSettings { domain: "doorward.localhost".to_owned(), groups: Vec::new() };
        load(&found.expect("the example policies"), &settings).expect("they are good")
    });
    let text = String::from_utf8_lossy(data);
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let (method, path, host, name, value, scope) = (next(), next(), next(), next(), next(), next());
    let principal = Principal::user("dev", "nobody").expect("a principal");
    let nobody = set.subject(&Facts {
        principal: &principal,
        email: Some(&host),
        email_verified: true,
        name: Some(&name),
        groups: &[],
        entitlements: &[],
        claims: None,
        breakglass: None,
    });
    let amr: Vec<String> = scope.split(' ').map(str::to_owned).collect();
    let params = [(Arc::from(name.as_str()), value)];
    let context = RequestContext {
        method: &method,
        path: &path,
        host: &host,
        params: &params,
        ambient: Ambient {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            now: NOW,
            session: Some(SessionContext { created_at: NOW, authenticated_at: NOW, amr: &amr }),
            device: None,
            token_scope: Some(&amr),
        },
    };
    let service = set.service(&ServiceName::parse("ops-api").expect("a name")).expect("the service");
    for action in service.actions() {
        assert!(!service.decide(&nobody, action, &context).allow, "{action}: {text}");
    }
}

/// A leaf, a line of an export, a note, a checkpoint, a manifest: read in one form only, or refused.
pub fn audit_leaf(data: &[u8]) {
    if let Ok(leaf) = Leaf::parse(data) {
        let text = std::str::from_utf8(data).expect("a leaf is text");
        assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        assert!(leaf.seq >= 0 || text.contains('-'));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.split('\n') {
        if let Ok(checked) = check_line(line) {
            // INVARIANT of the format: one meaning, one form.
            assert!(check_line(&format!(" {line}")).is_err() && check_line(&format!("{line} ")).is_err());
            assert!(checked.withheld.is_none() || checked.erased == 0);
        }
        let _ = (Head::parse(line), NoteKey::parse(line));
    }
    let _ = (Note::parse(text).is_ok(), Checkpoint::parse(text).is_ok(), StatementText::open(text).is_ok());
    let _ = (RangeProof::hashes(&[text.to_owned()]), Manifest::parse(text));
    if let Ok(notes) = split_notes(text) {
        assert!(notes.iter().all(|note| text.contains(note)));
    }
}
