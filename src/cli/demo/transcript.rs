//! What is printed of the story: numbered steps, what was asked, what was answered, how it ended.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::cli::args::Format;
use crate::cli::failure::Failure;
use crate::cli::printer::{Printer, plain};

use super::house::House;

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest line of an answer that is printed whole.
const LINE_CHARACTERS_MAX: usize = 160;

/// How one step ended, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name.
    pub step: &'static str,
    /// Whether it ended as it should.
    pub ok: bool,
    /// How long it took.
    pub milliseconds: u64,
    /// What came out, in words.
    pub detail: String,
}

/// What was asked and answered in one step.
#[derive(Debug, Default)]
pub struct Told(Vec<String>);

impl Told {
    /// A command or request.
    pub fn asked(&mut self, text: &str) {
        self.0.extend(text.lines().map(|line| format!("    {}", shortened(&plain(line)))));
    }

    /// What came back.
    pub fn answered(&mut self, text: &str) {
        self.0.extend(text.lines().map(|line| format!("      {}", shortened(&plain(line))).trim_end().to_owned()));
    }
}

/// A line that fits, with a sign where something was left out.
fn shortened(line: &str) -> String {
    if line.chars().count() <= LINE_CHARACTERS_MAX {
        return line.to_owned();
    }
    line.chars().take(LINE_CHARACTERS_MAX).chain(['…']).collect()
}

/// Whole milliseconds, for people and scripts.
pub fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The story so far.
pub struct Transcript<'a> {
    printer: &'a Printer,
    started: Instant,
    steps: Vec<Step>,
}

impl<'a> Transcript<'a> {
    /// Nothing yet.
    pub fn new(printer: &'a Printer) -> Self {
        Self { printer, started: Instant::now(), steps: Vec::new() }
    }

    /// The steps that were played.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many of them did not end as they should.
    pub fn failed(&self) -> usize {
        self.steps.iter().filter(|step| !step.ok).count()
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        if self.printer.format() == Format::Json { Ok(()) } else { self.printer.line(text) }
    }

    /// Where the story plays.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn opening(&self, house: &House) -> Result<(), Failure> {
        self.print(&format!(
            "A door on this machine, with a provider, four people and a service behind it.\n\
             service       {}\ncontrol host  {}\nfolder        {} (removed at the end)",
            house.service(),
            house.control(),
            house.folder().display()
        ))
    }

    /// Plays a step and prints it; what went wrong in it is told, and the story goes on.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn step(
        &mut self,
        name: &'static str,
        title: &str,
        play: impl AsyncFnOnce(&mut Told) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let (mut told, started) = (Told::default(), Instant::now());
        let ended = match tokio::time::timeout(STEP_TIMEOUT, play(&mut told)).await {
            Ok(ended) => ended,
            Err(_) => Err(Failure::failed(format!("it took longer than {} s", STEP_TIMEOUT.as_secs()))),
        };
        let milliseconds = milliseconds(started.elapsed());
        let (ok, detail) = match ended {
            Ok(detail) => (true, detail),
            Err(failure) => (false, failure.problem.detail.unwrap_or(failure.problem.title)),
        };
        let number = self.steps.len() + 1;
        let sign = if ok { '✓' } else { '✗' };
        let mut text = format!("\n{number:>2}. {title}\n");
        for line in told.0 {
            text.push_str(&line);
            text.push('\n');
        }
        text.push_str(&format!("    {sign} {} ({milliseconds} ms)", plain(&detail)));
        self.steps.push(Step { step: name, ok, milliseconds, detail });
        self.print(&text)
    }

    /// How it ended, and what is not shown.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn closing(&self) -> Result<(), Failure> {
        let all = self.steps.len();
        let sign = if self.failed() == 0 { '✓' } else { '✗' };
        self.print(&format!(
            "\n{sign} {} of {all} steps ended as they should, in {:.1} s.",
            all - self.failed(),
            self.started.elapsed().as_secs_f64()
        ))
    }
}
