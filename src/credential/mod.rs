//! The mint: certificates and signed tokens. It makes and reads them; it never decides who gets
//! one, and stores nothing.

pub mod authority;
pub mod seal;
pub mod signing_key;
pub mod token;
