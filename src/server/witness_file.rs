//! What a witness's file has: the newest checkpoint of each log, from the end of the file alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::note::{Note, split_notes};

/// How much of the end of a file is read: the notes of many hours.
const TAIL: u64 = 1024 * 1024;

/// The newest note of each log that the end of the file has. What a crash left torn at its end is passed
/// over, since it is cut off before anything is added.
///
/// # Errors
/// When it can't be read, or has something else in it than notes.
pub fn newest(path: &Path) -> io::Result<Vec<String>> {
    // A pipe that nobody writes to would be waited for when it is opened.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let ends = note_ends(&tail);
    let begin = if from == 0 { 0 } else { ends.first().copied().unwrap_or(0) };
    let end = ends.last().copied().unwrap_or(0).max(begin);
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let text = std::str::from_utf8(tail.get(begin..end).unwrap_or_default());
    let text = text.map_err(|_| wrong("it is not text".to_owned()))?;
    let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for note in split_notes(text).map_err(|line| wrong(format!("line {line} of its end is part of no note")))? {
        let read = Note::parse(note).and_then(|parsed| Checkpoint::parse(&parsed.text));
        let read = read.map_err(|error| wrong(format!("a note in it is no checkpoint: {error}")))?;
        let known = newest.entry(read.origin).or_insert_with(|| (read.size, note.to_owned()));
        if read.size >= known.0 {
            *known = (read.size, note.to_owned());
        }
    }
    Ok(newest.into_values().map(|(_, note)| note).collect())
}

/// Where notes end: behind a line of signatures that no further one follows.
fn note_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut at, mut signed) = (Vec::new(), 0, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let is_signature = line.starts_with("— ".as_bytes()) && line.ends_with(b"\n");
        if signed && !is_signature {
            ends.push(at);
        }
        signed = is_signature;
        at += line.len();
    }
    if signed {
        ends.push(at);
    }
    ends
}
