//! The corridor: the data path, one file a stage.

pub mod canonical;
pub mod hygiene;
