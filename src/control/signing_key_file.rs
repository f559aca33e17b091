//! The sealed signing keys on disk, for a start without the database: one JSON object, written
//! whole and renamed into place, readable by its owner only.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::model::{KeyId, Timestamp};
use crate::store::SealedKey;

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    version: u32,
    keys: Vec<KeyEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    id: String,
    algorithm: String,
    public_point: String,
    signs_from: i64,
    created_at: i64,
    sealed: String,
}

/// Writes the keys, unless the file says the same already. They are small and few; the caller
/// waits for the disk.
pub fn write(path: &Path, keys: &[&SealedKey]) -> io::Result<()> {
    let entries = keys
        .iter()
        .map(|key| KeyEntry {
            id: key.id.to_string(),
            algorithm: key.algorithm.clone(),
            public_point: BASE64.encode(&key.public_point),
            signs_from: key.signs_from.millis(),
            created_at: key.created_at.millis(),
            sealed: BASE64.encode(&key.sealed),
        })
        .collect();
    let text = serde_json::to_vec_pretty(&KeysFile { version: 1, keys: entries })?;
    if fs::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    // A left-over of a crash may be there with another mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}

/// Reads the keys.
pub fn read(path: &Path) -> io::Result<Vec<SealedKey>> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it is no file of signing keys");
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(invalid());
    }
    let file: KeysFile = serde_json::from_slice(&fs::read(path)?).map_err(|_| invalid())?;
    if file.version != 1 {
        return Err(invalid());
    }
    let bytes = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| invalid());
    file.keys
        .into_iter()
        .map(|key| {
            Ok(SealedKey {
                id: KeyId::parse(&key.id).map_err(|_| invalid())?,
                algorithm: key.algorithm,
                public_point: bytes(&key.public_point)?,
                signs_from: Timestamp::from_millis(key.signs_from),
                created_at: Timestamp::from_millis(key.created_at),
                sealed: bytes(&key.sealed)?,
            })
        })
        .collect()
}
