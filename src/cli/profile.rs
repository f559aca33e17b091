//! Profiles: what one signed-in session leaves on this machine.
//!
//! `profiles/NAME/` holds `profile.json`, `key.pem`, `certificate.pem` and, where one was named at
//! sign-in, `ca.pem`.
//!
//! INVARIANTS: folders are 0700 and files 0600 from their first byte on; each file is replaced
//! whole (written beside and renamed); who writes holds the profile's lock. `profile.json` exists
//! only while key and certificate of its session are there: sign-in writes it last, sign-out
//! removes it first. A renewal writes it first, since the refresh token in it is good once and must
//! not be lost, and the old certificate goes with the same key.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use crate::wire::{Principal, Time};

use super::environment::Environment;

/// How often and how long a taken lock is tried again: 30 s, longer than any renewal lasts.
const LOCK_TRIES: u32 = 600;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The largest file of a profile that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What went wrong with a profile.
#[derive(Debug)]
pub enum ProfileError {
    /// The name can't be that of a folder.
    Name(String),
    /// There is no home folder to keep profiles in.
    Home,
    /// A file or folder could not be used.
    File {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// `profile.json` is not what this program writes.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it fails.
        source: serde_json::Error,
    },
    /// Somebody else has the lock for too long.
    Locked(PathBuf),
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(
                f,
                "`{}` can't be the name of a profile: use 1 to 64 letters, digits, `-`, `_` and `.`, no `.` first",
                name.escape_debug()
            ),
            Self::Home => f.write_str("there is no home folder to keep profiles in; name a folder in `DOORWARD_HOME`"),
            Self::File { doing, path, source } => write!(f, "{doing} `{}`: {source}", path.display()),
            Self::Damaged { path, source } => {
                write!(f, "`{}` is damaged ({source}); sign in again to write it anew", path.display())
            }
            Self::Locked(path) => {
                write!(f, "another doorward has been holding `{}` for 30 s; end it and try again", path.display())
            }
        }
    }
}

impl std::error::Error for ProfileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Damaged { source, .. } => Some(source),
            Self::Name(_) | Self::Home | Self::Locked(_) => None,
        }
    }
}

/// What is in `profile.json`. It holds the refresh token: it has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub struct ProfileRecord {
    /// The server's origin, `https://host[:port]`.
    pub server: String,
    /// `ses_…`
    pub session: String,
    /// Who signed in.
    pub principal: Principal,
    /// When the session ends.
    pub expires_at: Time,
    /// When the newest certificate came.
    pub certificate_since: Time,
    /// When the newest certificate ends.
    pub certificate_expires_at: Time,
    /// Good once; the answer to its use has the next.
    pub refresh_token: String,
    /// When the refresh token ends.
    pub refresh_token_expires_at: Time,
    /// The root key of the record as learned at sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_key: Option<String>,
}

/// A profile as read: the record and the files beside it.
#[derive(Clone)]
pub struct SavedSession {
    /// `profile.json`
    pub record: ProfileRecord,
    /// `key.pem`
    pub key_pem: String,
    /// `certificate.pem`: the session's certificate.
    pub certificate_pem: String,
    /// `ca.pem`: who may vouch for the server, where that was said at sign-in.
    pub ca_pem: Option<String>,
}

/// One profile's place on disk; whether anyone is signed in is in [`Profile::load`].
#[derive(Debug, Clone)]
pub struct Profile {
    name: String,
    folder: PathBuf,
    lock: PathBuf,
}

/// The exclusive right to change a profile, until dropped.
pub struct ProfileLock {
    _file: File,
}

impl Profile {
    /// The profile of this name below `home`.
    ///
    /// # Errors
    /// When the name can't be that of a folder.
    pub fn at(home: &Path, name: &str) -> Result<Self, ProfileError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(ProfileError::Name(name.chars().take(80).collect()));
        }
        let profiles = home.join("profiles");
        // The lock lies beside the folder: sign-out removes the folder while it holds the lock.
        Ok(Self { name: name.to_owned(), folder: profiles.join(name), lock: profiles.join(format!(".{name}.lock")) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where curl finds the certificate.
    #[must_use]
    pub fn certificate_path(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// Where curl finds the key.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// Where the authorities are that may vouch for the server.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("profile.json")
    }

    /// Reads the profile; none when nobody is signed in under it.
    ///
    /// # Errors
    /// When a file can't be read, or `profile.json` is damaged.
    pub fn load(&self) -> Result<Option<SavedSession>, ProfileError> {
        if !self.record_path().exists() {
            return Ok(None);
        }
        let _shared = self.locked(File::try_lock_shared)?;
        self.read()
    }

    /// Reads the profile while the lock is held.
    ///
    /// # Errors
    /// As [`Profile::load`].
    pub fn load_locked(&self, _lock: &ProfileLock) -> Result<Option<SavedSession>, ProfileError> {
        self.read()
    }

    fn read(&self) -> Result<Option<SavedSession>, ProfileError> {
        let path = self.record_path();
        let Some(text) = read_file(&path)? else { return Ok(None) };
        let record = serde_json::from_str(&text).map_err(|source| ProfileError::Damaged { path, source })?;
        let (Some(key_pem), Some(certificate_pem)) =
            (read_file(&self.key_path())?, read_file(&self.certificate_path())?)
        else {
            return Ok(None);
        };
        Ok(Some(SavedSession { record, key_pem, certificate_pem, ca_pem: read_file(&self.ca_path())? }))
    }

    /// Waits for the exclusive right to change the profile. It blocks the thread.
    ///
    /// # Errors
    /// When folder or lock file can't be made, or another process keeps the lock.
    pub fn lock(&self) -> Result<ProfileLock, ProfileError> {
        self.locked(File::try_lock).map(|file| ProfileLock { _file: file })
    }

    fn locked(&self, take: fn(&File) -> Result<(), TryLockError>) -> Result<File, ProfileError> {
        let parent = self.lock.parent().unwrap_or(&self.folder);
        make_folder(parent)?;
        let fails = |source| ProfileError::File { doing: "locking", path: self.lock.clone(), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .mode(0o600)
            .open(&self.lock)
            .map_err(fails)?;
        for _ in 0..LOCK_TRIES {
            match take(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => return Err(fails(source)),
            }
        }
        Err(ProfileError::Locked(self.lock.clone()))
    }

    /// Writes a new sign-in in place of what was there.
    ///
    /// # Errors
    /// When a file can't be written; nobody is signed in then.
    pub fn save(&self, _lock: &ProfileLock, session: &SavedSession) -> Result<(), ProfileError> {
        make_folder(&self.folder)?;
        // ORDER: without profile.json nobody is signed in, so it goes first and comes last.
        remove_file(&self.record_path())?;
        write_file(&self.key_path(), &session.key_pem)?;
        write_file(&self.certificate_path(), &session.certificate_pem)?;
        match &session.ca_pem {
            Some(pem) => write_file(&self.ca_path(), pem)?,
            None => remove_file(&self.ca_path())?,
        }
        self.write_record(&session.record)
    }

    /// Writes what a renewal gave: the record with the next refresh token, and the certificate.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn renew(
        &self,
        _lock: &ProfileLock,
        record: &ProfileRecord,
        certificate_pem: Option<&str>,
    ) -> Result<(), ProfileError> {
        // ORDER: a lost refresh token ends the session, an old certificate is only renewed again.
        self.write_record(record)?;
        certificate_pem.map_or(Ok(()), |pem| write_file(&self.certificate_path(), pem))
    }

    fn write_record(&self, record: &ProfileRecord) -> Result<(), ProfileError> {
        let path = self.record_path();
        let text = serde_json::to_string_pretty(record)
            .map_err(|source| ProfileError::Damaged { path: path.clone(), source })?;
        write_file(&path, &format!("{text}\n"))
    }

    /// Removes everything that the session left.
    ///
    /// # Errors
    /// When something can't be removed.
    pub fn remove(&self, _lock: &ProfileLock) -> Result<(), ProfileError> {
        for path in [self.record_path(), self.key_path(), self.certificate_path(), self.ca_path()] {
            remove_file(&path)?;
        }
        match fs::remove_dir(&self.folder) {
            // What somebody else put there is theirs.
            Err(source) if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(ProfileError::File { doing: "removing", path: self.folder.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// The folder that holds `profiles/`: `$DOORWARD_HOME`, else that of the XDG specification.
///
/// # Errors
/// When there is no home folder either.
pub fn home(environment: &Environment) -> Result<PathBuf, ProfileError> {
    if let Some(home) = environment.path("DOORWARD_HOME") {
        return Ok(home);
    }
    let strategy = etcetera::choose_base_strategy().map_err(|_| ProfileError::Home)?;
    Ok(strategy.config_dir().join("doorward"))
}

fn make_folder(path: &Path) -> Result<(), ProfileError> {
    let fails = |source| ProfileError::File { doing: "making the folder", path: path.to_owned(), source };
    if !path.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fails)?;
    }
    let mode = fs::metadata(path).map_err(fails)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(fails)?;
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Option<String>, ProfileError> {
    let fails = |source| ProfileError::File { doing: "reading", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fails(error)),
    };
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text).map_err(fails)?;
    Ok(Some(text))
}

/// Replaces a file whole, readable by its owner alone.
fn write_file(path: &Path, text: &str) -> Result<(), ProfileError> {
    let fails = |source| ProfileError::File { doing: "writing", path: path.to_owned(), source };
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    // A temporary file is 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fails)?;
    file.write_all(text.as_bytes()).map_err(fails)?;
    file.as_file().sync_all().map_err(fails)?;
    file.persist(path).map_err(|error| fails(error.error))?;
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), ProfileError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(ProfileError::File { doing: "removing", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
