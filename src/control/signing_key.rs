//! The installation's signing keys: which one signs, which are published, when the next is made.
//!
//! Every key has its place in time, `signs_from`, and nothing else decides: all nodes agree on the
//! signing key without asking each other.
//!
//! 1. There is always a key that signs and a `next` one, which is published long before it does.
//! 2. When `next` begins to sign, another next is made, `rotate_every` later.
//! 3. A key that has been followed stays published until the last token that it signed has ended.
//!
//! INVARIANT: a key is trusted only if its record opens under the key-encryption key, which binds
//! its id, public point and place in time. What doesn't open is ignored and reported, so who can
//! write the database can't add a key, nor make one sign earlier or later.
//! INVARIANT: a key signs no earlier than `publish_lead` after it was published; the first key of
//! an installation, before which nobody has any, is the exception.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::signing_key_file as file;
use crate::audit::{Event, EventType, Outcome};
use crate::credential::seal::{SealError, Sealer};
use crate::credential::signing_key::{ALGORITHM, KeyMaterial, NotAKey};
use crate::credential::token::public_jwk;
use crate::model::{Entropy, EventId, KeyId, Secret, Timestamp, Ttl};
use crate::store::{RevocationKind, SealedKey, Store, StoreError, Tx};

/// What the private keys are sealed for.
const PURPOSE: &str = "signing-key";

/// How keys follow each other.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// How long a key signs. At least twice `publish_lead`.
    pub rotate_every: Ttl,
    /// How long a key is published before it signs: longer than upstreams keep `/oauth2/jwks`.
    pub publish_lead: Ttl,
    /// The longest life of a token, clocks that differ included: how long a key stays published
    /// after it has been followed.
    pub token_life_max: Ttl,
    /// Where the sealed keys are kept beside the database, for a start without it.
    pub file: Option<PathBuf>,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self {
            rotate_every: Ttl::hours(30 * 24),
            publish_lead: Ttl::hours(1),
            token_life_max: Ttl::minutes(20),
            file: None,
        }
    }
}

/// The key that signs now.
#[derive(Debug)]
pub struct CurrentKey {
    /// Its name in the key set.
    pub kid: KeyId,
    /// PKCS#8 DER.
    pub pkcs8: Secret<Vec<u8>>,
    /// The public point, uncompressed.
    pub public_point: Vec<u8>,
}

/// A key that upstreams may meet: it signed, signs or will sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    /// Its name in the key set.
    pub kid: KeyId,
    /// The public point, uncompressed.
    pub public_point: Vec<u8>,
    /// From when on it signs.
    pub signs_from: Timestamp,
}

/// The keys as they are at one time.
#[derive(Debug)]
pub struct KeyRing {
    /// The one that signs.
    pub current: CurrentKey,
    /// All that are published, in the order in which they sign.
    pub published: Vec<PublishedKey>,
    /// When this ring is out of date: a key begins to sign, or one is forgotten.
    pub changes_at: Timestamp,
}

impl KeyRing {
    /// The key set to publish (RFC 7517 §5).
    #[must_use]
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> =
            self.published.iter().map(|key| public_jwk(&key.kid.to_string(), &key.public_point)).collect();
        json!({ "keys": keys })
    }
}

/// Something about the keys that people must look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyAlert {
    /// A record that is no key under the key-encryption key was ignored.
    Ignored { record: String, why: String },
    /// The database is away or its keys don't open; the keys are those of the file.
    FromFile { why: String },
    /// The keys could not be kept in the file.
    FileUnwritten { why: String },
}

impl fmt::Display for KeyAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored { record, why } => {
                write!(f, "signing key `{record}` is ignored ({why}): somebody wrote it without the key-encryption key")
            }
            Self::FromFile { why } => write!(f, "signing keys are those of the file ({why})"),
            Self::FileUnwritten { why } => {
                write!(f, "signing keys could not be kept in the file for a start without the database: {why}")
            }
        }
    }
}

/// The keys and what is to be said about them.
#[derive(Debug)]
pub struct Loaded {
    /// The keys.
    pub ring: KeyRing,
    /// What people must look at.
    pub alerts: Vec<KeyAlert>,
}

/// Why there are no keys.
#[derive(Debug)]
pub enum KeyError {
    /// Keys are there, but none opens under the key-encryption key.
    NoneOpens { records: usize },
    /// The database is away, and the file has no key that signs now.
    NoneInFile { why: String },
    /// The database did not do what it was asked.
    Store(StoreError),
    /// A new key could not be sealed.
    Seal(SealError),
    /// A new key could not be made.
    Generate(NotAKey),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneOpens { records } => write!(
                f,
                "none of {records} signing keys opens: give the key-encryption key that this database was made with"
            ),
            Self::NoneInFile { why } => {
                write!(f, "the database is away and the file of signing keys has none that signs now: {why}")
            }
            Self::Store(_) => f.write_str("signing keys could not be loaded or kept"),
            Self::Seal(_) | Self::Generate(_) => f.write_str("a signing key could not be made"),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Seal(error) => Some(error),
            Self::Generate(error) => Some(error),
            Self::NoneOpens { .. } | Self::NoneInFile { .. } => None,
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SealError> for KeyError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

/// Loads the keys, and makes those that are missing. With the database away, those of the file are
/// taken, and nothing new is made.
///
/// # Errors
/// When no key opens, or there is none to be had.
pub async fn load_or_create(
    store: &Store,
    sealer: &Sealer,
    now: Timestamp,
    entropy: &dyn Entropy,
    settings: &KeySettings,
) -> Result<Loaded, KeyError> {
    let mut shelf = match store.signing_key_list().await {
        Ok(rows) => Shelf::open(sealer, rows),
        Err(error) => return from_file(sealer, now, settings, error.to_string()),
    };
    if !shelf.is_complete(now, settings) {
        let mut tx = store.begin().await?;
        shelf = Shelf::open(sealer, tx.signing_key_hold().await?);
        if shelf.keys.is_empty() && shelf.records > 0 {
            // Another key-encryption key, or all rows were overwritten. Making new keys would hide it.
            let none = KeyError::NoneOpens { records: shelf.records };
            return from_file(sealer, now, settings, none.to_string()).map_err(|_| none);
        }
        shelf.complete(&mut tx, sealer, now, entropy, settings).await?;
        tx.commit().await?;
    }
    if let Some(path) = &settings.file {
        let sealed: Vec<&SealedKey> = shelf.keys.iter().map(|key| &key.sealed).collect();
        if let Err(error) = file::write(path, &sealed) {
            let why = format!("`{}`: {error}", path.display());
            shelf.alerts.push(KeyAlert::FileUnwritten { why });
        }
    }
    let records = shelf.records;
    shelf.into_loaded(now, settings).ok_or(KeyError::NoneOpens { records })
}

/// The keys of the file alone, for a start without the database.
///
/// # Errors
/// When the file has none that signs now.
pub fn load_from_file(sealer: &Sealer, now: Timestamp, settings: &KeySettings, why: &str) -> Result<Loaded, KeyError> {
    from_file(sealer, now, settings, why.to_owned())
}

fn from_file(sealer: &Sealer, now: Timestamp, settings: &KeySettings, why: String) -> Result<Loaded, KeyError> {
    let none = |why: String| KeyError::NoneInFile { why };
    let path = settings.file.as_ref().ok_or_else(|| none("no file is configured".into()))?;
    let rows = file::read(path).map_err(|error| none(format!("`{}`: {error}", path.display())))?;
    let mut shelf = Shelf::open(sealer, rows.into_iter().map(Ok).collect());
    shelf.alerts.push(KeyAlert::FromFile { why });
    shelf.into_loaded(now, settings).ok_or_else(|| none(format!("`{}`", path.display())))
}

struct OpenKey {
    sealed: SealedKey,
    material: KeyMaterial,
}

/// The keys that opened, in the order in which they sign.
struct Shelf {
    keys: Vec<OpenKey>,
    records: usize,
    alerts: Vec<KeyAlert>,
}

impl Shelf {
    fn open(sealer: &Sealer, rows: Vec<Result<SealedKey, StoreError>>) -> Self {
        let records = rows.len();
        let mut shelf = Self { keys: Vec::new(), records, alerts: Vec::new() };
        for row in rows {
            match row {
                Ok(sealed) => match open_key(sealer, &sealed) {
                    Ok(material) => shelf.keys.push(OpenKey { sealed, material }),
                    Err(why) => shelf.alerts.push(KeyAlert::Ignored { record: sealed.id.to_string(), why }),
                },
                Err(error) => shelf.alerts.push(KeyAlert::Ignored { record: "?".into(), why: error.to_string() }),
            }
        }
        shelf.keys.sort_by_key(|key| (key.sealed.signs_from, key.sealed.id));
        shelf
    }

    /// Which key signs at `now`: the last one whose time has come.
    fn current(&self, now: Timestamp) -> Option<usize> {
        self.keys.iter().rposition(|key| key.sealed.signs_from.is_over(now))
    }

    /// From when on nobody needs the key at `place`: its follower's beginning and a token's life.
    fn gone_at(&self, place: usize, settings: &KeySettings) -> Option<Timestamp> {
        let follower = self.keys.get(place + 1)?;
        Some(follower.sealed.signs_from.plus(settings.token_life_max))
    }

    fn is_gone(&self, place: usize, now: Timestamp, settings: &KeySettings) -> bool {
        self.gone_at(place, settings).is_some_and(|gone_at| gone_at.is_over(now))
    }

    fn is_complete(&self, now: Timestamp, settings: &KeySettings) -> bool {
        let current = self.current(now);
        current.is_some_and(|place| place + 1 < self.keys.len()) && !self.is_gone(0, now, settings)
    }

    /// Makes the keys that are missing and forgets those that are gone, in this transaction.
    async fn complete(
        &mut self,
        tx: &mut Tx,
        sealer: &Sealer,
        now: Timestamp,
        entropy: &dyn Entropy,
        settings: &KeySettings,
    ) -> Result<(), KeyError> {
        while self.is_gone(0, now, settings) {
            let gone = self.keys.remove(0).sealed;
            tx.signing_key_delete(&gone.id).await?;
            tell(tx, &gone, "retired", now, entropy).await?;
        }
        if self.current(now).is_none() {
            self.make(tx, sealer, now, now, entropy).await?;
        }
        let last = self.current(now).filter(|place| place + 1 == self.keys.len());
        if let Some(signs) = last.and_then(|place| self.keys.get(place)) {
            let due = signs.sealed.signs_from.plus(settings.rotate_every);
            let signs_from = due.max(now.plus(settings.publish_lead));
            self.make(tx, sealer, signs_from, now, entropy).await?;
        }
        Ok(())
    }

    async fn make(
        &mut self,
        tx: &mut Tx,
        sealer: &Sealer,
        signs_from: Timestamp,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<(), KeyError> {
        let material = KeyMaterial::generate().map_err(KeyError::Generate)?;
        let mut sealed = SealedKey {
            id: KeyId::fresh(now, entropy),
            algorithm: ALGORITHM.to_owned(),
            public_point: material.public_point.clone(),
            signs_from,
            created_at: now,
            sealed: Vec::new(),
        };
        sealed.sealed = sealer.seal(PURPOSE, &place(&sealed), material.pkcs8.expose(), entropy)?;
        tx.signing_key_insert(&sealed).await?;
        tell(tx, &sealed, "made", now, entropy).await?;
        self.keys.push(OpenKey { sealed, material });
        self.keys.sort_by_key(|key| (key.sealed.signs_from, key.sealed.id));
        Ok(())
    }

    fn into_loaded(self, now: Timestamp, settings: &KeySettings) -> Option<Loaded> {
        let current = self.current(now)?;
        let follows = self.keys.get(current + 1).map(|key| key.sealed.signs_from);
        let first = (0..self.keys.len()).find(|place| !self.is_gone(*place, now, settings))?;
        let forgets = (first < current).then(|| self.gone_at(first, settings)).flatten();
        // Without a next key, which only the file can lack, the database is asked each minute.
        let changes_at = follows.into_iter().chain(forgets).min().unwrap_or(now.plus(Ttl::minutes(1)));
        let published = self
            .keys
            .iter()
            .skip(first)
            .map(|key| PublishedKey {
                kid: key.sealed.id,
                public_point: key.material.public_point.clone(),
                signs_from: key.sealed.signs_from,
            })
            .collect();
        let signs = self.keys.into_iter().nth(current)?;
        let ring = KeyRing {
            current: CurrentKey {
                kid: signs.sealed.id,
                pkcs8: signs.material.pkcs8,
                public_point: signs.material.public_point,
            },
            published,
            changes_at,
        };
        Some(Loaded { ring, alerts: self.alerts })
    }
}

/// What a sealed key is bound to: everything else of its row that decides.
fn place(key: &SealedKey) -> Vec<u8> {
    let head = format!("{}\0{}\0{}\0{}\0", key.id, key.algorithm, key.signs_from.millis(), key.created_at.millis());
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&key.public_point);
    bytes
}

fn open_key(sealer: &Sealer, key: &SealedKey) -> Result<KeyMaterial, String> {
    if key.algorithm != ALGORITHM {
        return Err(format!("its algorithm is not `{ALGORITHM}`"));
    }
    let pkcs8 = sealer.open(PURPOSE, &place(key), &key.sealed).map_err(|error| error.to_string())?;
    let material = KeyMaterial::from_pkcs8(pkcs8).map_err(|error| error.to_string())?;
    if material.public_point != key.public_point {
        return Err("its public point is another key's".to_owned());
    }
    Ok(material)
}

/// Records what became of a key, and tells the other nodes.
async fn tell(
    tx: &mut Tx,
    key: &SealedKey,
    change: &'static str,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<(), StoreError> {
    let id = EventId::fresh(now, entropy);
    let mut event = Event::new(id, now, EventType::KeyChanged, Outcome::Success)
        .with("change", change)
        .with("algorithm", key.algorithm.as_str())
        .with("signs_from", key.signs_from.to_string());
    event.resource = Some(key.id.to_string().into());
    tx.event_append(&event).await?;
    tx.revocation_append(RevocationKind::KeysChanged, &key.id.to_string(), now).await?;
    Ok(())
}
