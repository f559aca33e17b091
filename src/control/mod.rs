//! The desk: one function an operation, one transaction each: begin → fetch → pure transition →
//! guarded update → event → feed → commit → the directory of this node.
//!
//! ORDER: the directory is updated after the commit and before the operation answers, so that an
//! answer means that this node obeys, and nothing is obeyed that was not committed.

pub mod caller;
pub mod decision;
pub mod desk;
pub mod oauth;
pub mod service;
pub mod session;

pub use caller::{Caller, ConnectionFacts};
pub use desk::{Desk, DeskSettings, Keys};
//! The desk: one function per operation, one transaction each. A state change and the event that
//! tells of it commit together.

pub mod lock;
pub mod record;
pub mod signing_key;
mod signing_key_file;
