//! Who is calling, proven: providers, client certificates, cookies and tokens; and the directory
//! of what this node knows about sessions and locks at this moment.

pub mod certificate;
pub mod directory;
pub mod token;
