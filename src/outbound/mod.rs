//! The one HTTP client for the outside: providers, and later webhooks, witnesses and clouds.
//!
//! INVARIANTS: every exchange has an end (connect 5 s, whole 10 s) and a largest answer (1 MiB);
//! no redirect is followed; no proxy of the environment is used; a name is resolved once, each of
//! its addresses is judged by [`address`], and the connection goes to one that was judged.

pub mod address;
mod client;

pub use client::{Client, ClientSettings, OutboundError, judged_addresses};
