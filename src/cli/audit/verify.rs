//! `doorward audit verify`: is it whole? Lines are checked on all cores and put together in their
//! order; memory holds some chunks of them and nothing more.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::evidence::{FileSum, Head, end_line, file};
use crate::audit::line::{CheckedLine, LINE_BYTES_MAX, LineError, check_line};
use crate::audit::verify::{Anchor, Fault, Place, Verified, Verifier};
use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::policy::counted;
use crate::cli::progress::Progress;
use crate::cli::renewal::signed_in;
use crate::server::verify::{self as database, Unopened};

use super::folder::{read_folder, unread};
use super::stream::lines;
use super::{VerifyArgs, anchor, foreign};

/// Bytes of lines that one worker gets at a time.
const CHUNK_BYTES: usize = 1024 * 1024;
/// The longest first line of an export in one file.
const HEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What an SQLite file begins with.
const SQLITE_MAGIC: &[u8] = b"SQLite format 3\0";
/// Exit code of a record that nothing from outside holds.
const UNANCHORED: u8 = 14;

/// Verifies what was named.
///
/// # Errors
/// With the exit code of what is wrong; exit 2 when there is nothing to look at.
pub fn run(context: &Context, args: &VerifyArgs) -> Result<(), Failure> {
    verify(context, args).map_err(|mut failure| {
        let is_fault = matches!(failure.exit, Exit::Passed(code) if code != UNANCHORED);
        if is_fault && let Some(learned) = anchor::learned(context, args.key.as_deref()) {
            let told = failure.problem.detail.unwrap_or_default();
            failure.problem.detail = Some(format!("{told}; {learned}"));
        }
        failure
    })
}

fn verify(context: &Context, args: &VerifyArgs) -> Result<(), Failure> {
    let anchor = match anchor::read(context, args.key.as_deref(), args.checkpoint.as_deref())? {
        Ok(anchor) => anchor,
        Err(fault) => return told(context, Err(fault)),
    };
    let target = args.target.as_str();
    if target.starts_with("https://") {
        return super::super::wait_for(server(context, target, &anchor));
    }
    if target.starts_with("sqlite:") || target.starts_with("postgres://") || target.starts_with("postgresql://") {
        return super::super::wait_for(of_database(context, target, &anchor));
    }
    let path = Path::new(target);
    let nothing = |error: io::Error| Failure::usage(format!("`{target}` can't be read: {error}"));
    if path.is_dir() {
        foreign::refuse_folder(path)?;
        return told(context, folder(context, path, &anchor));
    }
    let mut begins = Vec::new();
    File::open(path).and_then(|file| file.take(16).read_to_end(&mut begins)).map_err(nothing)?;
    if begins == SQLITE_MAGIC {
        let url = format!("sqlite://{target}?mode=ro");
        return super::super::wait_for(of_database(context, &url, &anchor));
    }
    foreign::refuse_file(path)?;
    told(context, one_file(context, path, &anchor))
}

/// Tells how it came out.
fn told(context: &Context, outcome: Result<Verified, Fault>) -> Result<(), Failure> {
    let verified = match outcome {
        Ok(verified) => verified,
        Err(fault) => {
            if context.printer.format() == Format::Json {
                let (log, index) = match fault.place() {
                    Place::Event { log, index } => (Some(log.to_string()), Some(*index)),
                    Place::Log(log) => (Some(log.to_string()), None),
                    Place::Part(_) => (None, None),
                };
                context.printer.json(&json!({
                    "result": fault.word(), "exit": fault.code(), "log": log, "index": index, "detail": fault.to_string(),
                }))?;
            }
            return Err(Failure::new(Exit::Passed(fault.code()), fault.word(), fault.to_string()));
        }
    };
    let word = if verified.anchored { "whole" } else { "unanchored" };
    if context.printer.format() == Format::Json {
        context.printer.json(&json!({
            "result": word, "exit": if verified.anchored { 0 } else { UNANCHORED }, "logs": verified.logs,
            "events": verified.lines, "filtered": verified.filtered, "pruned": verified.pruned,
            "erased": verified.erased, "erased_events": verified.erased_events,
            "erased_untold": verified.erased_untold, "witnessed": verified.witnessed, "unreached": verified.unreached,
            "ahead": verified.ahead, "made_at": verified.made_at, "filter": verified.filter,
        }))?;
    } else {
        let mut text = format!(
            "{word}: {} in {}",
            counted(usize::try_from(verified.lines).unwrap_or(usize::MAX), "event"),
            counted(verified.logs, "log")
        );
        let pruned = verified.pruned_before.map_or("pruned".to_owned(), |before| format!("pruned, of before {before}"));
        let parts = [
            (verified.filtered, "left out by the filter"),
            (verified.pruned, pruned.as_str()),
            (verified.erased, "personal values erased"),
            (verified.erased_untold, "of them by no erasure that is on record here"),
            (verified.erased_events, "erased as a whole"),
            (u64::try_from(verified.witnessed).unwrap_or(0), "witnessed checkpoints agree"),
            (u64::try_from(verified.unreached).unwrap_or(0), "witnessed checkpoints lie outside what is here"),
            (verified.ahead, "more not under a checkpoint yet"),
        ];
        for (count, what) in parts {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if verified.erased_of_unknown {
            text.push_str(", nothing here tells whose the erased values were: only their number was looked at");
        }
        text.push_str(&format!("; as of {}, {}", verified.made_at, asked(&verified)));
        context.printer.line(&text)?;
    }
    if verified.anchored {
        return Ok(());
    }
    let detail = "it agrees with itself, but nothing from outside holds it: give the root key (--key) or a \
                  witness's checkpoints (--checkpoint)";
    Err(Failure::new(Exit::Passed(UNANCHORED), "unanchored", detail))
}

/// What was asked for, in words: an old export, or one of a part, is not to be taken for all there is.
fn asked(verified: &Verified) -> String {
    let said = verified.filter.named().map(|(name, value)| format!("{name} {value}"));
    let said = said.collect::<Vec<_>>().join(", ");
    if said.is_empty() { "everything".to_owned() } else { format!("only {said}") }
}

/// Verifies an export in a folder.
///
/// # Errors
/// The first thing that is wrong.
pub fn folder(context: &Context, dir: &Path, anchor: &Anchor) -> Result<Verified, Fault> {
    let read = read_folder(dir)?;
    read.unverified.iter().for_each(|told| context.printer.talk(told));
    let mut verifier = Verifier::new(&read.evidence, anchor)?;
    let events = File::open(dir.join(file::EVENTS)).map_err(|error| unread(file::EVENTS, &error))?;
    let seen = check_lines(context, &mut verifier, BufReader::new(events), None)?;
    let verified = verifier.end()?;
    if let Some(fault) = read.late {
        return Err(fault);
    }
    if seen != read.events {
        return Err(Fault::altered(file::EVENTS, "its size or SHA-256 is not what the manifest says"));
    }
    Ok(verified)
}

/// Verifies an export in one file.
///
/// # Errors
/// The first thing that is wrong.
pub fn one_file(context: &Context, path: &Path, anchor: &Anchor) -> Result<Verified, Fault> {
    let part = "the file";
    let wrong = |error: io::Error| Fault::altered(part, error.to_string());
    let mut input = BufReader::new(File::open(path).map_err(wrong)?);
    let mut line = Vec::new();
    input.by_ref().take(HEAD_BYTES_MAX).read_until(b'\n', &mut line).map_err(wrong)?;
    let text = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
    let head = text.and_then(Head::parse);
    let head = head.ok_or_else(|| Fault::altered(part, "its first line is not the evidence of an export"))?;
    let mut verifier = Verifier::new(&head.evidence, anchor)?;
    let end = end_line(verifier.lines_total());
    check_lines(context, &mut verifier, input, Some(&end))?;
    verifier.end()
}

/// Lines that one worker checks.
struct Chunk {
    bytes: Vec<u8>,
}

/// What a worker found of its lines.
type CheckedChunk = Vec<Result<CheckedLine, LineError>>;

/// Reads all lines, checks each, and gives them to the verifier in their order. `end` is the line that must
/// be the last. Gives size and SHA-256 of what was read.
fn check_lines(
    context: &Context,
    verifier: &mut Verifier,
    input: impl BufRead + Send,
    end: Option<&str>,
) -> Result<FileSum, Fault> {
    let workers = std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(1, 16);
    std::thread::scope(|scope| {
        let (mut jobs, mut results): (Vec<SyncSender<Chunk>>, Vec<Receiver<CheckedChunk>>) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (job, take) = sync_channel::<Chunk>(1);
            let (give, result) = sync_channel(1);
            scope.spawn(move || {
                while let Ok(chunk) = take.recv() {
                    // Nobody waits any more when something was wrong before.
                    if give.send(checked(&chunk.bytes)).is_err() {
                        return;
                    }
                }
            });
            jobs.push(job);
            results.push(result);
        }
        let reader = scope.spawn(move || read_chunks(input, jobs, end));
        let mut progress = Progress::new(context, "verifying", verifier.lines_total());
        let outcome = gather(verifier, &results, &mut progress);
        drop(progress);
        drop(results);
        let read = reader.join().map_err(|_| Fault::altered("the events", "reading them failed"))?;
        outcome?;
        let read = read.map_err(|error| Fault::altered("the events", error.to_string()))?;
        if let Some(torn) = read.torn {
            return Err(match (verifier.next(), end) {
                (Some(at), _) => Fault::Truncated { at, what: "the record ends in the middle of it".to_owned() },
                // What is not how the last line begins was put there.
                (None, Some(end)) if end.as_bytes().starts_with(&torn) => Fault::Truncated {
                    at: Place::Part("the file".to_owned()),
                    what: "it ends in the middle of its last line".to_owned(),
                },
                (None, _) => Fault::altered("the events", format!("{} bytes stand behind the last line", torn.len())),
            });
        }
        match (end, read.ended) {
            (Some(_), false) if verifier.next().is_none() => Err(Fault::Truncated {
                at: Place::Part("the file".to_owned()),
                what: "its last line is missing".to_owned(),
            }),
            _ => Ok(read.sum),
        }
    })
}

/// Takes results in the order of the chunks until there are no more.
fn gather(verifier: &mut Verifier, results: &[Receiver<CheckedChunk>], progress: &mut Progress) -> Result<(), Fault> {
    let mut done = 0;
    loop {
        for result in results {
            let Ok(lines) = result.recv() else { return Ok(()) };
            done += u64::try_from(lines.len()).unwrap_or(0);
            for line in lines {
                verifier.take(line)?;
            }
            progress.at(done);
        }
    }
}

fn checked(chunk: &[u8]) -> CheckedChunk {
    let lines = chunk.strip_suffix(b"\n").unwrap_or(chunk);
    match std::str::from_utf8(lines) {
        Ok(text) => text.split('\n').map(check_line).collect(),
        // Which of them is no text is told by its place.
        Err(_) => lines
            .split(|byte| *byte == b'\n')
            .map(|line| std::str::from_utf8(line).map_err(|_| LineError::Form).and_then(check_line))
            .collect(),
    }
}

/// What was read.
struct WasRead {
    /// Size and SHA-256 of all of it; the hash is empty where no manifest names one.
    sum: FileSum,
    /// What stands behind the last line feed.
    torn: Option<Vec<u8>>,
    /// Whether the line that must be the last was there and was the last.
    ended: bool,
}

fn read_chunks(mut input: impl BufRead, jobs: Vec<SyncSender<Chunk>>, end: Option<&str>) -> io::Result<WasRead> {
    // Where there is a last line there is no manifest, and the hash would be compared with nothing.
    let mut hash = end.is_none().then(Sha256::new);
    let (mut total, mut rest) = (0u64, Vec::new());
    let (mut torn, mut ended) = (None, false);
    let mut turn = jobs.iter().cycle();
    loop {
        let mut bytes = std::mem::take(&mut rest);
        let before = bytes.len();
        let want = u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX);
        let count = input.by_ref().take(want).read_to_end(&mut bytes)?;
        if let Some(hash) = &mut hash {
            hash.update(bytes.get(before..).unwrap_or_default());
        }
        total += u64::try_from(count).unwrap_or(0);
        let last = count == 0;
        let lines_end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        rest = bytes.split_off(lines_end);
        if rest.len() > LINE_BYTES_MAX.saturating_mul(2) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line has no end"));
        }
        if last {
            torn = Some(rest).filter(|rest| !rest.is_empty());
            break;
        }
        if let Some(end) = end
            && let Some(without) = bytes.strip_suffix(b"\n").and_then(|bytes| bytes.strip_suffix(end.as_bytes()))
            && (without.is_empty() || without.ends_with(b"\n"))
            && rest.is_empty()
            && input.fill_buf()?.is_empty()
        {
            ended = true;
            bytes.truncate(without.len());
        }
        if bytes.is_empty() {
            continue;
        }
        // The worker has ended when something was wrong before it.
        if turn.next().is_none_or(|job| job.send(Chunk { bytes }).is_err()) {
            break;
        }
    }
    let sha256 = hash.map(|hash| HEXLOWER.encode(&hash.finalize())).unwrap_or_default();
    let sum = FileSum { name: file::EVENTS.to_owned(), bytes: total, sha256 };
    Ok(WasRead { sum, torn, ended })
}

async fn server(context: &Context, target: &str, anchor: &Anchor) -> Result<(), Failure> {
    let asked = crate::cli::origin::Origin::parse(target).map_err(|error| Failure::usage(error.to_string()))?;
    let here = signed_in(context).await?;
    if here.origin != asked {
        return Err(Failure::usage(format!("you are signed in to {}, not to {asked}", here.origin)));
    }
    let (mut verifier, mut fault, mut count, mut ended) = (None::<Verifier>, None, 0, false);
    let done = lines(&here.client, "/api/v1/audit/export", |line| {
        let text = std::str::from_utf8(line).map_err(|_| LineError::Form);
        let Some(verifier) = &mut verifier else {
            let head = text.ok().and_then(Head::parse);
            let made =
                head.ok_or_else(|| Fault::altered("the answer", "its first line is not the evidence of an export"));
            match made.and_then(|head| Verifier::new(&head.evidence, anchor)) {
                Ok(made) => verifier = Some(made),
                Err(wrong) => fault = Some(wrong),
            }
            return if fault.is_some() { Err(Failure::silent(Exit::Failed)) } else { Ok(()) };
        };
        if text == Ok(end_line(count).as_str()) {
            ended = true;
            return Ok(());
        }
        count += 1;
        if let Err(wrong) = verifier.take(text.and_then(check_line)) {
            fault = Some(wrong);
            return Err(Failure::silent(Exit::Failed));
        }
        Ok(())
    })
    .await;
    if let Some(fault) = fault {
        return told(context, Err(fault));
    }
    done?;
    match verifier {
        Some(verifier) if ended => told(context, verifier.end()),
        _ => Err(Failure::failed("the server's answer broke off before its end")),
    }
}

async fn of_database(context: &Context, url: &str, anchor: &Anchor) -> Result<(), Failure> {
    let unread = |error: String| Failure::failed(format!("reading the record: {error}"));
    let mut record = match database::open(url, anchor.key.clone(), context.clock.now()).await {
        Ok(record) => record,
        Err(Unopened::Nothing(what)) => return Err(Failure::usage(what)),
        Err(Unopened::Failed(error)) => return Err(unread(error)),
        Err(Unopened::Fault(fault)) => return told(context, Err(fault)),
    };
    let mut verifier = match Verifier::of_statement(&record.statement, &record.evidence, anchor) {
        Ok(verifier) => verifier,
        Err(fault) => return told(context, Err(fault)),
    };
    loop {
        match record.export.next().await {
            Ok(None) => break,
            Ok(Some(lines)) => {
                for line in lines {
                    if let Err(fault) = verifier.take(check_line(&line)) {
                        return told(context, Err(fault));
                    }
                }
            }
            Err(error) => {
                let at = verifier.next().unwrap_or(Place::Part("the database".to_owned()));
                return told(context, Err(Fault::Altered { at, what: error.to_string() }));
            }
        }
    }
    verifier.renew(record.gone(context.clock.now()).await.map_err(|error| unread(error.to_string()))?);
    let mut outcome = verifier.end();
    if let Ok(verified) = &mut outcome {
        match record.ahead().await {
            Ok(ahead) => verified.ahead = ahead,
            Err(fault) => outcome = Err(fault),
        }
    }
    if outcome.is_ok() {
        context.printer.talk(
            "the tiles in the database (`audit_tile`) were not looked at: they are made of the leaves, which were, and \
             prove nothing here",
        );
    }
    told(context, outcome)
}
