//! `doorward demo`: the story of the door, played against a whole installation in a folder that
//! is removed at the end.
//!
//! INVARIANT: nothing is acted. The commands that are shown are read and run by the same code as
//! on a command line, the requests travel over TCP and TLS through the gateway, and what is
//! printed as an answer is what came back. A step that does not end as it should is told as such,
//! the rest is played all the same, and the process ends with 1.

mod emergency;
mod house;
mod person;
mod proof;
mod story;
mod transcript;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::log::telling;
use super::serve::until_signalled;
use crate::wire::Page;

use self::house::House;
use self::story::Story;
use self::transcript::Transcript;

/// How long the whole story may take.
const STORY_TIMEOUT: Duration = Duration::from_secs(25);

/// Plays the story.
///
/// # Errors
/// Exit 1 when a step did not end as it should, or the door did not open or close.
pub fn run(context: &Context) -> Result<(), Failure> {
    // Logs would stand in the middle of the story; `DOORWARD_LOG` brings them back.
    let _telling = telling("off");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("demo")
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("starting: {error}")))?;
    // Before there is a folder, so that whoever stops the story leaves none behind.
    let stopped = CancellationToken::new();
    let told = stopped.clone();
    runtime.spawn(async move {
        if until_signalled(|| {}).await.is_ok() {
            told.cancel();
        }
    });
    let house = House::open(runtime)?;
    let mut transcript = Transcript::new(&context.printer);
    let played = transcript.opening(&house).and_then(|()| {
        let mut story = Story::new(&house)?;
        house.runtime().block_on(async {
            tokio::select! {
                played = tokio::time::timeout(STORY_TIMEOUT, story.play(&mut transcript)) => {
                    played.unwrap_or_else(|_| {
                        Err(Failure::failed(format!("the story took longer than {} s", STORY_TIMEOUT.as_secs())))
                    })
                }
                () = stopped.cancelled() => Err(Failure::failed("stopped by a signal")),
            }
        })
    });
    let closed = house.close();
    if context.printer.format() == Format::Json {
        context.printer.json(&Page::whole(transcript.steps().to_vec()))?;
    } else {
        transcript.closing()?;
    }
    played?;
    closed?;
    let (all, failed) = (transcript.steps().len(), transcript.failed());
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("{failed} of {all} steps did not end as they should")))
}
