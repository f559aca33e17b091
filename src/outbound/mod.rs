//! The one HTTP client for the outside (providers, webhooks, witnesses, streams), and beside it syslog,
//! which knows nothing else than messages over TLS.
//!
//! INVARIANTS: every exchange has an end (connect 5 s, whole 10 s) and a largest answer (1 MiB);
//! no redirect is followed; no proxy of the environment is used; a name is resolved once, each of
//! its addresses is judged by [`address`], and the connection goes to one that was judged.

pub mod address;
mod client;
pub mod settings;
pub mod syslog;
mod tls;

pub use client::{Client, ClientSettings, OutboundError, judged_addresses};
pub use tls::ClientCertificate;
