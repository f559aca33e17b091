//! The one place where the process asks the machine for the time and for chance.

use crate::model::{Clock, Entropy, Timestamp};

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the clock comes in")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        Timestamp::from_millis(millis)
    }
}

/// The operating system's randomness, through aws-lc.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is where chance comes in")]
    fn fill(&self, target: &mut [u8]) {
        if aws_lc_rs::rand::fill(target).is_err() {
            // Going on with predictable ids and salts is worse than not going on.
            tracing::error!("the operating system gives no randomness");
            std::process::abort();
        }
    }
}
