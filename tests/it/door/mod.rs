//! The door as a whole, from a client's first byte to what an upstream saw: each attack class of
//! the threat list that this stage speaks of, and what must work besides.

mod fixture;
mod framing;
mod headers;
mod paths;
mod streams;
mod tokens;
mod upstream;
