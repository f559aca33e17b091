//! What commands say: data to standard output, talk to standard error.
//!
//! INVARIANTS: a reader that went away (`doorward services | head -1`) ends the printing and is no
//! error and no panic. Text from servers reaches a terminal on the line where it belongs and without
//! characters that forge, so that a service's description can't move the cursor and no reason looks
//! like a line of ours; in JSON they are escaped. Nothing is coloured, so `NO_COLOR` has nothing to
//! turn off but clap's help, which honours it.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use comfy_table::Table;
use serde::Serialize;

use crate::model::text::{forges, misleads};
use crate::model::{Timestamp, Ttl};
use crate::wire::Page;

use super::args::Format;
use super::failure::Failure;
use super::table;

/// Where data and talk go, and in which form data is wanted.
pub struct Printer {
    format: Format,
    terminal: bool,
    width: Option<u16>,
    talk_terminal: bool,
    out: Mutex<Box<dyn Write + Send>>,
    talk: Mutex<Box<dyn Write + Send>>,
}

impl Printer {
    /// A printer on the process's standard output and error.
    #[must_use]
    pub fn standard(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let printer = Self::new(format, terminal, Box::new(io::stdout()), Box::new(io::stderr()));
        Self { talk_terminal: io::stderr().is_terminal(), ..printer }
    }

    /// A printer on any two writers; `terminal` says whether tables fit themselves to a width.
    #[must_use]
    pub fn new(format: Format, terminal: bool, out: Box<dyn Write + Send>, talk: Box<dyn Write + Send>) -> Self {
        Self { format, terminal, width: None, talk_terminal: false, out: Mutex::new(out), talk: Mutex::new(talk) }
    }

    /// The form that was asked for.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// For a terminal of so many columns, whatever the real one has.
    #[must_use]
    pub fn with_width(self, columns: u16) -> Self {
        Self { width: Some(columns), ..self }
    }

    /// Whether standard output is a terminal.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// How many columns the terminal has that talk goes to; none where it goes elsewhere.
    #[must_use]
    pub fn talk_width(&self) -> Option<u16> {
        if self.talk_terminal { Table::new().use_stderr().width() } else { None }
    }

    /// Writes data as it is.
    ///
    /// # Errors
    /// When it can't be written for another reason than that nobody reads any more.
    pub fn data(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes data that is no text.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("writing to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Writes a line of data.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.data(&format!("{text}\n"))
    }

    /// Writes a value as JSON, its keys in the order in which they are declared.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn json<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::failed(format!("writing JSON: {error}")))?;
        self.line(&escaped(&text))
    }

    /// Writes JSON text that a server sent, indented, with every key and in the order it was sent.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn resource(&self, json: &str) -> Result<(), Failure> {
        self.line(&escaped(&indented(json)))
    }

    /// Writes JSON text that a server sent, as the one line that it is.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn json_line(&self, json: &str) -> Result<(), Failure> {
        self.line(&escaped(json))
    }

    /// Writes a list that a server sent, as [`Printer::resource`].
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn page<T: Serialize>(&self, page: &Page<T>) -> Result<(), Failure> {
        self.resource(&serde_json::to_string(page).map_err(|error| Failure::failed(error.to_string()))?)
    }

    /// Writes rows under a header, the more important columns first; off a terminal each row is one line whatever
    /// its length.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let width = if self.terminal { self.width.or_else(|| Table::new().width()) } else { None };
        self.line(&table::lines(header, rows, width))
    }

    /// Writes names and what they stand for, one pair a line.
    ///
    /// # Errors
    /// As [`Printer::data`].
    pub fn pairs(&self, pairs: &[(&str, String)]) -> Result<(), Failure> {
        self.table(&[], &rows_of(pairs))
    }

    /// Says something to the person, in one line; where nobody listens it is lost.
    pub fn talk(&self, text: &str) {
        self.talk_lines(&plain(text));
    }

    /// Says something that has several lines. What others wrote is made [`plain`] before it stands among them.
    pub fn talk_lines(&self, text: &str) {
        let mut talk = self.talk.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(talk, "{}", plain_lines(text));
        let _ = talk.flush();
    }

    /// Says names and what they stand for. A value that is too long for the terminal goes on below itself: at
    /// the beginning of a line it could be taken for a name.
    pub fn talk_pairs(&self, pairs: &[(&str, String)]) {
        self.talk_lines(&table::lines(&[], &rows_of(pairs), self.width.or_else(|| self.talk_width())));
    }

    /// Tells a failure: lines for people, problem+json for scripts.
    pub fn failure(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        match self.format {
            Format::Json => self.talk(&escaped(&failure.json())),
            Format::Table | Format::Junit if failure.in_lines => {
                failure.lines().iter().for_each(|line| self.talk_lines(line));
            }
            Format::Table | Format::Junit => failure.lines().iter().for_each(|line| self.talk(line)),
        }
    }
}

fn rows_of(pairs: &[(&str, String)]) -> Vec<Vec<String>> {
    pairs.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect()
}

/// The text on one line: a line break and a tab are blanks, and every other character that forges is shown
/// as its escape.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            c if forges(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// As [`plain`], line by line.
#[must_use]
pub fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// JSON text in which every character that misleads is an escape, as the record has it: it is the same to
/// programs, and people see what is there.
#[must_use]
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // Between the values of JSON these stand for themselves, and within them they never do.
        if misleads(c) && !matches!(c, '\n' | '\r' | '\t') {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        } else {
            text.push(c);
        }
    }
    text
}

/// How long from `now` until `end`, as people say it: `42m`, `1h30m`, `3d4h`; `over` when it is past.
#[must_use]
pub fn left(end: Timestamp, now: Timestamp) -> String {
    if end.is_over(now) {
        return "over".to_owned();
    }
    let seconds = end.since(now).as_seconds();
    // Two units are as much as anyone reads.
    let rounded = match seconds {
        ..60 => seconds,
        60..86_400 => seconds - seconds % 60,
        86_400.. => seconds - seconds % 3600,
    };
    Ttl::parse(&format!("{rounded}s")).map_or_else(|| format!("{rounded}s"), |ttl| ttl.to_string())
}

/// JSON text with line breaks and two blanks a level; text that is not JSON stays what it is.
fn indented(json: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(json).is_err() {
        return json.to_owned();
    }
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped, mut opened) = (0usize, false, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            text.push(c);
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        if opened && !matches!(c, '}' | ']') {
            line(&mut text, depth);
        }
        match c {
            '{' | '[' => depth += 1,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !opened {
                    line(&mut text, depth);
                }
            }
            _ => {}
        }
        opened = matches!(c, '{' | '[');
        text.push(c);
        match c {
            '"' => in_string = true,
            ':' => text.push(' '),
            ',' => line(&mut text, depth),
            _ => {}
        }
    }
    text
}
