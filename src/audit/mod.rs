//! The memory: what happened, as events, and the exact bytes under which each is kept.

pub mod event;

pub use event::{Actor, Event, EventType, Outcome, RequestFacts};
