//! The door as a whole, from a client's first byte to what an upstream saw: each attack class of
//! the threat list that this stage speaks of, and what must work besides.

mod breakglass;
mod browser;
mod emergency;
mod emergency_bad;
mod emergency_told;
mod exchange;
mod fixture;
mod framing;
mod grant_tokens;
mod grants;
mod headers;
mod limits;
mod paths;
mod record;
mod reload;
mod replay;
mod streams;
mod tls;
mod tokens;
mod upstream;
