//! The tests of the house: one binary, one module a topic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unreachable,
    clippy::disallowed_methods,
    reason = "a test that panics is a test that fails"
)]

mod fake_provider;
mod house;
mod leaf;
mod outbound;
mod config;
mod dev_provider;
mod dev_upstream;
mod leaf;
mod house;
mod postgres;
mod provider;
mod recorder;
mod revocation;
mod signing_key;
mod store_record;
mod support;
mod policy;
mod canonical;
mod hygiene;
mod guard_h1;
mod guard_h2;
