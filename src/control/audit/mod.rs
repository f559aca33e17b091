//! The record as something that is kept, proven, read and handed out: root key, trees, reading,
//! export, retention.

pub mod erase;
pub mod export;
pub mod read;
pub mod retention;
pub mod root;
pub mod tree;

pub use crate::store::{Erasure, KeptByRule, LogEntry, Recorded, StoredCheckpoint};
pub use root::{Root, RootError};
