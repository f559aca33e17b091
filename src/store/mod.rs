//! The shelves: all SQL of the house, one file a noun. One text serves SQLite and PostgreSQL;
//! only `engine.rs` knows which of them is behind it.

mod engine;
mod link;
mod oauth;
mod session;

pub use engine::{Store, StoreError, Tx};
pub use link::ProviderLink;
pub use oauth::{DeviceCode, DeviceState, OauthCode, RefreshToken, SecretHash};
pub use session::{SESSION_PAGE_MAX, SessionCertificate, StoredCookie, StoredSession};
