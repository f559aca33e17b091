//! What `doorward dev` and `doorward demo` need beside the gateway, so that no other program is
//! needed: an OpenID provider with four people and a sample upstream.

mod accept;
pub mod door;
pub mod provider;
pub mod upstream;
