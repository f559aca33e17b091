//! Signed notes (C2SP signed-note): a text and Ed25519 signatures (RFC 8032) over it, each under a
//! key with a name.
//!
//! INVARIANT: a note that is taken is in its one exact form: what is parsed and written again gives
//! the same bytes. A signature line of a key that nobody asked for is refused as well: in what we
//! check, every byte is accounted for.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};

use crate::model::{Entropy, Secret};

/// The kind of signature that is plain Ed25519.
const ED25519_KIND: u8 = 1;
/// What begins a signature line.
const SIGNATURE_PREFIX: &str = "— ";
/// The longest note that is read.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;

/// Why a note, or a key, can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoteError {
    /// It is not text of the form of a note.
    Form,
    /// There is no signature of the key that was asked for.
    Unsigned { key: String },
    /// A signature is there and wrong.
    Signature { key: String },
    /// A key is not written `name+hash+base64`, or is of another kind.
    Key,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("this is no signed note"),
            Self::Unsigned { key } => write!(f, "the note is not signed by `{key}`"),
            Self::Signature { key } => write!(f, "the signature of `{key}` on the note is wrong"),
            Self::Key => f.write_str("this is no Ed25519 key of the form `name+hash+base64`"),
        }
    }
}

impl std::error::Error for NoteError {}

/// A key that checks notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    public: [u8; 32],
}

impl NoteKey {
    /// A key of this name; none when the name can't be one.
    #[must_use]
    pub fn new(name: &str, public: [u8; 32]) -> Option<Self> {
        let plain = |c: char| c.is_ascii_graphic() && c != '+';
        (!name.is_empty() && name.chars().all(plain)).then(|| Self { name: name.to_owned(), public })
    }

    /// Reads `name+hash+base64`.
    ///
    /// # Errors
    /// When it is of another form, or the hash is not that of name and key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let (name, rest) = text.split_once('+').ok_or(NoteError::Key)?;
        let (_, encoded) = rest.split_once('+').ok_or(NoteError::Key)?;
        let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| NoteError::Key)?;
        let (kind, public) = bytes.split_first().ok_or(NoteError::Key)?;
        let public = <[u8; 32]>::try_from(public).map_err(|_| NoteError::Key)?;
        let key = Self::new(name, public).filter(|_| *kind == ED25519_KIND).ok_or(NoteError::Key)?;
        // INVARIANT: one key, one text.
        if key.to_string() == text { Ok(key) } else { Err(NoteError::Key) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The four bytes that a signature line names it by.
    #[must_use]
    pub fn hash(&self) -> [u8; 4] {
        let mut hash = Sha256::new();
        hash.update(self.name.as_bytes());
        hash.update([b'\n', ED25519_KIND]);
        hash.update(self.public);
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, ..] = digest;
        [a, b, c, d]
    }

    fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(text.as_bytes(), signature).is_ok()
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![ED25519_KIND];
        bytes.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.hash()), BASE64.encode(&bytes))
    }
}

/// A key that signs notes.
pub struct NoteSigner {
    pair: Ed25519KeyPair,
    key: NoteKey,
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoteSigner({})", self.key.name)
    }
}

impl NoteSigner {
    /// The signing key of this name and 32-byte seed.
    ///
    /// # Errors
    /// When the name can't be one or the seed has another length.
    pub fn of_seed(name: &str, seed: &Secret<Vec<u8>>) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| NoteError::Key)?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref()).map_err(|_| NoteError::Key)?;
        let key = NoteKey::new(name, public).ok_or(NoteError::Key)?;
        Ok(Self { pair, key })
    }

    /// A seed for a new key.
    #[must_use]
    pub fn fresh_seed(entropy: &dyn Entropy) -> Secret<Vec<u8>> {
        Secret::new(entropy.bytes_32().to_vec())
    }

    /// What checks its signatures.
    #[must_use]
    pub const fn key(&self) -> &NoteKey {
        &self.key
    }

    /// The note of `text`, which must end with a line feed.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        let mut bytes = self.key.hash().to_vec();
        bytes.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n{SIGNATURE_PREFIX}{} {}\n", self.key.name, BASE64.encode(&bytes))
    }
}

/// A note that was read; its signature is still to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The text, with the line feed at its end.
    pub text: String,
    /// The name of the key that signed.
    pub key: String,
    hash: [u8; 4],
    signature: Vec<u8>,
}

impl Note {
    /// Reads a note with one signature.
    ///
    /// # Errors
    /// When it has another form.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Form);
        }
        let at = note.find(&format!("\n\n{SIGNATURE_PREFIX}")).ok_or(NoteError::Form)?;
        let (text, rest) = note.split_at_checked(at + 1).ok_or(NoteError::Form)?;
        let line = rest.strip_prefix('\n').and_then(|rest| rest.strip_suffix('\n')).ok_or(NoteError::Form)?;
        let line = line.strip_prefix(SIGNATURE_PREFIX).ok_or(NoteError::Form)?;
        let (key, encoded) = line.split_once(' ').ok_or(NoteError::Form)?;
        let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| NoteError::Form)?;
        let (hash, signature) = bytes.split_first_chunk::<4>().ok_or(NoteError::Form)?;
        if key.is_empty() || text.contains(['\r', '\0']) {
            return Err(NoteError::Form);
        }
        Ok(Self { text: text.to_owned(), key: key.to_owned(), hash: *hash, signature: signature.to_vec() })
    }

    /// Whether this key is the one that the signature names.
    #[must_use]
    pub fn names(&self, key: &NoteKey) -> bool {
        self.key == key.name && self.hash == key.hash()
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// When it is another key's, or wrong.
    pub fn verify(&self, key: &NoteKey) -> Result<(), NoteError> {
        if !self.names(key) {
            return Err(NoteError::Unsigned { key: key.name.clone() });
        }
        if !key.verifies(&self.text, &self.signature) {
            return Err(NoteError::Signature { key: key.name.clone() });
        }
        Ok(())
    }
}

/// Divides a file of notes, one after the other, into notes. What is no note is an error.
///
/// # Errors
/// With the line at which it stops to be notes.
pub fn split_notes(file: &str) -> Result<Vec<&str>, usize> {
    let (mut notes, mut start, mut at, mut signed, mut blank) = (Vec::new(), 0, 0, false, false);
    for (number, line) in file.split_inclusive('\n').enumerate() {
        let signature = blank && line.starts_with(SIGNATURE_PREFIX);
        if signed && !signature {
            notes.push(file.get(start..at).ok_or(number + 1)?);
            (start, signed, blank) = (at, false, false);
        }
        if !line.ends_with('\n') || (signed && signature) {
            return Err(number + 1);
        }
        signed |= signature;
        blank |= line == "\n";
        at += line.len();
    }
    match (start == at, signed) {
        (true, _) => Ok(notes),
        (false, true) => {
            notes.push(file.get(start..at).unwrap_or_default());
            Ok(notes)
        }
        (false, false) => Err(file.lines().count()),
    }
}
