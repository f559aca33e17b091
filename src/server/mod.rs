//! Builds everything in one place.

pub mod dev;
pub mod installation;
