//! Credentials of upstreams: real token endpoints over HTTPS, a real database, and the STS in front (contract sts §22).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unused_imports
)]

mod connections;
mod failures;
mod idp;
mod kinds;
mod sealing;
mod tokens;

#[path = "../support/https.rs"]
mod https;
#[path = "../support/mod.rs"]
mod support;
