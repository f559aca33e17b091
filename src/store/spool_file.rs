//! The file of the spool: where decisions go while the database is away.
//!
//! ```text
//! header, 64 bytes: "doorward-spool-1" ‖ 16 random bytes ‖ end of what was merged (u64) ‖ zeros
//! record:           length (u32) ‖ record (`audit/spool.rs`) ‖ chain after it (32 bytes)
//! zeros to the end
//! ```
//!
//! Numbers are big-endian. The chain begins with SHA-256 of the header's first 32 bytes.
//!
//! INVARIANTS: the file's space is taken from the disk when it is made, so a disk that fills up
//! later changes nothing. What an append answered is on the disk. After an error nothing is known
//! of the bytes behind the last good end, and the next append writes them again, so that no
//! later success speaks for bytes that an earlier error lost. A tail that can't be read is cut off
//! only where a crash may have torn it: within one batch of the end of all that was ever written.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use sha2::{Digest, Sha256};

use crate::audit::Sealed;
use crate::audit::spool::{Chain, chained, event_of};
use crate::model::Entropy;

const MAGIC: &[u8; 16] = b"doorward-spool-1";
const HEADER_BYTES: u64 = 64;
/// What a record takes beside its own bytes.
const FRAME_BYTES: u64 = 4 + 32;
/// The most that is written before it is made durable.
pub(in crate::store) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// The longest record.
const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX / 2;
/// The smallest spool that makes sense.
const FILE_BYTES_MIN: u64 = 64 * 1024;

/// `f_type` of file systems in memory (statfs(2)).
const VOLATILE: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// For whom there is room. Refusals and what nobody identified sends fill four fifths, what the
/// identified send all but a twentieth, and the rest is for the emergency path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Room {
    GivesWay,
    Identified,
    Emergency,
}

/// Why there is no spool, or it did not take something.
#[derive(Debug)]
pub enum SpoolError {
    /// It lies on storage that does not last.
    Volatile { folder: PathBuf },
    /// Another process has it.
    Taken,
    /// The disk did not do what it was asked.
    Disk { doing: &'static str, cause: io::Error },
    /// What was written can't be read back.
    Altered { at: u64 },
    /// The disk does not answer.
    Hangs,
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volatile { folder } => write!(
                f,
                "the spool would lie in `{}`, which is in memory and does not last: give a path on a disk as \
                 `audit.spool`, or `spool = \"off\"`",
                folder.display()
            ),
            Self::Taken => f.write_str("another process has the spool open"),
            Self::Disk { doing, cause } => write!(f, "{doing} the spool: {cause}"),
            Self::Altered { at } => write!(f, "the spool can't be read back from byte {at} on"),
            Self::Hangs => f.write_str("the spool's disk does not answer"),
        }
    }
}

impl std::error::Error for SpoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Disk { cause, .. } => Some(cause),
            Self::Volatile { .. } | Self::Taken | Self::Altered { .. } | Self::Hangs => None,
        }
    }
}

fn disk(doing: &'static str) -> impl FnOnce(io::Error) -> SpoolError {
    move |cause| SpoolError::Disk { doing, cause }
}

/// Whether what is written below `folder` is gone after a restart of the machine.
///
/// # Errors
/// When the file system can't be asked.
pub fn is_volatile(folder: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(folder)?.f_type;
    #[expect(clippy::useless_conversion, reason = "the kernel's 32 bits are stored in another type on each platform")]
    let kind = i64::from(kind) & 0xffff_ffff;
    Ok(VOLATILE.iter().any(|known| i64::from(*known) == kind))
}

/// A place between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Place {
    pub at: u64,
    pub chain: Chain,
    pub count: u64,
}

/// What was cut off when the file was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Tail {
    Whole,
    /// Bytes of a batch that nobody was answered for.
    Torn,
    /// More than a crash can tear; all of the file was kept under this name.
    Altered {
        kept: PathBuf,
    },
}

/// The open file.
pub(in crate::store) struct SpoolFile {
    file: File,
    path: PathBuf,
    size: u64,
    start: Chain,
    end: Place,
    /// Merged, but not known to be emptied yet.
    merged: bool,
}

impl SpoolFile {
    /// Opens or makes the file with room for `size` bytes, and finds the end of what is in it.
    pub fn open(path: &Path, size: u64, entropy: &dyn Entropy) -> Result<(Self, Tail), SpoolError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if is_volatile(folder).map_err(disk("asking for the file system of"))? {
            return Err(SpoolError::Volatile { folder: folder.to_owned() });
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(disk("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(SpoolError::Taken),
            Err(std::fs::TryLockError::Error(cause)) => return Err(SpoolError::Disk { doing: "locking", cause }),
        }
        let there = file.metadata().map_err(disk("measuring"))?.len();
        let size = size.max(FILE_BYTES_MIN).max(there);
        if there < size {
            reserve(&file, there, size).map_err(disk("taking room for"))?;
        }
        let end = Place { at: HEADER_BYTES, chain: [0; 32], count: 0 };
        let mut spool = Self { file, path: path.to_owned(), size, start: [0; 32], end, merged: false };
        let tail = spool.find_end(entropy)?;
        Ok((spool, tail))
    }

    fn find_end(&mut self, entropy: &dyn Entropy) -> Result<Tail, SpoolError> {
        let mut header = [0; HEADER_BYTES as usize];
        self.file.read_exact_at(&mut header, 0).map_err(disk("reading"))?;
        let (identity, rest) = header.split_at(32);
        if !identity.starts_with(MAGIC) {
            // New, or of a kind that this version does not know: then it is kept and not used.
            let tail = if self.zero_from(0)? { Tail::Whole } else { self.keep_aside(entropy)? };
            self.begin(entropy)?;
            return Ok(tail);
        }
        self.start = Sha256::digest(identity).into();
        let merged = rest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        if merged > 0 {
            self.end.at = merged.min(self.size);
            self.begin(entropy)?;
            return Ok(Tail::Whole);
        }
        self.end = self.start_place();
        while let Some((_, next)) = self.record_at(&self.end)? {
            self.end = next;
        }
        if self.zero_from(self.end.at)? {
            return Ok(Tail::Whole);
        }
        let torn = self.zero_from(self.end.at + BATCH_BYTES_MAX as u64 + FRAME_BYTES)?;
        let tail = if torn { Tail::Torn } else { self.keep_aside(entropy)? };
        self.wipe(self.end.at, self.size).map_err(disk("cutting the tail of"))?;
        Ok(tail)
    }

    /// Where the first record is.
    pub const fn start_place(&self) -> Place {
        Place { at: HEADER_BYTES, chain: self.start, count: 0 }
    }

    /// Where the next record will be.
    pub const fn end(&self) -> Place {
        self.end
    }

    /// Bytes that there are for records.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether a record of `bytes` fits for these.
    pub fn has_room(&self, pending: u64, bytes: usize, room: Room) -> bool {
        let all = self.size - HEADER_BYTES;
        let limit = match room {
            Room::GivesWay => all - all / 5,
            Room::Identified => all - all / 20,
            Room::Emergency => all,
        };
        let after = self.end.at - HEADER_BYTES + pending + framed(bytes) + 4;
        bytes <= RECORD_BYTES_MAX && after <= limit
    }

    /// Makes records durable, in at most [`BATCH_BYTES_MAX`] bytes. They must have room.
    pub fn append(&mut self, records: &[Vec<u8>]) -> Result<(), SpoolError> {
        let mut end = self.end;
        let mut bytes = Vec::with_capacity(records.iter().map(|record| record.len() + 36).sum::<usize>() + 4);
        for record in records {
            end = Place { at: end.at + framed(record.len()), chain: chained(&end.chain, record), count: end.count + 1 };
            bytes.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(record);
            bytes.extend_from_slice(&end.chain);
        }
        // What an earlier, failed append left behind must not look like the next record.
        bytes.extend_from_slice(&[0; 4]);
        self.file.write_all_at(&bytes, self.end.at).map_err(disk("writing"))?;
        self.file.sync_data().map_err(disk("making durable"))?;
        self.end = end;
        Ok(())
    }

    /// Asks the disk for a sign of life: writes the end again and waits for it.
    pub fn probe(&mut self) -> Result<(), SpoolError> {
        self.file.write_all_at(&[0; 4], self.end.at.min(self.size - 4)).map_err(disk("writing"))?;
        self.file.sync_data().map_err(disk("making durable"))
    }

    /// Events from `from` on, at most `most`, and the place behind them.
    pub fn read(&self, from: Place, most: usize) -> Result<(Vec<Sealed>, Place), SpoolError> {
        let (mut place, mut events) = (from, Vec::new());
        while place.at < self.end.at && events.len() < most {
            let (record, next) = self.record_at(&place)?.ok_or(SpoolError::Altered { at: place.at })?;
            events.push(event_of(&record).map_err(|_| SpoolError::Altered { at: place.at })?);
            place = next;
        }
        Ok((events, place))
    }

    /// The record at `place`, or nothing when none is there whose chain holds.
    fn record_at(&self, place: &Place) -> Result<Option<(Vec<u8>, Place)>, SpoolError> {
        let mut length = [0; 4];
        if place.at + 4 > self.size {
            return Ok(None);
        }
        self.file.read_exact_at(&mut length, place.at).map_err(disk("reading"))?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > RECORD_BYTES_MAX || place.at + framed(length) > self.size {
            return Ok(None);
        }
        let mut bytes = vec![0; length + 32];
        self.file.read_exact_at(&mut bytes, place.at + 4).map_err(disk("reading"))?;
        let chain_there = bytes.split_off(length);
        let chain = chained(&place.chain, &bytes);
        let next = Place { at: place.at + framed(length), chain, count: place.count + 1 };
        Ok((chain_there == chain).then_some((bytes, next)))
    }

    /// Empties it: all that is in it was merged.
    pub fn clear(&mut self, entropy: &dyn Entropy) -> Result<(), SpoolError> {
        // ORDER: first one mark that says so; a crash while it is emptied then loses and repeats nothing. An
        // error does not say whether the mark is on the disk, so from before it nothing goes behind the end.
        self.merged = true;
        self.file.write_all_at(&self.end.at.to_be_bytes(), 32).map_err(disk("emptying"))?;
        self.file.sync_data().map_err(disk("emptying"))?;
        self.begin(entropy)
    }

    /// Finishes an emptying that an error broke off.
    pub fn finish_clearing(&mut self, entropy: &dyn Entropy) -> Result<(), SpoolError> {
        if self.merged { self.clear(entropy) } else { Ok(()) }
    }

    fn begin(&mut self, entropy: &dyn Entropy) -> Result<(), SpoolError> {
        let used = (self.end.at + BATCH_BYTES_MAX as u64 + FRAME_BYTES).min(self.size);
        self.wipe(HEADER_BYTES, used).map_err(disk("emptying"))?;
        let mut header = [0; HEADER_BYTES as usize];
        let (identity, _) = header.split_at_mut(32);
        let (magic, nonce) = identity.split_at_mut(16);
        magic.copy_from_slice(MAGIC);
        entropy.fill(nonce);
        self.start = Sha256::digest(identity).into();
        self.file.write_all_at(&header, 0).map_err(disk("beginning"))?;
        self.file.sync_all().map_err(disk("beginning"))?;
        self.end = self.start_place();
        self.merged = false;
        Ok(())
    }

    /// Keeps the whole file under another name, for whoever looks into it.
    pub fn keep_aside(&self, entropy: &dyn Entropy) -> Result<Tail, SpoolError> {
        let mut nonce = [0; 4];
        entropy.fill(&mut nonce);
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".altered-{}.spool", data_encoding::HEXLOWER.encode(&nonce)));
        let kept = self.path.with_file_name(name);
        std::fs::copy(&self.path, &kept).map_err(disk("keeping a copy of"))?;
        Ok(Tail::Altered { kept })
    }

    /// Whether there are only zeros from `from` on.
    fn zero_from(&self, from: u64) -> Result<bool, SpoolError> {
        let mut buffer = vec![0; 64 * 1024];
        let mut at = from;
        while at < self.size {
            let want = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(buffer.len());
            let Some(part) = buffer.get_mut(..want) else {
                break;
            };
            self.file.read_exact_at(part, at).map_err(disk("reading"))?;
            if part.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += want as u64;
        }
        Ok(true)
    }

    fn wipe(&self, from: u64, to: u64) -> io::Result<()> {
        if to > from && rustix::fs::fallocate(&self.file, FallocateFlags::ZERO_RANGE, from, to - from).is_err() {
            write_zeros(&self.file, from, to)?;
        }
        self.file.sync_all()
    }
}

const fn framed(bytes: usize) -> u64 {
    bytes as u64 + FRAME_BYTES
}

fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, from, to)?,
        Err(error) => {
            // What was half taken is given back to a disk that is full.
            let _ = file.set_len(from);
            return Err(error.into());
        }
    }
    file.sync_all()
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 64 * 1024];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..want).unwrap_or_default(), at)?;
        at += want as u64;
    }
    Ok(())
}
