//! The record as something that is kept, proven, read and handed out: root key, trees, reading,
//! export, retention.

pub mod erase;
pub mod export;
pub mod read;
pub mod retention;
pub mod root;
pub mod stream;
pub mod tree;
pub mod tree_check;
pub mod view;

pub use crate::store::{
    Erasure, KeptByRule, LogEntry, Recorded, StoredCheckpoint, StoredStream, StreamPosition, StreamStart,
};
pub use root::{Root, RootError};
