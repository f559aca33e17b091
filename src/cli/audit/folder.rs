//! An export as a folder: written once, read as a whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::audit::evidence::{Evidence, FileSum, Manifest, RangeProof, file, proofs_text};
use crate::audit::note::split_notes;
use crate::audit::verify::Fault;

/// The largest file beside the events that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Files beside an export that are named at most.
const UNVERIFIED_MAX: usize = 10;

/// Writes everything of a folder beside its events, which are there already; the manifest last.
///
/// # Errors
/// When something can't be written.
pub fn finish_folder(dir: &Path, events: FileSum, evidence: &Evidence) -> io::Result<()> {
    let mut files = vec![events];
    let installation: String = evidence.installation.iter().flat_map(|leaf| [leaf.as_str(), "\n"]).collect();
    let texts = [
        (file::CHECKPOINTS, evidence.checkpoints.concat()),
        (file::INSTALLATION, installation),
        (file::PROOFS, proofs_text(&evidence.proofs)),
        (file::README, README.to_owned()),
    ];
    for (name, text) in texts {
        files.push(put(dir, name, &text)?);
    }
    let manifest = Manifest { v: 1, statement: evidence.statement.clone(), files };
    put(dir, file::MANIFEST, &manifest.text())?;
    Ok(())
}

/// Writes a file; one that an earlier try left is written over.
fn put(dir: &Path, name: &str, text: &str) -> io::Result<FileSum> {
    let path = dir.join(name);
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    Ok(FileSum {
        name: name.to_owned(),
        bytes: u64::try_from(text.len()).unwrap_or(0),
        sha256: HEXLOWER.encode(&Sha256::digest(text.as_bytes())),
    })
}

/// A folder that was read, but for its events.
pub struct Folder {
    /// What goes with the events.
    pub evidence: Evidence,
    /// What the manifest says of the events' file.
    pub events: FileSum,
    /// What is wrong with files that nothing else checks; told after the events.
    pub late: Option<Fault>,
    /// What lies there that nobody verifies: no fault, and not to be believed either.
    pub unverified: Vec<String>,
}

/// What a part of an export is that can't be read.
pub(super) fn unread(name: &str, error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Fault::Gap { at: crate::audit::verify::Place::Part(name.to_owned()), what: "it is missing".to_owned() }
        }
        _ => Fault::altered(name, error.to_string()),
    }
}

fn read(dir: &Path, name: &str) -> Result<String, Fault> {
    let mut text = String::new();
    let opened = File::open(dir.join(name)).map_err(|error| unread(name, &error))?;
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(|error| unread(name, &error))?;
    Ok(text)
}

/// Reads everything of a folder but its events.
///
/// # Errors
/// What is missing or can't be read.
pub fn read_folder(dir: &Path) -> Result<Folder, Fault> {
    let manifest = read(dir, file::MANIFEST)?;
    let manifest =
        Manifest::parse(&manifest).ok_or_else(|| Fault::altered(file::MANIFEST, "it is not as it was written"))?;
    let names: Vec<&str> = manifest.files.iter().map(|sum| sum.name.as_str()).collect();
    if names != [file::EVENTS, file::CHECKPOINTS, file::INSTALLATION, file::PROOFS, file::README] {
        return Err(Fault::altered(file::MANIFEST, "it does not name the files of an export"));
    }
    let mut late = None;
    let mut texts = Vec::new();
    for sum in manifest.files.iter().skip(1) {
        let text = read(dir, &sum.name)?;
        let seen = FileSum {
            name: sum.name.clone(),
            bytes: u64::try_from(text.len()).unwrap_or(0),
            sha256: HEXLOWER.encode(&Sha256::digest(text.as_bytes())),
        };
        if seen != *sum && late.is_none() {
            late = Some(Fault::altered(&sum.name, "its size or SHA-256 is not what the manifest says"));
        }
        texts.push(text);
    }
    let (Some(events), [checkpoints, installation, proofs, readme]) = (manifest.files.first(), texts.as_slice()) else {
        return Err(Fault::altered(file::MANIFEST, "files are missing"));
    };
    let notes = split_notes(checkpoints)
        .map_err(|line| Fault::altered(file::CHECKPOINTS, format!("line {line} is part of no note")))?;
    let proofs_read: Vec<RangeProof> =
        serde_json::from_str(proofs).map_err(|_| Fault::altered(file::PROOFS, "it can't be read"))?;
    if proofs_text(&proofs_read) != *proofs {
        return Err(Fault::altered(file::PROOFS, "it is not as it was written"));
    }
    if !installation.is_empty() && !installation.ends_with('\n') {
        return Err(Fault::altered(file::INSTALLATION, "it ends in the middle of a line"));
    }
    let evidence = Evidence {
        statement: manifest.statement.clone(),
        checkpoints: notes.into_iter().map(str::to_owned).collect(),
        installation: installation.split_terminator('\n').map(str::to_owned).collect(),
        proofs: proofs_read,
    };
    let unverified = unverified(dir, &names, readme);
    Ok(Folder { evidence, events: events.clone(), late, unverified })
}

/// What of a folder proves nothing: the manifest's sums are signed by nobody.
fn unverified(dir: &Path, names: &[&str], readme: &str) -> Vec<String> {
    let mut told = Vec::new();
    if readme != README {
        let text = "is not the one that this program writes: another version wrote it, or somebody else";
        told.push(format!("note: `{}` {text}", file::README));
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut more: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    more.retain(|name| name != file::MANIFEST && !names.contains(&name.as_str()));
    more.sort();
    let (shown, all) = (more.iter().take(UNVERIFIED_MAX), more.len());
    told.extend(shown.map(|name| format!("note: `{name}` is no part of the export, and nothing holds it")));
    if all > UNVERIFIED_MAX {
        told.push(format!("note: {} more files are no part of the export", all - UNVERIFIED_MAX));
    }
    told
}

const README: &str = include_str!("evidence.md");
