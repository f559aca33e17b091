//! The desk: one function per operation, one transaction each. A state change and the event that
//! tells of it commit together.

pub mod lock;
pub mod record;
pub mod signing_key;
mod signing_key_file;
