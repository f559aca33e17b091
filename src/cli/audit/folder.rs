//! An export as a folder: written once, read as a whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::audit::evidence::{Evidence, FileSum, Manifest, RangeProof, file, proofs_text};
use crate::audit::note::split_notes;
use crate::audit::verify::Fault;

/// The largest file beside the events that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A file that is written and summed at once.
struct Summed {
    out: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Summed {
    fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { out: BufWriter::new(file), hash: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        self.out.write_all(bytes)
    }

    fn finish(mut self, name: &str) -> io::Result<FileSum> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        Ok(FileSum { name: name.to_owned(), bytes: self.bytes, sha256: HEXLOWER.encode(&self.hash.finalize()) })
    }
}

/// A folder that is being written.
pub struct FolderWriter {
    dir: PathBuf,
    events: Summed,
}

impl FolderWriter {
    /// Makes the folder, which must not be there with anything in it.
    ///
    /// # Errors
    /// When it can't be made, or has something in it.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"));
        }
        Ok(Self { dir: dir.to_owned(), events: Summed::create(&dir.join(file::EVENTS))? })
    }

    /// Appends an event's line.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn event(&mut self, line: &[u8]) -> io::Result<()> {
        self.events.write(line)?;
        self.events.write(b"\n")
    }

    /// Writes everything beside the events; the manifest last.
    ///
    /// # Errors
    /// When something can't be written.
    pub fn finish(self, evidence: &Evidence) -> io::Result<()> {
        let mut files = vec![self.events.finish(file::EVENTS)?];
        let installation: String = evidence.installation.iter().flat_map(|leaf| [leaf.as_str(), "\n"]).collect();
        let texts = [
            (file::CHECKPOINTS, evidence.checkpoints.concat()),
            (file::INSTALLATION, installation),
            (file::PROOFS, proofs_text(&evidence.proofs)),
            (file::README, README.to_owned()),
        ];
        for (name, text) in texts {
            let mut out = Summed::create(&self.dir.join(name))?;
            out.write(text.as_bytes())?;
            files.push(out.finish(name)?);
        }
        let manifest = Manifest { v: 1, statement: evidence.statement.clone(), files };
        let mut out = Summed::create(&self.dir.join(file::MANIFEST))?;
        out.write(manifest.text().as_bytes())?;
        out.finish(file::MANIFEST)?;
        Ok(())
    }
}

/// A folder that was read, but for its events.
pub struct Folder {
    /// What goes with the events.
    pub evidence: Evidence,
    /// What the manifest says of the events' file.
    pub events: FileSum,
    /// What is wrong with files that nothing else checks; told after the events.
    pub late: Option<Fault>,
}

fn read(dir: &Path, name: &str) -> Result<String, Fault> {
    let wrong = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            Fault::Gap { at: crate::audit::verify::Place::Part(name.to_owned()), what: "it is missing".to_owned() }
        }
        _ => Fault::altered(name, error.to_string()),
    };
    let mut text = String::new();
    let opened = File::open(dir.join(name)).map_err(wrong)?;
    opened.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(wrong)?;
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
    let (Some(events), [checkpoints, installation, proofs, _]) = (manifest.files.first(), texts.as_slice()) else {
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
    Ok(Folder { evidence, events: events.clone(), late })
}

const README: &str = include_str!("evidence.md");
