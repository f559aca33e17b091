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

pub mod audit;
pub mod cli;
pub mod credential;
pub mod identity;
pub mod model;
pub mod store;
pub mod wire;
