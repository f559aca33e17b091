//! The time and chance of a command: the operating system's.

use crate::model::{Clock, Entropy, Timestamp};

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the clock of the command line")]
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
    }
}

/// The operating system's randomness, through aws-lc.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the chance of the command line")]
    fn fill(&self, target: &mut [u8]) {
        if aws_lc_rs::rand::fill(target).is_err() {
            // Going on with what can be guessed is worse than not going on.
            std::process::abort();
        }
    }
}
