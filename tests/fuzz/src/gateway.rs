//! The readers of a client's bytes.

#[path = "../../../src/gateway/canonical.rs"]
pub mod canonical;
#[path = "../../../src/gateway/guard.rs"]
pub mod guard;
#[path = "../../../src/gateway/guard_h1/mod.rs"]
pub mod guard_h1;
#[path = "../../../src/gateway/guard_h2/mod.rs"]
pub mod guard_h2;
#[path = "../../../src/gateway/hygiene.rs"]
pub mod hygiene;
#[path = "../../../src/gateway/length.rs"]
pub mod length;
