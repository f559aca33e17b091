//! Any bytes into `breakglass`: it answers or refuses, and never panics.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| doorward_fuzz::targets::breakglass(data));
