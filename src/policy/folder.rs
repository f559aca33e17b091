//! The policy folder on disk: which files there may be, read once and hashed.
//!
//! A `.cedar` or `.toml` file of another name is an error: one that is silently ignored is a rule
//! that somebody believes to be in force.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::diagnostic::{Report, Source};
use super::suggestion;
use crate::model::ServiceName;

/// The largest policy file in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most services of one folder.
pub const SERVICES_MAX: usize = 20_000;

const ROOT_FILES: [&str; 5] = ["global.cedar", "groups.toml", "people.toml", "workloads.toml", "tests.toml"];
const SERVICE_FILES: [&str; 3] = ["service.toml", "access.cedar", "tests.toml"];

/// The files of one service.
pub(super) struct ServiceFolder {
    pub(super) name: ServiceName,
    pub(super) files: BTreeMap<&'static str, Source>,
}

/// All files.
pub(super) struct Folder {
    pub(super) files: BTreeMap<&'static str, Source>,
    pub(super) services: Vec<ServiceFolder>,
}

impl Folder {
    pub(super) fn read(dir: &Path, report: &Report) -> Self {
        let mut folder = Self { files: BTreeMap::new(), services: Vec::new() };
        for (name, path, is_dir) in entries(dir, report).unwrap_or_default() {
            if !is_dir {
                if let Some((known, source)) = read_known(&name, &path, &ROOT_FILES, report) {
                    folder.files.insert(known, source);
                }
                continue;
            }
            match ServiceName::parse(&name) {
                Ok(service) => folder.services.extend(read_service(service, &path, report)),
                Err(error) => report.file_error(&path, error.to_string(), "rename the folder"),
            }
        }
        if folder.services.is_empty() && !report.has_errors() {
            report.file_error(
                dir,
                "there is no service here",
                "make a folder for each service, with `service.toml` and `access.cedar`",
            );
        }
        if folder.services.len() > SERVICES_MAX {
            report.file_error(dir, format!("there are more than {SERVICES_MAX} services"), "split the installation");
        }
        folder
    }

    /// `sha256:<64 hex>` over the names and bytes of all files but `tests.toml`.
    pub(super) fn version(&self) -> Arc<str> {
        let mut hash = Sha256::new();
        let mut add = |name: &str, source: &Source| {
            for part in [name.as_bytes(), source.text().as_bytes()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        };
        let judged = |files: &BTreeMap<&'static str, Source>| {
            files.iter().filter(|(name, _)| **name != "tests.toml").map(|(n, s)| (*n, s.clone())).collect::<Vec<_>>()
        };
        for (name, source) in judged(&self.files) {
            add(name, &source);
        }
        for service in &self.services {
            for (name, source) in judged(&service.files) {
                add(&format!("{}/{name}", service.name), &source);
            }
        }
        format!("sha256:{}", data_encoding::HEXLOWER.encode(&hash.finalize())).into()
    }
}

/// Entries by name; hidden ones are left out. None where the folder could not be read, which is reported.
fn entries(dir: &Path, report: &Report) -> Option<Vec<(String, PathBuf, bool)>> {
    let reading = match fs::read_dir(dir) {
        Ok(reading) => reading,
        Err(error) => {
            report.file_error(
                dir,
                format!("the folder could not be read: {error}"),
                "check the path and its permissions",
            );
            return None;
        }
    };
    let mut found = Vec::new();
    for entry in reading {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                report.file_error(dir, format!("the folder could not be read: {error}"), "");
                continue;
            }
        };
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            report.file_error(&path, "the name is not UTF-8", "rename it");
            continue;
        };
        if !name.starts_with('.') {
            let is_dir = path.is_dir();
            found.push((name, path, is_dir));
        }
    }
    found.sort();
    Some(found)
}

fn read_service(name: ServiceName, path: &Path, report: &Report) -> Option<ServiceFolder> {
    let mut files = BTreeMap::new();
    // What is in a folder that could not be read is not known to be missing.
    let Some(entries) = entries(path, report) else { return Some(ServiceFolder { name, files }) };
    let there: Vec<String> = entries.iter().map(|(file, ..)| file.clone()).collect();
    for (file, file_path, is_dir) in entries {
        if !is_dir && let Some((known, source)) = read_known(&file, &file_path, &SERVICE_FILES, report) {
            files.insert(known, source);
        }
    }
    for (needed, help) in [
        ("service.toml", "a service says there where its requests go and what they stand for"),
        ("access.cedar", "without a policy nobody could pass; write at least one `permit`"),
    ] {
        if !there.iter().any(|file| file == needed) {
            report.file_error(path, format!("`{needed}` is missing"), help);
        }
    }
    Some(ServiceFolder { name, files })
}

fn read_known(name: &str, path: &Path, known: &[&'static str], report: &Report) -> Option<(&'static str, Source)> {
    let Some(known_name) = known.iter().find(|known| **known == name) else {
        let judged = Path::new(name).extension().is_some_and(|extension| extension == "cedar" || extension == "toml");
        if judged {
            let help = suggestion::help(name, known.iter().copied());
            report.file_error(path, format!("`{name}` is not a file that is read here"), help);
        }
        return None;
    };
    read_file(path, report).map(|source| (*known_name, source))
}

fn read_file(path: &Path, report: &Report) -> Option<Source> {
    let length = fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
    if length > FILE_BYTES_MAX {
        report.file_error(path, format!("the file has {length} bytes"), format!("at most {FILE_BYTES_MAX} are read"));
        return None;
    }
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            report.file_error(path, format!("the file could not be read: {error}"), "check its permissions");
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(Source::new(path, &text)),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            let valid = String::from_utf8_lossy(error.as_bytes()).into_owned();
            report.error(&Source::new(path, &valid), offset, "the file is not UTF-8", "save it as UTF-8");
            None
        }
    }
}
