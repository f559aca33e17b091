//! Builds everything in one place.

pub mod ambient;
pub mod dev;
pub mod installation;
