//! Builds everything in one place, keeps it running and takes it down; and what `dev` needs beside.

mod accept;
pub mod ambient;
pub mod at_start;
pub mod bridge;
mod clock;
pub mod control_host;
mod database;
pub mod dev;
pub mod doctor;
mod emergency;
pub mod examples;
pub mod gauges;
pub mod installation;
pub mod keys;
pub mod material;
pub mod notices;
mod probes;
pub mod reload;
pub mod run;
pub mod settings;
pub mod stream;
pub mod tasks;
pub mod telemetry;
pub mod tree;
pub mod verify;
pub mod witness_file;
