//! The memory: what happened, as events, and the exact bytes under which each is kept.

pub mod basis;
mod body;
pub mod checkpoint;
pub mod data;
pub mod erase;
pub mod event;
pub mod evidence;
pub mod filter;
pub mod format;
pub mod installation;
pub mod json;
pub mod keep;
pub mod leaf;
pub mod leaf_read;
pub mod line;
pub mod merkle;
pub mod note;
pub mod proof;
pub mod pseudonym;
pub mod report;
pub mod schema;
pub mod settings;
pub mod spool;
pub mod tile;
pub mod verify;
pub mod view;

pub use event::{Actor, Event, EventType, Outcome, RequestFacts};
pub use leaf::{Clear, PersonalField, Sealed, Sealing};
pub use leaf_read::{Leaf, LeafError};
pub use pseudonym::Pseudonyms;
