//! The door as a whole, from a client's first byte to what an upstream saw: each attack class of
//! the threat list that this stage speaks of, and what must work besides.

mod acting;
mod breakglass;
mod browser;
mod cardinality;
mod clock;
mod control;
mod emergency;
mod emergency_bad;
mod emergency_told;
mod ended;
mod exchange;
mod fixture;
mod framing;
mod grant_tokens;
mod grants;
mod headers;
mod health;
mod http2;
mod idle;
mod keys;
mod limits;
mod machines;
mod paths;
mod record;
mod reload;
mod replay;
mod revocation_scale;
mod step_up;
mod stock_jose;
mod streams;
mod tls;
mod tokens;
mod translation;
mod upstream;
mod upstream_lies;
