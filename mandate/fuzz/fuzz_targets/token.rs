//! Any bytes as a token: `cargo fuzz run token` in this folder's parent. The same code runs as an ordinary test.
#![no_main]

libfuzzer_sys::fuzz_target!(|token: &[u8]| caracal_mandate::jws::fuzz(token));
