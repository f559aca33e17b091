//! Answers that their clients do not take.
//!
//! hyper asks a body for more once the client has taken what there was: over HTTP/2 when its stream has window
//! again (RFC 9113 §5.2), over HTTP/1 when its socket has room. Until then nobody polls the relay, which hears
//! neither of time nor of the end of its permit, and would hold its upstream for as long as the client likes.
//! So whatever has more to come is looked after from here, too.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{BodyError, Ending, Permit, Progress};
use super::guard::{Exchange, Pace, PaceLimits};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The answers of one thread that have more to come.
pub struct Untaken {
    open: RefCell<Vec<Weak<Open>>>,
    /// How slowly a client may take what there is.
    pub(super) limits: PaceLimits,
}

impl Untaken {
    /// None yet; each must be taken at this rate.
    #[must_use]
    pub fn new(limits: PaceLimits) -> Self {
        Self { open: RefCell::default(), limits }
    }

    pub(super) fn look_after(&self, open: &Rc<Open>) {
        self.open.borrow_mut().push(Rc::downgrade(open));
    }

    /// Gives up what is not taken in time, or by nobody who may have it.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Instant::now();
            // Not borrowed meanwhile: the end of one may be the beginning of another.
            let mut looked_at = self.open.take();
            looked_at.retain(|open| open.upgrade().is_some_and(|open| open.goes_on(now)));
            self.open.borrow_mut().append(&mut looked_at);
        }
    }
}

/// What an answer holds that has more to come, until its end or until it is given up.
pub(super) struct Open {
    pub incoming: RefCell<Option<Incoming>>,
    pub ending: RefCell<Option<Box<dyn Ending>>>,
    pub exchange: RefCell<Option<Exchange>>,
    pub permit: Permit,
    pub progress: Rc<Progress>,
    pub untaken: Cell<Option<(usize, Instant)>>,
    pub pace: RefCell<Pace>,
    pub bytes_per_second: u32,
}

impl Open {
    /// Bytes were handed out: now the client has to take them, at the least rate.
    pub fn handed(&self, bytes: usize) {
        let seconds = u32::try_from(bytes).unwrap_or(u32::MAX) / self.bytes_per_second.max(1);
        let until = self.pace.borrow_mut().waiting() + Duration::from_secs(u64::from(seconds));
        self.untaken.set(Some((bytes, until)));
    }

    /// It is asked for more, so the client has taken what it had.
    pub fn asked(&self) {
        if let Some((bytes, _)) = self.untaken.take() {
            self.pace.borrow_mut().moved(bytes);
        }
    }

    /// Whether it may go on; else it is given up.
    fn goes_on(&self, now: Instant) -> bool {
        let why = match self.untaken.get() {
            // Whoever waits for the upstream looks at time and permit by itself.
            None => return true,
            Some(_) if self.permit.is_over() => BodyError::Cut,
            Some((_, until)) if until <= now => BodyError::Idle,
            Some(_) => return true,
        };
        self.progress.failed.set(self.progress.failed.get().or(Some(why)));
        self.incoming.take();
        self.end();
        self.exchange.take();
        false
    }

    /// Tells of the end, once.
    pub fn end(&self) {
        if let Some(mut ending) = self.ending.take() {
            ending.ended(&self.progress);
        }
    }
}
