//! Leaves of the record: exact bytes, commitments, caps and escapes.

use std::sync::Arc;

use doorward::audit::json::TEXT_BYTES_MAX;
use doorward::audit::{
    Event, EventType, Leaf, LeafError, Outcome, PersonalField, Pseudonyms, RequestFacts, Sealed, Sealing,
};
use doorward::model::{DecisionId, EventId, NodeId, Principal, Secret, ServiceName, SessionId, Thumbprint, Timestamp};

use sha2::{Digest, Sha256};

use crate::support::SeededEntropy;

pub fn sealing(seed: u64) -> Arc<Sealing> {
    let pseudonyms = Pseudonyms::new(&Secret::new(vec![7; 32]));
    Arc::new(Sealing::new(pseudonyms, Arc::new(SeededEntropy::new(seed))))
}

/// A decision about `path`, with everything that a decision can have.
pub fn decision(number: u8, path: &str) -> Event {
    let time = Timestamp::from_millis(1_795_341_600_123 + i64::from(number));
    let mut bytes = [number; 16];
    bytes[..6].copy_from_slice(&time.millis().to_be_bytes()[2..]);
    let mut event = Event::new(EventId::from_bytes(bytes), time, EventType::DecisionAllow, Outcome::Success);
    event.actor.principal = Principal::user("dev", "alice");
    event.actor.email = Some("alice@example.com".into());
    event.actor.address = Some("192.0.2.7".parse().unwrap());
    event.actor.device = Some("alice's laptop".into());
    event.actor.session = Some(SessionId::from_bytes([9; 16]));
    event.actor.certificate = Some(Thumbprint::from_bytes([3; 32]));
    event.action = Some("deploy".into());
    event.resource = Some("Service::\"ops-api\"".into());
    event.service = Some(ServiceName::parse("ops-api").unwrap());
    event.decision = Some(DecisionId::from_bytes(bytes));
    event.request = Some(RequestFacts {
        method: "POST".into(),
        host: "ops-api.doorward.localhost".into(),
        path: path.into(),
        protocol: "h2",
    });
    event.policy_version = Some("sha256:00".into());
    event.trace_id = Some("0af7651916cd43dd8448eb211c80319c".into());
    event.with("policies", vec!["deploy.staging"])
}

fn node() -> NodeId {
    NodeId::from_bytes([1; 16])
}

fn restored(sealed: &Sealed, body: &str, personal: &str, salts: Vec<u8>) -> Result<Sealed, LeafError> {
    Sealed::stored(sealed.clear().clone(), body.to_owned(), personal, salts)
}

#[test]
fn a_leaf_has_its_exact_bytes() {
    let sealed = sealing(1).seal(&decision(1, "/v1/deployments/staging"));
    insta::assert_snapshot!(String::from_utf8(sealed.leaf(&node(), 7)).unwrap(), @r#"{"v":1,"log":"nod_040g2081040g2081040g208104","seq":7,"time":"2026-11-22T10:00:00.124Z","type":"decision.allow","service":"ops-api","outcome":"success","body":"No5c1xx5Cn623Qm5hBjupV6WP8c8ETCA3LWG-N-T-zA","personal":{"address":"jFDs8tyl5Vt75juGmmgH6ojQvWofCP7pvBPU3AAkeiQ","device":"ZMwcw39P5uK7ab0PeqHMBj47YkV2Zx1JI0c_lt5dwTA","email":"-Uv32Y0mvyWqmc34DVrx7A-UlOrxY_QEkhRKs3Szx8U","path":"BQYzbVQaHdpG7PKfPaw9Ak6L1pF-2G3_nWaLeB1SRLg","principal":"5PYudPprgX_jiC4wvz2zJ96tX3KHmmY4rEqmIMKnanE"}}"#);
    insta::assert_snapshot!(sealed.body(), @r#"{"action":"deploy","actor":{"certificate":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM","id":"usr_30b9j8mj7qob0vmd7cdn77q81s","kind":"User","session":"ses_144gi289144gi289144gi28914"},"data":{"policies":["deploy.staging"]},"decision":"dec_06h05cm5fg0g2081040g208104","id":"evt_06h05cm5fg0g2081040g208104","policy_version":"sha256:00","request":{"host":"ops-api.doorward.localhost","method":"POST","protocol":"h2"},"resource":"Service::\"ops-api\"","trace_id":"0af7651916cd43dd8448eb211c80319c"}"#);
    insta::assert_snapshot!(sealed.personal_json(), @r#"{"address":"192.0.2.7","device":"alice's laptop","email":"alice@example.com","path":"/v1/deployments/staging","principal":"User::\"dev|alice\""}"#);
}

#[test]
fn a_leaf_can_be_made_again_from_what_is_kept_beside_it() {
    let sealed = sealing(2).seal(&decision(1, "/a"));
    let again = restored(&sealed, sealed.body(), &sealed.personal_json(), sealed.salts().to_vec()).unwrap();
    assert_eq!(sealed, again);
    assert_eq!(sealed.leaf(&node(), 3), again.leaf(&node(), 3));
    let leaf = Leaf::parse(&again.leaf(&node(), 3)).unwrap();
    leaf.verify(&again).unwrap();
    assert_eq!((leaf.log, leaf.seq, leaf.kind), (node(), 3, EventType::DecisionAllow));
}

#[test]
fn a64_every_flipped_byte_beside_a_leaf_is_noticed() {
    let sealed = sealing(3).seal(&decision(1, "/v1/deployments/staging"));
    let leaf = Leaf::parse(&sealed.leaf(&node(), 3)).unwrap();
    let personal = sealed.personal_json();
    let altered = |body: &[u8], personal: &[u8], salts: &[u8]| {
        let (Ok(body), Ok(personal)) = (std::str::from_utf8(body), std::str::from_utf8(personal)) else {
            return true;
        };
        restored(&sealed, body, personal, salts.to_vec()).map_or(true, |sealed| leaf.verify(&sealed).is_err())
    };
    let parts = [sealed.body().as_bytes(), personal.as_bytes(), sealed.salts()];
    assert!(!altered(parts[0], parts[1], parts[2]));
    for part in 0..3 {
        for place in 0..parts[part].len() {
            let mut changed = parts.map(<[u8]>::to_vec);
            changed[part][place] ^= 1;
            assert!(altered(&changed[0], &changed[1], &changed[2]), "part {part}, byte {place}");
        }
    }
}

#[test]
fn a64_every_flipped_byte_of_a_leaf_is_noticed_by_comparing_it_with_what_is_kept() {
    let sealed = sealing(4).seal(&decision(1, "/a"));
    let bytes = sealed.leaf(&node(), 3);
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        let noticed = Leaf::parse(&changed)
            .map_or(true, |leaf| leaf.log != node() || leaf.seq != 3 || leaf.verify(&sealed).is_err());
        assert!(noticed, "byte {place}: {}", String::from_utf8_lossy(&changed));
    }
}

#[test]
fn a_leaf_has_one_form_only() {
    let bytes = sealing(5).seal(&decision(1, "/a")).leaf(&node(), 3);
    let text = String::from_utf8(bytes).unwrap();
    assert!(Leaf::parse(text.as_bytes()).is_ok());
    for other in [
        text.replace(",\"seq\"", ", \"seq\""),
        text.replace("\"v\":1", "\"v\":2"),
        text.replace("\"seq\":3", "\"seq\":3.0"),
        text.replace("\"seq\":3", "\"seq\":-3,\"seq\":3"),
        text.replace("decision.allow", "decision\\u002eallow"),
        format!("{text}\n"),
        String::new(),
    ] {
        assert_eq!(Leaf::parse(other.as_bytes()), Err(LeafError::Form), "{other}");
    }
}

#[test]
fn a_leaf_names_nobody_and_a_field_can_be_shown_alone() {
    let sealed = sealing(6).seal(&decision(1, "/people/alice"));
    let bytes = sealed.leaf(&node(), 3);
    let text = String::from_utf8(bytes.clone()).unwrap();
    for personal in ["alice", "192.0.2.7", "example.com", "laptop"] {
        assert!(!text.contains(personal) && !sealed.body().contains(personal), "{personal} in {text}");
    }
    let leaf = Leaf::parse(&bytes).unwrap();
    let email = sealed.personal().iter().position(|(field, _)| *field == PersonalField::Email).unwrap();
    let salt = &sealed.salts()[16 * (1 + email)..][..16];
    assert!(leaf.holds_personal(PersonalField::Email, salt, "alice@example.com"));
    assert!(!leaf.holds_personal(PersonalField::Email, salt, "bob@example.com"));
    assert!(!leaf.holds_personal(PersonalField::Path, salt, "alice@example.com"));
    assert!(leaf.holds_body(&sealed.salts()[..16], sealed.body()));
}

#[test]
fn a_principal_keeps_its_pseudonym_and_another_installation_gives_another() {
    let alice = Principal::user("dev", "alice").unwrap();
    let one = Pseudonyms::new(&Secret::new(vec![7; 32]));
    let other = Pseudonyms::new(&Secret::new(vec![8; 32]));
    assert_eq!(one.of(&alice), one.of(&alice));
    assert_ne!(one.of(&alice), other.of(&alice));
    assert_ne!(one.of(&alice), one.of(&Principal::user("dev", "alicf").unwrap()));
    assert_ne!(sealing(1).seal(&decision(1, "/a")).salts(), sealing(2).seal(&decision(1, "/a")).salts());
}

#[test]
fn a62_what_could_break_a_line_or_turn_the_reading_is_escaped() {
    let mut event = decision(1, "/a\r\nb\u{1b}[31m\u{202e}c\u{2066}\0\u{85}\u{e0041}\"\\é");
    event.actor.device = Some("x\u{200b}\n".into());
    event.reason = Some("=cmd|' /C calc'!A0\u{2028}".into());
    let sealed = sealing(7).seal(&event);
    let stored = sealed.personal_json() + sealed.body();
    assert!(stored.contains(r#""/a\u000d\u000ab\u001b[31m\u202ec\u2066\u0000\u0085\udb40\udc41\"\\é""#), "{stored}");
    assert!(stored.chars().all(|c| !c.is_control() && !"\u{202e}\u{2066}\u{200b}\u{2028}\u{e0041}".contains(c)));
    let again = restored(&sealed, sealed.body(), &sealed.personal_json(), sealed.salts().to_vec()).unwrap();
    assert_eq!(sealed, again);
}

#[test]
fn a62_over_long_texts_are_capped_with_their_hash() {
    let long = format!("/{}", "ü".repeat(5_000_000));
    let mut event = decision(1, &long).with("name", long.as_str());
    event.request.as_mut().unwrap().host = long.as_str().into();
    let sealed = sealing(8).seal(&event);
    let (_, path) = sealed.personal().iter().find(|(field, _)| *field == PersonalField::Path).unwrap();
    assert!(path.len() < TEXT_BYTES_MAX + 120, "{}", path.len());
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(long.as_bytes()));
    assert!(path.ends_with(&format!("…[10000001 bytes, sha256:{digest}]")), "{}", &path[2000..]);
    assert!(sealed.body().len() < 3 * TEXT_BYTES_MAX, "{}", sealed.body().len());
    let again = restored(&sealed, sealed.body(), &sealed.personal_json(), sealed.salts().to_vec()).unwrap();
    assert_eq!(sealed, again);

    let mut event = decision(2, "/a");
    for number in 0..1000 {
        event.data.insert(format!("key {number}"), "x".repeat(100).into());
    }
    let sealed = sealing(8).seal(&event);
    assert!(sealed.body().contains("\"data\":{\"cut_bytes\":11") && sealed.body().len() < 2000, "{}", sealed.body());
}

#[test]
fn what_was_done_to_somebody_names_them_by_pseudonym() {
    let mut event = Event::new(
        EventId::from_bytes([1; 16]),
        Timestamp::from_seconds(1_795_341_600),
        EventType::LockSet,
        Outcome::Success,
    );
    event.actor.principal = Principal::user("dev", "carol");
    event.subject = Principal::user("dev", "bob");
    let sealed = sealing(9).seal(&event);
    let bob = sealing(1).pseudonyms().of(&Principal::user("dev", "bob").unwrap());
    assert!(
        sealed.body().contains(&format!("\"subject\":{{\"id\":\"{bob}\",\"kind\":\"User\"}}")),
        "{}",
        sealed.body()
    );
    assert!(sealed.personal_json().contains(r#""subject":"User::\"dev|bob\"""#));
}
