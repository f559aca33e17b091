//! The corridor: the data path, one file a stage.

pub mod canonical;
pub mod guard;
pub mod guard_h1;
pub mod guard_h2;
pub mod hygiene;
