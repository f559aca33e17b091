//! What `doorward dev` and `doorward demo` need beside the gateway, so that no other program is
//! needed: an OpenID provider with four people and a sample upstream.

pub mod door;
pub mod provider;
pub mod upstream;

/// Connections to either server that are open at a time.
const CONNECTIONS_MAX: usize = 4096;
