//! The shelves: all SQL of the house, one file a noun. One text serves SQLite and PostgreSQL;
//! only `engine.rs` knows which of them is behind it.

mod audit_event;
mod engine;
mod idempotency;
mod link;
mod lock;
mod log;
mod oauth;
mod record_writer;
mod recorder;
mod refusal_count;
mod revocation;
mod session;
mod sign_in;
mod signing_key;
mod token;
mod spool;
mod spool_file;

pub use audit_event::{EVENT_PAGE_MAX, EventFilter, Recorded};
pub use engine::{Store, StoreError, Tx};
pub use idempotency::KeptAnswer;
pub use link::ProviderLink;
pub use lock::Lock;
pub use log::Log;
pub use oauth::{DeviceCode, DeviceState, OauthCode, RefreshToken, SecretHash};
pub use recorder::{Keeping, Recorder, RecorderParts, RecorderSettings, RecorderState, Submitted, Unrecorded};
pub use refusal_count::RefusalRates;
pub use revocation::{REVOCATION_PAGE_MAX, Revocation, RevocationKind};
pub use session::{SESSION_PAGE_MAX, SessionCertificate, StoredCookie, StoredSession};
pub use sign_in::{ServiceHandover, SignInFlow};
pub use signing_key::SealedKey;
pub use token::{RevokedToken, Use};
pub use spool::{Spool, SpoolSettings, SpoolState};
pub use spool_file::{SpoolError, is_volatile};
