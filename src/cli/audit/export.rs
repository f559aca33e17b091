//! `doorward audit export`: the server's lines, into one file or a folder.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::audit::evidence::{Head, end_line};
use crate::audit::format::{Entry, ReadLine, cef, csv, ocsf};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::renewal::signed_in;

use super::folder::FolderWriter;
use super::stream::lines;
use super::{ExportArgs, ExportFormat};

/// From one event to its text.
type Form = fn(&Entry<'_>) -> String;

/// Where lines go.
enum Sink<'a> {
    Standard(&'a Context),
    File(BufWriter<std::fs::File>),
    Folder(Box<FolderWriter>),
}

/// Writes the record out.
///
/// # Errors
/// Exit 2 when the filter can't be read or the place is taken, 4 when no policy lets the caller, 1 when the
/// export broke off.
pub async fn run(context: &Context, args: &ExportArgs) -> Result<(), Failure> {
    let query = args.filter.query()?;
    let here = signed_in(context).await?;
    let failed = |error: std::io::Error| Failure::failed(format!("writing the export: {error}"));
    let taken = |error: std::io::Error| {
        let out = args.out.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        Failure::usage(format!("`{out}` can't be written: {error}"))
    };
    let mut sink = None;
    let (mut head, mut count, mut written, mut ended) = (None, 0u64, 0u64, false);
    lines(&here.client, &format!("/api/v1/audit/export?{query}"), |line| {
        let broken = || Failure::failed("the server sent something else than an export");
        if ended {
            return Err(broken());
        }
        if head.is_none() {
            let text = std::str::from_utf8(line).map_err(|_| broken())?;
            head = Some(Head::parse(text).ok_or_else(broken)?);
            // ORDER: only now, so that a refusal leaves no empty file behind.
            let opened = match (&args.out, args.format) {
                (None, ExportFormat::Jsonl | ExportFormat::Csv | ExportFormat::Ocsf | ExportFormat::Cef) => {
                    Sink::Standard(context)
                }
                (None, ExportFormat::Evidence) => {
                    return Err(Failure::usage("evidence is a folder: give `--out FOLDER`"));
                }
                (Some(path), ExportFormat::Jsonl | ExportFormat::Csv | ExportFormat::Ocsf | ExportFormat::Cef) => {
                    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(taken)?;
                    Sink::File(BufWriter::new(file))
                }
                (Some(path), ExportFormat::Evidence) => {
                    Sink::Folder(Box::new(FolderWriter::create(path).map_err(taken)?))
                }
            };
            let sink = sink.insert(opened);
            return match args.format {
                ExportFormat::Jsonl | ExportFormat::Evidence => put(sink, line, true),
                ExportFormat::Csv => put(sink, whole_line(&csv::header()), true),
                ExportFormat::Ocsf | ExportFormat::Cef => Ok(()),
            };
        }
        let Some(sink) = sink.as_mut() else { return Err(broken()) };
        let form = match args.format {
            ExportFormat::Jsonl | ExportFormat::Evidence => None,
            ExportFormat::Csv => Some(csv::row as Form),
            ExportFormat::Ocsf => Some(ocsf::line as Form),
            ExportFormat::Cef => Some(cef::line as Form),
        };
        if line == end_line(count).as_bytes() {
            ended = true;
            return if form.is_none() { put(sink, line, true) } else { Ok(()) };
        }
        count += 1;
        let Some(form) = form else { return put(sink, line, false) };
        // What a filter left out, and what was pruned, has no content to be told.
        let Some(read) = ReadLine::parse(line) else { return Ok(()) };
        written += 1;
        put(sink, whole_line(&form(&read.entry())), false)
    })
    .await?;
    let (Some(head), Some(sink), true) = (head, sink, ended) else {
        return Err(Failure::failed("the export broke off before its end; nothing of it should be used"));
    };
    match sink {
        Sink::Standard(_) => {}
        Sink::File(mut out) => {
            out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed)?;
        }
        Sink::Folder(writer) => writer.finish(&head.evidence).map_err(failed)?,
    }
    if let Some(path) = &args.out {
        let told = match args.format {
            ExportFormat::Jsonl | ExportFormat::Evidence => count,
            ExportFormat::Csv | ExportFormat::Ocsf | ExportFormat::Cef => written,
        };
        context.printer.talk(&format!("{told} events are in `{}`", path.display()));
    }
    Ok(())
}

/// A line without the line feed that `put` writes; CSV keeps its carriage return (RFC 4180).
fn whole_line(text: &str) -> &[u8] {
    text.strip_suffix('\n').unwrap_or(text).as_bytes()
}

/// Writes a line; `about` says that it is none of an event, which a folder has no place for.
fn put(sink: &mut Sink<'_>, line: &[u8], about: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("writing the export: {error}"));
    match sink {
        Sink::Standard(context) => context.printer.line(&String::from_utf8_lossy(line)),
        Sink::File(out) => out.write_all(line).and_then(|()| out.write_all(b"\n")).map_err(failed),
        Sink::Folder(_) if about => Ok(()),
        Sink::Folder(writer) => writer.event(line).map_err(failed),
    }
}
