//! The memory: what happened, as events, and the exact bytes under which each is kept.

pub mod event;
pub mod format;
pub mod json;
pub mod leaf;
pub mod pseudonym;
pub mod spool;

pub use event::{Actor, Event, EventType, Outcome, RequestFacts};
pub use leaf::{Clear, Leaf, LeafError, PersonalField, Sealed, Sealing};
pub use pseudonym::Pseudonyms;
