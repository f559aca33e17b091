//! Any bytes into `cedar_context`: what must hold is said in `../../src/whole.rs`.
#![no_main]
#![allow(dead_code, reason = "each target takes one of them")]

#[path = "../../src/whole.rs"]
mod whole;

libfuzzer_sys::fuzz_target!(|data: &[u8]| whole::cedar_context(data));
