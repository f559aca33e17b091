//! Doorward, the map of the house.
//!
//! The way of a request, each arrow a function in a file of that name under `gateway/`:
//!
//! ```text
//! TcpStream → listener → handshake → Channel → canonical → route → Routed → authenticate → Caller
//!   → limit → authorize → Permitted → record (open) → equip → forward → Response → record (close)
//! ```
//!
//! Rooms, and what each may import, are held by `tests/it/house.rs`.

pub mod api;
pub mod audit;
pub mod cli;
pub mod config;
pub mod console;
pub mod control;
pub mod credential;
pub mod gateway;
pub mod identity;
pub mod model;
pub mod notify;
pub mod outbound;
pub mod policy;
pub mod server;
pub mod store;
pub mod wire;
