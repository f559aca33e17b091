//! The emergency path: who the custodians are, whether enough of them signed a challenge, and the
//! client certificate that carries both (CONTRACT §8).
//!
//! INVARIANT: of such a certificate only key, challenge and signatures are read, and they are judged
//! by the configuration alone: no provider, no database, no authority.

pub mod certificate;
pub mod closing;
pub mod custodians;
pub mod quorum;
pub mod refusals;
pub mod settings;
pub mod state;

pub use certificate::{carries_opening, evidence_of};
pub use closing::{Closed, ClosedBy, ClosingError};
pub use custodians::{Custodians, CustodiansError};
pub use quorum::{Opening, OpeningRules, QuorumError, SignatureFault};
pub use refusals::{Telling, Untold};
pub use state::{ChannelOutcome, ChannelTest, EmergencyState, Happening, InForce, KnownOpening, Told};
