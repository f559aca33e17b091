//! Builds everything in one place.

pub mod ambient;
pub mod control_host;
pub mod dev;
pub mod gauges;
pub mod installation;
pub mod material;
pub mod telemetry;
