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
