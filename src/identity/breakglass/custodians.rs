//! The custodians: an OpenSSH allowed_signers file (ssh-keygen(1), ALLOWED SIGNERS), read strictly.
//!
//! INVARIANT: one key is one custodian, and one name is one custodian: who stands in the file twice
//! with the same key, or with a name of somebody else, makes it unreadable.

use std::fmt;

use sha2::{Digest, Sha256};
use ssh_key::PublicKey;

use crate::model::Timestamp;
use crate::model::breakglass::{SIGN_NAMESPACE, is_same_name};
use crate::model::text::{misleads, shows_nothing};

/// The largest file that is read.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// The most lines with keys.
const KEYS_MAX: usize = 256;

/// One line of the file.
#[derive(Debug, Clone)]
pub struct CustodianKey {
    /// All names of the line; the first is the custodian's.
    pub names: Vec<String>,
    /// The key.
    pub key: PublicKey,
    /// Good from then on.
    pub valid_after: Option<Timestamp>,
    /// Good until then.
    pub valid_before: Option<Timestamp>,
}

impl CustodianKey {
    /// The custodian.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// Whether the line has this name.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.names.iter().any(|own| is_same_name(own, name))
    }
}

/// All custodians, and the file's fingerprint.
#[derive(Debug, Clone)]
pub struct Custodians {
    keys: Vec<CustodianKey>,
    sha256: [u8; 32],
}

/// Why the file can't be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustodiansError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for CustodiansError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for CustodiansError {}

impl Custodians {
    /// Reads the file.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, CustodiansError> {
        let wrong = |line: usize, message: &str| CustodiansError { line, message: message.to_owned() };
        if bytes.len() > FILE_BYTES_MAX {
            return Err(wrong(1, "the file is larger than 256 KiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| wrong(1, "the file is no UTF-8"))?;
        let mut keys: Vec<(usize, CustodianKey)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = read_line(line).map_err(|message| CustodiansError { line: number, message })?;
            if keys.len() == KEYS_MAX {
                return Err(wrong(number, "there are more than 256 keys"));
            }
            for (other, known) in &keys {
                if known.key.key_data() == key.key.key_data() {
                    let message = format!("this key stands on line {other} already: one key is one custodian");
                    return Err(CustodiansError { line: number, message });
                }
                let shared = key.names.iter().find(|name| known.is_called(name));
                if let Some(name) = shared.filter(|_| known.name() != key.name()) {
                    let message = format!("`{name}` is also a name of `{}` on line {other}", known.name());
                    return Err(CustodiansError { line: number, message });
                }
            }
            keys.push((number, key));
        }
        Ok(Self { keys: keys.into_iter().map(|(_, key)| key).collect(), sha256: Sha256::digest(bytes).into() })
    }

    /// SHA-256 of the file.
    #[must_use]
    pub const fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }

    /// Every key.
    #[must_use]
    pub fn keys(&self) -> &[CustodianKey] {
        &self.keys
    }

    /// How many people they are.
    #[must_use]
    pub fn count(&self) -> usize {
        let mut names: Vec<&str> = self.keys.iter().map(CustodianKey::name).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }

    /// The custodian whom any line calls so; no two are called alike.
    #[must_use]
    pub fn called(&self, name: &str) -> Option<&str> {
        self.keys.iter().find(|key| key.is_called(name)).map(CustodianKey::name)
    }

    /// Every name of the custodian whom any line calls so, on whichever line it stands; none of a stranger.
    #[must_use]
    pub fn names_of(&self, name: &str) -> Vec<String> {
        let custodian = self.called(name);
        let theirs = self.keys.iter().filter(|key| Some(key.name()) == custodian);
        let mut names: Vec<String> = theirs.flat_map(|key| key.names.iter().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The line of a key.
    #[must_use]
    pub fn of_key(&self, key: &ssh_key::public::KeyData) -> Option<&CustodianKey> {
        self.keys.iter().find(|known| known.key.key_data() == key)
    }
}

fn read_line(line: &str) -> Result<CustodianKey, String> {
    let (names, rest) = line.split_once([' ', '\t']).ok_or("a line is `NAME [OPTIONS] KEYTYPE KEY`")?;
    let names: Vec<String> = names.split(',').map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && !name.chars().any(|c| "*?!\"".contains(c) || c.is_control());
    if !names.iter().all(is_name) {
        return Err("names are plain: a pattern could be anybody".to_owned());
    }
    // An opener can't be called so, and would not be known as the custodian.
    if names.iter().flat_map(|name| name.chars()).any(|c| misleads(c) || shows_nothing(c)) {
        return Err("a name has a character that nobody sees; write it anew".to_owned());
    }
    let mut rest = rest.trim_start();
    let mut key = CustodianKey { names, key: PublicKey::from(no_key()), valid_after: None, valid_before: None };
    if !is_key_type(rest.split([' ', '\t']).next().unwrap_or_default()) {
        let (options, after) = split_options(rest).ok_or("a quote in the options is not closed")?;
        for option in options {
            take_option(&mut key, &option)?;
        }
        rest = after;
    }
    let public = PublicKey::from_openssh(rest).map_err(|error| format!("the key can't be read: {error}"))?;
    match public.algorithm() {
        ssh_key::Algorithm::Ed25519 | ssh_key::Algorithm::SkEd25519 | ssh_key::Algorithm::SkEcdsaSha2NistP256 => {}
        ssh_key::Algorithm::Ecdsa { curve } if curve != ssh_key::EcdsaCurve::NistP521 => {}
        other => return Err(format!("`{other}` keys are not taken; use ed25519, ecdsa (256 or 384) or an `sk-` key")),
    }
    key.key = public;
    Ok(key)
}

/// Stands in until the line's key is read.
const fn no_key() -> ssh_key::public::Ed25519PublicKey {
    ssh_key::public::Ed25519PublicKey([0; 32])
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|start| word.starts_with(start))
}

/// Splits `a,b="c d" rest` into its options and the rest.
fn split_options(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut options, mut current, mut quoted) = (Vec::new(), String::new(), false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => options.push(std::mem::take(&mut current)),
            ' ' | '\t' if !quoted => {
                options.push(current);
                return Some((options, text.get(at..)?.trim_start()));
            }
            _ => current.push(c),
        }
    }
    None
}

fn take_option(key: &mut CustodianKey, option: &str) -> Result<(), String> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    match name.to_ascii_lowercase().as_str() {
        "namespaces" => {
            if value.split(',').any(|namespace| namespace == SIGN_NAMESPACE) {
                Ok(())
            } else if value.contains(['*', '?', '!']) {
                Err(format!("`namespaces` is taken without patterns: name `{SIGN_NAMESPACE}` itself"))
            } else {
                Err(format!("`namespaces` leaves out `{SIGN_NAMESPACE}`: this key could sign nothing here"))
            }
        }
        "valid-after" => moment(value).map(|time| key.valid_after = Some(time)),
        "valid-before" => moment(value).map(|time| key.valid_before = Some(time)),
        "cert-authority" => Err("`cert-authority` is refused: whoever holds it could make custodians".to_owned()),
        _ => Err(format!("the option `{name}` is not known")),
    }
}

/// `YYYYMMDD[Z]` or `YYYYMMDDHHMM[SS][Z]`; always taken as UTC, so that it means one moment everywhere.
fn moment(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("`{text}` is no time: write `20271231Z` or `20271231235900Z`, in UTC");
    let digits = text.strip_suffix('Z').ok_or_else(wrong)?;
    let padded = match digits.len() {
        8 => format!("{digits}000000"),
        12 => format!("{digits}00"),
        14 => digits.to_owned(),
        _ => return Err(wrong()),
    };
    let part = |from: usize, to: usize| padded.get(from..to).unwrap_or_default();
    let (date, time) = ((part(0, 4), part(4, 6), part(6, 8)), (part(8, 10), part(10, 12), part(12, 14)));
    Timestamp::parse(&format!("{}-{}-{}T{}:{}:{}Z", date.0, date.1, date.2, time.0, time.1, time.2)).ok_or_else(wrong)
}
