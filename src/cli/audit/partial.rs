//! An export that is being written, so that one that broke off can go on.
//!
//! While it is written, `OUT.partial` is what there is of it and `OUT.state` says what it is of and how far
//! it came; at the end the first becomes `OUT` and the second goes. The state's first line is what the
//! export began with; each further one is a mark: so many lines of the server were taken, so many bytes
//! written, with this SHA-256.
//!
//! INVARIANTS: a mark is written after the bytes that it is of are on disk, so whatever lies behind the
//! last mark may be cut off; what lies before it is compared with its hash before anything is added.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::evidence::{FileSum, file};

/// Bytes between two marks.
const MARK_EVERY: u64 = 4 * 1024 * 1024;
/// The longest line of a state: the evidence of an export is in one.
const STATE_LINE_MAX: u64 = 64 * 1024 * 1024;
const COPY_BYTES: usize = 256 * 1024;

/// What an export began with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The version of this form: 1.
    pub v: u8,
    /// In which form it is written.
    pub format: String,
    /// The filter as it was asked for.
    pub query: String,
    /// The server's first line.
    pub head: String,
}

/// How far an export came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reached {
    /// Lines of the server that were taken, the first one apart.
    pub lines: u64,
    /// Of them those that stand in the export with their content.
    pub written: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    lines: u64,
    written: u64,
    bytes: u64,
    sha256: String,
}

/// Why an export can't go on where it broke off.
#[derive(Debug, PartialEq, Eq)]
pub enum NoResume {
    /// There is none.
    Nothing,
    /// It can't, and why.
    Because(String),
}

fn beside(out: &Path, ending: &str) -> PathBuf {
    // Without a `/` at its end: behind that the ending would be the name of something within.
    let mut name = out.components().collect::<PathBuf>().into_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Where an export is while it is not whole.
#[must_use]
pub fn partial_of(out: &Path) -> PathBuf {
    beside(out, ".partial")
}

fn state_of(out: &Path) -> PathBuf {
    beside(out, ".state")
}

/// An export that is being written.
pub struct Partial {
    out: PathBuf,
    folder: bool,
    data: BufWriter<File>,
    state: File,
    hash: Sha256,
    bytes: u64,
    marked: u64,
    reached: Reached,
    /// Whether a write failed: what is on disk then is not what the hash is of.
    broken: bool,
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn data_of(out: &Path, folder: bool) -> PathBuf {
    let partial = partial_of(out);
    if folder { partial.join(file::EVENTS) } else { partial }
}

impl Partial {
    /// Begins one; `folder` says that it will be a folder, `before` what stands before the events.
    ///
    /// # Errors
    /// When it is there already, whole or not, or can't be written.
    pub fn begin(out: &Path, folder: bool, begun: &Begun, before: Option<&str>) -> io::Result<Self> {
        let partial = partial_of(out);
        if fs::symlink_metadata(&partial).is_ok() {
            let text = format!(
                "`{}` is there from an export that broke off: go on with it by `--resume`, or remove it",
                partial.display()
            );
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        if folder {
            fs::create_dir_all(&partial)?;
        }
        let data = create(&data_of(out, folder))?;
        // A state without its export is left over from one that was removed.
        let _ = fs::remove_file(state_of(out));
        let mut state = create(&state_of(out))?;
        state.write_all(format!("{}\n", serde_json::to_string(begun).unwrap_or_default()).as_bytes())?;
        let mut this = Self {
            out: out.to_owned(),
            folder,
            data: BufWriter::new(data),
            state,
            hash: Sha256::new(),
            bytes: 0,
            marked: 0,
            reached: Reached::default(),
            broken: false,
        };
        if let Some(before) = before {
            this.write(before.as_bytes())?;
        }
        this.mark()?;
        Ok(this)
    }

    /// Opens one that broke off, and cuts off what lies behind its last mark.
    ///
    /// # Errors
    /// When there is none, or what is there is not what was written.
    pub fn resume(out: &Path, folder: bool) -> Result<(Self, Begun), NoResume> {
        let (partial, place) = (partial_of(out), state_of(out));
        if fs::symlink_metadata(&partial).is_err() {
            return Err(NoResume::Nothing);
        }
        let shown = partial.display();
        let because = |text: String| NoResume::Because(text);
        let failed = |what: &str, error: &io::Error| NoResume::Because(format!("{what}: {error}"));
        if partial.is_dir() != folder {
            return Err(because(format!("`{shown}` is of an export in another form")));
        }
        let (begun, mark, whole) = read_state(&place)
            .map_err(|error| failed(&format!("what `{}` says of it can't be read", place.display()), &error))?
            .ok_or_else(|| because(format!("`{}` does not say how far it came: begin anew", place.display())))?;
        let data_path = data_of(out, folder);
        let opened = OpenOptions::new().read(true).write(true).open(&data_path);
        let mut data = opened.map_err(|error| failed(&format!("opening `{}`", data_path.display()), &error))?;
        let hash = hash_of(&mut data, mark.bytes).map_err(|error| failed("reading what is there", &error))?;
        let Some(hash) = hash.filter(|hash| HEXLOWER.encode(&hash.clone().finalize()) == mark.sha256) else {
            return Err(because(format!("`{}` was altered since it was written: begin anew", data_path.display())));
        };
        let cut = data.set_len(mark.bytes).and_then(|()| data.seek(SeekFrom::Start(mark.bytes)));
        cut.map_err(|error| failed("cutting off what was written in part", &error))?;
        let state = OpenOptions::new().append(true).open(&place).and_then(|state| {
            state.set_len(whole)?;
            Ok(state)
        });
        let state = state.map_err(|error| failed("going on", &error))?;
        let this = Self {
            out: out.to_owned(),
            folder,
            data: BufWriter::new(data),
            state,
            hash,
            bytes: mark.bytes,
            marked: mark.bytes,
            reached: Reached { lines: mark.lines, written: mark.written },
            broken: false,
        };
        Ok((this, begun))
    }

    /// How far it came.
    #[must_use]
    pub const fn reached(&self) -> Reached {
        self.reached
    }

    /// Where it is while it is not whole.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        partial_of(&self.out)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// When they can't be written. There is no further mark then.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
        let written = self.data.write_all(bytes);
        self.broken |= written.is_err();
        written
    }

    /// A line of the server was taken; `told` says whether it stands in the export with its content.
    ///
    /// # Errors
    /// When a mark can't be written.
    pub fn took(&mut self, told: Told) -> io::Result<()> {
        self.reached.lines += 1;
        self.reached.written += u64::from(told == Told::Written);
        if self.bytes - self.marked >= MARK_EVERY { self.mark() } else { Ok(()) }
    }

    /// Puts everything on disk, and says how far it came.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn mark(&mut self) -> io::Result<()> {
        // ORDER: the bytes before the mark that is of them.
        self.sync()?;
        let mark = Mark {
            lines: self.reached.lines,
            written: self.reached.written,
            bytes: self.bytes,
            sha256: HEXLOWER.encode(&self.hash.clone().finalize()),
        };
        self.state.write_all(format!("{}\n", serde_json::to_string(&mark).unwrap_or_default()).as_bytes())?;
        self.state.sync_data()?;
        self.marked = self.bytes;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("a write before failed"));
        }
        let synced = self.data.flush().and_then(|()| self.data.get_ref().sync_data());
        self.broken |= synced.is_err();
        synced
    }

    /// Size and SHA-256 of what was written, all of it on disk.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn sum(&mut self) -> io::Result<FileSum> {
        self.sync()?;
        Ok(FileSum {
            name: file::EVENTS.to_owned(),
            bytes: self.bytes,
            sha256: HEXLOWER.encode(&self.hash.clone().finalize()),
        })
    }

    /// It is whole: gives it its name.
    ///
    /// # Errors
    /// When the name is taken meanwhile, or it can't be renamed.
    pub fn finish(mut self) -> io::Result<()> {
        self.sync()?;
        let taken = fs::symlink_metadata(&self.out).is_ok();
        // A folder that is there and empty is where it was to go.
        if taken && !self.folder {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already"));
        }
        fs::rename(partial_of(&self.out), &self.out)?;
        fs::remove_file(state_of(&self.out))
    }
}

/// Whether a line of the server stands in the export with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It does.
    Written,
    /// It has no content; some forms have no place for such.
    LeftOut,
}

/// The first line of a state, its last whole mark, and how long it is up to there.
fn read_state(path: &Path) -> io::Result<Option<(Begun, Mark, u64)>> {
    let mut input = BufReader::new(File::open(path)?);
    let mut whole = 0;
    let mut next = || -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let count = input.by_ref().take(STATE_LINE_MAX).read_until(b'\n', &mut line)?;
        let ended = line.pop() == Some(b'\n');
        whole += if ended { u64::try_from(count).unwrap_or(0) } else { 0 };
        Ok(ended.then_some(line))
    };
    let begun = next()?.and_then(|line| serde_json::from_slice::<Begun>(&line).ok()).filter(|begun| begun.v == 1);
    let Some(begun) = begun else { return Ok(None) };
    let mut last = None;
    while let Some(line) = next()? {
        match serde_json::from_slice::<Mark>(&line) {
            Ok(mark) => last = Some(mark),
            Err(_) => return Ok(None),
        }
    }
    Ok(last.map(|mark| (begun, mark, whole)))
}

/// The hash over the first `bytes` of a file; none when it is shorter.
fn hash_of(data: &mut File, bytes: u64) -> io::Result<Option<Sha256>> {
    let (mut hash, mut left) = (Sha256::new(), bytes);
    let mut buffer = vec![0; COPY_BYTES];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let count = data.read(buffer.get_mut(..want).unwrap_or_default())?;
        if count == 0 {
            return Ok(None);
        }
        hash.update(buffer.get(..count).unwrap_or_default());
        left -= u64::try_from(count).unwrap_or(left);
    }
    Ok(Some(hash))
}
