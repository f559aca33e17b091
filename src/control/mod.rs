//! The desk: one function an operation, one transaction each: begin → fetch → pure transition →
//! guarded update → event → feed → commit → the directory of this node. A state change and the
//! event that tells of it commit together.
//!
//! ORDER: the directory is updated after the commit and before the operation answers, so that an
//! answer means that this node obeys, and nothing is obeyed that was not committed.

pub mod access;
pub mod audit;
pub mod breakglass;
pub mod browser;
pub mod caller;
pub mod challenge;
pub mod clock_guard;
pub mod convergence;
pub mod credential;
pub mod decision;
pub mod desk;
pub mod idempotency;
pub mod lock;
pub mod lock_by_caller;
pub mod notice;
pub mod oauth;
pub mod recheck;
pub mod record;
pub mod refused;
pub mod return_to;
pub mod review;
pub mod service;
pub mod session;
pub mod sign_in;
pub mod signing_key;
mod signing_key_file;

pub use caller::{Caller, ConnectionFacts};
pub use clock_guard::ClockGuard;
pub use desk::{Desk, DeskSettings, Keys};
// What operations answer with, for rooms that may not open the shelves themselves.
pub use crate::store::{HeldCredential, Lock, NoticePlace, NoticeState, StoreError, StoredNotice, StoredSession};
