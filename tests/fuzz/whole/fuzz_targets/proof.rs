//! Any bytes into `proof`: what must hold is said in `../../src/whole.rs`.
#![no_main]
#![allow(dead_code, reason = "each target takes one of them")]

#[path = "../../src/whole.rs"]
mod whole;

libfuzzer_sys::fuzz_target!(|data: &[u8]| whole::proof(data));
