//! Who is calling, proven: providers, client certificates, cookies and tokens; and the directory
//! of what this node knows about sessions and locks at this moment.

pub mod acting;
pub mod breakglass;
pub mod certificate;
pub mod cookie;
pub mod directory;
pub mod dpop;
pub mod dpop_nonce;
pub mod groups;
mod live_grant;
pub mod logout_token;
pub mod provider;
mod provider_claims;
mod provider_diagnosis;
mod provider_exchange;
mod provider_metadata;
pub mod session_use;
pub mod token;
pub mod workload;
