//! The shelves: all SQL of the house, one file a noun. One text serves SQLite and PostgreSQL;
//! only `engine.rs` knows which of them is behind it.

mod engine;

pub use engine::{Store, StoreError, Tx};
