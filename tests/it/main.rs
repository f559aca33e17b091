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

mod cli;
mod house;
mod postgres;
mod support;
