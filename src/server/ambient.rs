//! The one place where the process asks the machine for the time and for chance.

use std::cell::RefCell;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::model::{Clock, Entropy, Timestamp};

/// What is drawn at once for ids and the like; each draw has a cost of its own, and a request needs
/// four.
const STOCK_BYTES: usize = 1024;
/// The longest that comes out of the stock. Tokens, keys and nonces are longer and drawn by themselves.
const SMALL_BYTES: usize = 16;

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK_BYTES], left: 0 }) };
}

/// Random bytes of one thread that nobody has had yet.
struct Stock {
    bytes: [u8; STOCK_BYTES],
    left: usize,
}

impl Stock {
    fn take(&mut self, target: &mut [u8]) {
        if self.left < target.len() {
            draw(&mut self.bytes);
            self.left = STOCK_BYTES;
        }
        let from = STOCK_BYTES - self.left;
        self.left -= target.len();
        for (target, source) in target.iter_mut().zip(self.bytes.iter_mut().skip(from)) {
            // INVARIANT: no byte is given out twice.
            *target = std::mem::take(source);
        }
    }
}

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

    #[expect(clippy::disallowed_methods, reason = "this is where the clock comes in")]
    fn running(&self) -> Duration {
        static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGAN.elapsed()
    }
}

/// The operating system's randomness, through aws-lc.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, target: &mut [u8]) {
        if target.len() > SMALL_BYTES {
            return draw(target);
        }
        STOCK.with_borrow_mut(|stock| stock.take(target));
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where chance comes in")]
fn draw(target: &mut [u8]) {
    if aws_lc_rs::rand::fill(target).is_err() {
        // Going on with predictable ids and salts is worse than not going on.
        tracing::error!("the operating system gives no randomness");
        std::process::abort();
    }
}
