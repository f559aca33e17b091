//! `doorward audit export`: the server's lines, into one file or a folder.
//!
//! 1. The server's first line says what the export is of: which leaves of which logs, under which signed
//!    checkpoints. Lines follow, log by log.
//! 2. What is written stands in `OUT.partial` until it is whole (`partial.rs`).
//! 3. With `--resume` only those leaves are asked for that are missing, of the same checkpoints; at the end
//!    what proves itself is verified as a whole before it gets its name.

use std::path::Path;

use crate::audit::evidence::{Extent, Head, StatementText, end_line};
use crate::audit::format::{Entry, ReadLine, cef, csv, ocsf};
use crate::audit::verify::Anchor;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::policy::counted;
use crate::cli::progress::Progress;
use crate::cli::renewal::{SignedIn, signed_in};

use super::folder::finish_folder;
use super::partial::{Begun, NoResume, Partial, Reached, Told, partial_of};
use super::stream::lines;
use super::{ExportArgs, ExportFormat, is_standard, verify};

/// Logs that one request names at most: they stand in its query.
const LOGS_PER_REQUEST: usize = 64;

/// From one event to its text.
type Form = fn(&Entry<'_>) -> String;

impl ExportFormat {
    const fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Evidence => "evidence",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
            Self::Cef => "cef",
        }
    }

    const fn is_folder(self) -> bool {
        matches!(self, Self::Evidence)
    }

    fn form(self) -> Option<Form> {
        match self {
            Self::Jsonl | Self::Evidence => None,
            Self::Csv => Some(csv::row as Form),
            Self::Ocsf => Some(ocsf::line as Form),
            Self::Cef => Some(cef::line as Form),
        }
    }

    /// What stands before the events, if something does.
    fn before(self, head: &str) -> Option<String> {
        match self {
            Self::Jsonl => Some(format!("{head}\n")),
            Self::Csv => Some(format!("{}\n", whole_line(&csv::header()))),
            Self::Evidence | Self::Ocsf | Self::Cef => None,
        }
    }
}

/// Where lines go.
enum Sink<'a> {
    Standard(&'a Context, u64),
    File(Box<Partial>),
}

impl Sink<'_> {
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self {
            Self::Standard(context, _) => context.printer.data(text),
            Self::File(partial) => partial.write(text.as_bytes()).map_err(|error| unwritten(&error)),
        }
    }

    /// Takes a line of the server; `text` is what stands for it, `told` whether that has its content.
    fn take(&mut self, text: Option<&[u8]>, told: Told) -> Result<(), Failure> {
        match self {
            Self::Standard(context, lines) => {
                *lines += 1;
                text.map_or(Ok(()), |text| context.printer.line(&String::from_utf8_lossy(text)))
            }
            Self::File(partial) => {
                let written = text.map_or(Ok(()), |text| partial.write(&[text, b"\n"].concat()));
                written.and_then(|()| partial.took(told)).map_err(|error| unwritten(&error))
            }
        }
    }

    const fn lines(&self) -> u64 {
        match self {
            Self::Standard(_, lines) => *lines,
            Self::File(partial) => partial.reached().lines,
        }
    }
}

fn unwritten(error: &std::io::Error) -> Failure {
    Failure::failed(format!("writing the export: {error}"))
}

/// An export while it is written.
struct Export<'a> {
    format: ExportFormat,
    sink: Sink<'a>,
    head: Head,
    extents: Vec<Extent>,
    total: u64,
    progress: Progress,
}

impl<'a> Export<'a> {
    fn new(context: &Context, format: ExportFormat, head: Head, sink: Sink<'a>) -> Option<Self> {
        let extents = StatementText::open(&head.evidence.statement).ok()?.logs;
        let total = extents.iter().map(|extent| extent.to.saturating_sub(extent.from)).sum();
        Some(Self { format, sink, head, extents, total, progress: Progress::new(context, "exporting", total) })
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Failure> {
        // What a filter left out, and what was pruned, has no content to be told.
        match self.format.form() {
            None if is_withheld(line) => self.sink.take(Some(line), Told::LeftOut)?,
            None => self.sink.take(Some(line), Told::Written)?,
            Some(form) => match ReadLine::parse(line) {
                Some(read) => self.sink.take(Some(whole_line(&form(&read.entry())).as_bytes()), Told::Written)?,
                None => self.sink.take(None, Told::LeftOut)?,
            },
        }
        self.progress.at(self.sink.lines());
        Ok(())
    }

    /// The leaves that are missing.
    fn rest(&self) -> Vec<Extent> {
        let mut skip = self.sink.lines();
        let mut rest = Vec::new();
        for extent in &self.extents {
            let count = extent.to.saturating_sub(extent.from);
            if skip < count {
                rest.push(Extent { from: extent.from + skip, ..extent.clone() });
            }
            skip = skip.saturating_sub(count);
        }
        rest
    }
}

/// Writes the record out.
///
/// # Errors
/// Exit 2 when the filter can't be read, the place is taken or what broke off can't go on, 4 when no policy
/// lets the caller, 1 when the export broke off.
pub async fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let query = args.filter.query()?;
    let Some(out) = args.out.as_deref().filter(|out| !is_standard(out)) else {
        if args.format.is_folder() {
            return Err(Failure::usage("evidence is a folder: give `--out FOLDER`"));
        }
        if args.resume {
            return Err(Failure::usage("standard output can't be resumed: give `--out FILE`"));
        }
        let here = signed_in(context).await?;
        let standard = |head: &str| {
            args.format.before(head).map_or(Ok(()), |before| context.printer.data(&before))?;
            Ok(Sink::Standard(context, 0))
        };
        let export = begin(context, &here, args, &query, standard).await?;
        return end_line_of(export).map(drop);
    };
    refuse_taken(out, args)?;
    let resumed = if args.resume { resumed(context, out, args, &query)? } else { None };
    let again = resumed.is_some();
    let here = signed_in(context).await?;
    let export = match resumed {
        Some(export) => go_on(&here, export, &query).await?,
        None => {
            let taken =
                |error: std::io::Error| Failure::usage(format!("`{}` can't be written: {error}", out.display()));
            begin(context, &here, args, &query, |head| {
                let begun =
                    Begun { v: 1, format: args.format.name().to_owned(), query: query.clone(), head: head.to_owned() };
                let before = args.format.before(head);
                let partial = Partial::begin(out, args.format.is_folder(), &begun, before.as_deref());
                let partial = partial.map_err(taken)?;
                Ok(Sink::File(Box::new(partial)))
            })
            .await?
        }
    };
    finish(context, out, export, How { resumed: again, filtered: !query.is_empty() })
}

/// What is there already is never written over.
fn refuse_taken(out: &Path, args: &ExportArgs) -> Result<(), Failure> {
    let taken = match std::fs::read_dir(out) {
        Ok(mut folder) if args.format.is_folder() => folder.next().is_some(),
        _ => std::fs::symlink_metadata(out).is_ok(),
    };
    if !taken {
        return Ok(());
    }
    let shown = out.display();
    Err(Failure::usage(match args.resume {
        true => format!("`{shown}` can't be written: it is there already, and whole; there is nothing to resume"),
        false => format!("`{shown}` can't be written: it is there already; name another place, or remove it first"),
    }))
}

/// The export that broke off, ready to go on; none where there is none.
fn resumed<'a>(
    context: &'a Context,
    out: &Path,
    args: &ExportArgs,
    query: &str,
) -> Result<Option<Export<'a>>, Failure> {
    let cannot = |why: &str| Failure::usage(format!("the export to `{}` can't be resumed: {why}", out.display()));
    let (partial, begun) = match Partial::resume(out, args.format.is_folder()) {
        Ok(found) => found,
        Err(NoResume::Nothing) => return Ok(None),
        Err(NoResume::Because(why)) => return Err(cannot(&why)),
    };
    if begun.format != args.format.name() {
        return Err(cannot(&format!("it was begun with `--format {}`", begun.format)));
    }
    if begun.query != query {
        let was =
            if begun.query.is_empty() { "without a filter".to_owned() } else { format!("with `{}`", begun.query) };
        return Err(cannot(&format!("it was begun with another filter: {was}")));
    }
    let unreadable = || cannot("what it began with can't be read");
    let head = Head::parse(&begun.head).ok_or_else(unreadable)?;
    let export = Export::new(context, args.format, head, Sink::File(Box::new(partial))).ok_or_else(unreadable)?;
    let (lines, total) = (export.sink.lines(), export.total);
    if lines > total {
        return Err(unreadable());
    }
    context.printer.talk(&format!("{lines} of {total} events are there; going on"));
    Ok(Some(export))
}

fn broken() -> Failure {
    Failure::failed("the server sent something else than an export")
}

/// The whole of an export from its first line on. `open` gives where it goes.
async fn begin<'a>(
    context: &Context,
    here: &SignedIn,
    args: &ExportArgs,
    query: &str,
    open: impl Fn(&str) -> Result<Sink<'a>, Failure>,
) -> Result<Export<'a>, Failure> {
    let (mut export, mut ended) = (None::<Export<'a>>, false);
    let done = lines(&here.client, &format!("/api/v1/audit/export?{query}"), |line| {
        if ended {
            return Err(broken());
        }
        let Some(export) = &mut export else {
            let text = std::str::from_utf8(line).map_err(|_| broken())?;
            let head = Head::parse(text).ok_or_else(broken)?;
            // ORDER: only now, so that a refusal leaves no empty file behind.
            export = Some(Export::new(context, args.format, head, open(text)?).ok_or_else(broken)?);
            return Ok(());
        };
        if line == end_line(export.sink.lines()).as_bytes() {
            ended = true;
            return Ok(());
        }
        export.take(line)
    })
    .await;
    match (export, done, ended) {
        (Some(export), Ok(()), true) => Ok(export),
        (Some(export), done, _) => Err(broke_off(export, done)),
        (None, Err(failure), _) => Err(failure),
        (None, Ok(()), _) => Err(broken()),
    }
}

/// The lines that are missing, of the same checkpoints.
async fn go_on<'a>(here: &SignedIn, mut export: Export<'a>, query: &str) -> Result<Export<'a>, Failure> {
    for rest in export.rest().chunks(LOGS_PER_REQUEST) {
        let named: Vec<String> =
            rest.iter().map(|extent| format!("{}:{}-{}", extent.log, extent.from, extent.to)).collect();
        let path = format!("/api/v1/audit/export?rest={}&{query}", named.join(","));
        let (mut count, mut ended) = (0, false);
        let done = lines(&here.client, path.trim_end_matches('&'), |line| {
            if ended {
                return Err(broken());
            }
            if line == end_line(count).as_bytes() {
                ended = true;
                return Ok(());
            }
            count += 1;
            export.take(line)
        })
        .await;
        let wanted: u64 = rest.iter().map(|extent| extent.to - extent.from).sum();
        if done.is_err() || !ended {
            return Err(broke_off(export, done));
        }
        if count != wanted {
            return Err(broken());
        }
    }
    Ok(export)
}

/// Says what there is of an export that broke off, and that it can go on.
fn broke_off(export: Export<'_>, done: Result<(), Failure>) -> Failure {
    let (exit, why) = match done {
        Ok(()) => (Exit::Failed, String::new()),
        Err(failure) => (failure.exit, failure.problem.detail.map(|why| format!(": {why}")).unwrap_or_default()),
    };
    let (lines, total) = (export.sink.lines(), export.total);
    let text = match export.sink {
        Sink::Standard(..) => format!("the export broke off before its end; nothing of it should be used{why}"),
        Sink::File(mut partial) => {
            // Where no further mark can be written, the one before holds.
            let _ = partial.mark();
            format!(
                "the export broke off after {lines} of {total} events{why}. `{}` has what there is of it: go on with \
                 the same command and `--resume`",
                partial.place().display()
            )
        }
    };
    Failure::new(exit, "broke_off", text)
}

/// What stands behind the events.
fn end_line_of(mut export: Export<'_>) -> Result<Export<'_>, Failure> {
    if export.format == ExportFormat::Jsonl {
        let text = format!("{}\n", end_line(export.sink.lines()));
        export.sink.text(&text)?;
    }
    Ok(export)
}

/// How an export came to its end.
struct How {
    /// Whether it broke off before.
    resumed: bool,
    /// Whether not all events were asked for.
    filtered: bool,
}

/// Everything beside the events, and its name.
fn finish(context: &Context, out: &Path, export: Export<'_>, how: How) -> Result<(), Failure> {
    let mut export = export;
    let failed = |error: std::io::Error| unwritten(&error);
    if let Sink::File(partial) = &mut export.sink {
        // ORDER: the last mark before the last line, which is written anew where the rest fails.
        partial.mark().map_err(failed)?;
    }
    let Export { format, sink, head, .. } = end_line_of(export)?;
    let Sink::File(mut partial) = sink else { return Ok(()) };
    let place = partial_of(out);
    let sum = partial.sum().map_err(failed)?;
    if format.is_folder() {
        finish_folder(&place, sum, &head.evidence).map_err(failed)?;
    }
    if how.resumed && format.form().is_none() {
        // Half of it may be of another day: what was pruned between leaves a hole in the proof.
        let anchor = Anchor::default();
        let outcome = if format.is_folder() {
            verify::folder(context, &place, &anchor)
        } else {
            verify::one_file(context, &place, &anchor)
        };
        outcome.map_err(|fault| {
            Failure::failed(format!(
                "what was put together does not prove itself and stays in `{}`: {fault}. Begin anew",
                place.display()
            ))
        })?;
    }
    let reached = partial.reached();
    partial.finish().map_err(|error| Failure::usage(format!("`{}` can't be written: {error}", out.display())))?;
    context.printer.talk(&counts(format, reached, how.filtered, out));
    Ok(())
}

/// What is there, and of what there is only what proves it.
fn counts(format: ExportFormat, reached: Reached, filtered: bool, out: &Path) -> String {
    let many = |count: u64| counted(usize::try_from(count).unwrap_or(usize::MAX), "event");
    let verb = match (reached.written, filtered) {
        (1, true) => "matches and is",
        (1, false) => "is",
        (_, true) => "match and are",
        (_, false) => "are",
    };
    let mut text = format!("{} {verb} in `{}`", many(reached.written), out.display());
    let more = reached.lines.saturating_sub(reached.written);
    if more > 0 && format.form().is_none() {
        let verb = if more == 1 { "is" } else { "are" };
        text.push_str(&format!("; {more} more {verb} there only as clear parts and commitments"));
    }
    text
}

/// Whether a line of an export has no content.
fn is_withheld(line: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Line {
        withheld: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Line>(line).is_ok_and(|line| line.withheld.is_some())
}

/// A line without its line feed; CSV keeps its carriage return (RFC 4180).
fn whole_line(text: &str) -> &str {
    text.strip_suffix('\n').unwrap_or(text)
}
