//! `doorward audit export`: the server's lines, into one file or a folder.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::audit::evidence::{Head, end_line};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::renewal::signed_in;

use super::folder::FolderWriter;
use super::stream::lines;
use super::{ExportArgs, ExportFormat};

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
    let (mut head, mut count, mut ended) = (None, 0u64, false);
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
                (None, ExportFormat::Jsonl) => Sink::Standard(context),
                (None, ExportFormat::Evidence) => {
                    return Err(Failure::usage("evidence is a folder: give `--out FOLDER`"));
                }
                (Some(path), ExportFormat::Jsonl) => {
                    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(taken)?;
                    Sink::File(BufWriter::new(file))
                }
                (Some(path), ExportFormat::Evidence) => {
                    Sink::Folder(Box::new(FolderWriter::create(path).map_err(taken)?))
                }
            };
            return put(sink.insert(opened), line, true);
        }
        if line == end_line(count).as_bytes() {
            ended = true;
            return sink.as_mut().map_or(Ok(()), |sink| put(sink, line, true));
        }
        count += 1;
        sink.as_mut().map_or(Ok(()), |sink| put(sink, line, false))
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
        context.printer.talk(&format!("{count} events are in `{}`", path.display()));
    }
    Ok(())
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
