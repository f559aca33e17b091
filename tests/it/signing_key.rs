//! Signing keys, on both engines: made, published, followed, forgotten; sealed under a key.

use doorward::control::signing_key::{KeyAlert, KeyError, KeyRing, KeySettings, Loaded, load_or_create};
use doorward::credential::seal::{SealError, Sealer};
use doorward::credential::token::SigningKey;
use doorward::identity::token::{Expected, KeySet, verify};
use doorward::model::{KeyId, Timestamp, Ttl};
use doorward::store::Store;
use serde_json::json;
use sqlx::{AnyConnection, Connection, Executor};

use crate::store_record::{assert_gapless, opened};
use crate::support::{SeededEntropy, databases, install_crypto, temporary_folder};

const NOW: Timestamp = Timestamp::from_seconds(1_795_341_600);

fn sealer() -> Sealer {
    Sealer::new(&[5; 32]).unwrap()
}

async fn load(store: &Store, now: Timestamp, settings: &KeySettings) -> Loaded {
    load_or_create(store, &sealer(), now, &SeededEntropy::new(1), settings).await.unwrap()
}

fn kids(ring: &KeyRing) -> Vec<KeyId> {
    ring.published.iter().map(|key| key.kid).collect()
}

async fn outside(url: &str, statement: &'static str) {
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(url).await.unwrap();
    connection.execute(statement).await.unwrap();
    connection.close().await.unwrap();
}

#[test]
fn what_is_sealed_opens_for_its_purpose_and_place_only() {
    let entropy = SeededEntropy::new(1);
    let sealed = sealer().seal("refresh-token", b"ses_1", b"secret", &entropy).unwrap();
    assert_eq!(sealer().open("refresh-token", b"ses_1", &sealed).unwrap().expose(), b"secret");
    assert!(sealer().open("refresh-token", b"ses_2", &sealed).is_err());
    assert!(sealer().open("signing-key", b"ses_1", &sealed).is_err());
    assert!(Sealer::new(&[6; 32]).unwrap().open("refresh-token", b"ses_1", &sealed).is_err());
    for place in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[place] ^= 1;
        assert!(sealer().open("refresh-token", b"ses_1", &changed).is_err(), "byte {place}");
        assert!(sealer().open("refresh-token", b"ses_1", &sealed[..place]).is_err());
    }
    let again = sealer().seal("refresh-token", b"ses_1", b"secret", &entropy).unwrap();
    assert_ne!(sealed, again);
    assert_eq!(Sealer::new(&[5; 16]).err(), Some(SealError::KeyLength { bytes: 16 }));
}

#[tokio::test]
async fn a_token_of_the_current_key_verifies_against_the_published_set() {
    install_crypto();
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let loaded = load(&store, NOW, &KeySettings::default()).await;
        assert_eq!(loaded.alerts, []);
        let current = &loaded.ring.current;
        let key = SigningKey::new(current.kid.to_string(), &current.pkcs8, current.public_point.clone());
        let claims = json!({ "iss": "https://door", "aud": "ops-api", "sub": "alice",
            "iat": NOW.seconds(), "exp": NOW.seconds() + 60, "jti": "1" });
        let token = key.sign("at+jwt", &claims).unwrap();
        let set = KeySet::from_json(&loaded.ring.jwks());
        let expected = Expected { issuer: "https://door", audiences: &["ops-api"], types: &["at+jwt"] };
        assert_eq!(verify(&token, &set, &expected, NOW).unwrap().subject, "alice");
        // A restart and another node have the same keys.
        let (other, _) = opened(&url, 2).await;
        let again = load(&other, NOW.plus(Ttl::minutes(5)), &KeySettings::default()).await;
        assert_eq!(again.ring.jwks(), loaded.ring.jwks());
        assert_eq!(again.ring.current.kid, current.kid);
    }
}

#[tokio::test]
async fn the_next_key_is_published_before_it_signs_and_the_old_one_until_its_last_token_ended() {
    for url in databases() {
        let (store, log) = opened(&url, 1).await;
        let settings = KeySettings { rotate_every: Ttl::hours(24), ..KeySettings::default() };
        let entropy = SeededEntropy::new(1);
        let mut ring = load(&store, NOW, &settings).await.ring;
        let first = kids(&ring);
        assert_eq!((first.len(), first[0]), (2, ring.current.kid));
        assert_eq!(ring.published[1].signs_from, NOW.plus(Ttl::hours(24)));
        let mut signed = vec![ring.current.kid];
        let mut seen_since: Vec<(KeyId, Timestamp)> = first.iter().map(|kid| (*kid, NOW)).collect();
        let mut ended: Vec<(KeyId, Timestamp)> = Vec::new();
        // A week, a look each ten minutes, at which the server loads them when its ring is out of date.
        for minute in (0..7 * 24 * 60).step_by(10) {
            let now = NOW.plus(Ttl::minutes(minute));
            if ring.changes_at.is_over(now) {
                let loaded = load_or_create(&store, &sealer(), now, &entropy, &settings).await.unwrap();
                assert_eq!(loaded.alerts, []);
                if loaded.ring.current.kid != ring.current.kid {
                    ended.push((ring.current.kid, now));
                    signed.push(loaded.ring.current.kid);
                    let since = seen_since.iter().find(|(kid, _)| *kid == loaded.ring.current.kid).unwrap().1;
                    assert!(now.since(since) >= settings.publish_lead);
                }
                ring = loaded.ring;
            }
            for kid in kids(&ring) {
                if !seen_since.iter().any(|(seen, _)| *seen == kid) {
                    seen_since.push((kid, now));
                }
            }
            assert!((2..=3).contains(&ring.published.len()));
            for (kid, end) in &ended {
                let published = kids(&ring).contains(kid);
                assert!(published || now.since(*end) >= Ttl::minutes(20), "{kid} went too early");
                assert!(!published || now.since(*end) < Ttl::minutes(30), "{kid} stays too long");
            }
        }
        assert_eq!(signed.len(), 7);
        store.number_pending(log, NOW).await.unwrap();
        let events = assert_gapless(&store, log).await;
        assert!(events.iter().all(|event| event.clear().kind.name() == "key.changed"));
        assert_eq!(events.len(), 8 + 6);
    }
}

#[tokio::test]
async fn after_a_long_stop_the_next_key_still_gets_its_lead() {
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let settings = KeySettings::default();
        let before = kids(&load(&store, NOW, &settings).await.ring);
        let later = NOW.plus(Ttl::hours(24 * 365));
        let ring = load(&store, later, &settings).await.ring;
        assert_eq!(ring.current.kid, before[1]);
        assert_eq!(ring.published.len(), 2);
        assert_eq!(ring.published[1].signs_from, later.plus(settings.publish_lead));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_at_once_agree_on_their_keys() {
    for url in databases() {
        let mut nodes = tokio::task::JoinSet::new();
        let (first, _) = opened(&url, 1).await;
        for node in 0..4u8 {
            let store = if node == 0 { first.clone() } else { opened(&url, node + 1).await.0 };
            nodes.spawn(async move {
                let entropy = SeededEntropy::new(100 + u64::from(node));
                load_or_create(&store, &sealer(), NOW, &entropy, &KeySettings::default()).await.unwrap().ring.jwks()
            });
        }
        let sets = nodes.join_all().await;
        assert!(sets.iter().all(|set| *set == sets[0]), "{sets:?}");
    }
}

#[tokio::test]
async fn a_key_that_was_written_or_altered_without_the_encryption_key_is_ignored_and_reported() {
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let ring = load(&store, NOW, &KeySettings::default()).await.ring;
        for statement in [
            // Another id, an earlier time, another point for the same sealed bytes.
            "insert into signing_key select 'key_00000000000000000000000000', algorithm, public_point, signs_from + 1, created_at, sealed from signing_key where signs_from = (select min(signs_from) from signing_key)",
            "insert into signing_key select 'no key at all', algorithm, public_point, 1, created_at, sealed from signing_key where id = 'key_00000000000000000000000000'",
            "insert into signing_key select 'key_00000000000000000000000001', 'none', public_point, signs_from, created_at, sealed from signing_key where id = 'key_00000000000000000000000000'",
        ] {
            outside(&url, statement).await;
        }
        let loaded = load(&store, NOW, &KeySettings::default()).await;
        assert_eq!(loaded.ring.jwks(), ring.jwks());
        let ignored = loaded.alerts.iter().filter(|alert| matches!(alert, KeyAlert::Ignored { .. })).count();
        assert_eq!(ignored, 3, "{:?}", loaded.alerts);

        outside(&url, "update signing_key set signs_from = signs_from - 1").await;
        let none = load_or_create(&store, &sealer(), NOW, &SeededEntropy::new(1), &KeySettings::default()).await;
        assert!(matches!(none, Err(KeyError::NoneOpens { records: 5 })), "{none:?}");
    }
}

#[tokio::test]
async fn another_encryption_key_opens_nothing_and_makes_nothing() {
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        load(&store, NOW, &KeySettings::default()).await;
        let other = Sealer::new(&[6; 32]).unwrap();
        let none = load_or_create(&store, &other, NOW, &SeededEntropy::new(1), &KeySettings::default()).await;
        assert!(matches!(none, Err(KeyError::NoneOpens { records: 2 })), "{none:?}");
        assert_eq!(store.signing_key_list().await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn keys_are_kept_sealed_on_disk_for_a_start_without_the_database() {
    use std::os::unix::fs::PermissionsExt;
    for url in databases() {
        let (store, _) = opened(&url, 1).await;
        let folder = temporary_folder();
        let path = folder.path().join("signing-keys.json");
        let settings = KeySettings { file: Some(path.clone()), ..KeySettings::default() };
        let loaded = load(&store, NOW, &settings).await;
        assert_eq!(loaded.alerts, []);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        store.close().await;
        let without = load(&store, NOW, &settings).await;
        assert_eq!(without.ring.jwks(), loaded.ring.jwks());
        assert_eq!(without.ring.current.pkcs8.expose(), loaded.ring.current.pkcs8.expose());
        assert!(matches!(&without.alerts[..], [KeyAlert::FromFile { .. }]));

        let other = Sealer::new(&[6; 32]).unwrap();
        let entropy = SeededEntropy::new(1);
        let none = load_or_create(&store, &other, NOW, &entropy, &settings).await;
        assert!(matches!(none, Err(KeyError::NoneInFile { .. })), "{none:?}");
        std::fs::write(&path, "{").unwrap();
        let none = load_or_create(&store, &sealer(), NOW, &entropy, &settings).await;
        assert!(matches!(none, Err(KeyError::NoneInFile { .. })), "{none:?}");
    }
}
