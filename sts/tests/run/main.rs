//! Contract sts §23: what launchers ask for, on a real database and with real token endpoints over HTTPS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    unused_imports
)]

mod approvals;
mod credential;
#[path = "../support/https.rs"]
mod https;
#[path = "../providers/idp.rs"]
mod idp;
mod launcher;
mod manifest;
#[path = "../support/mod.rs"]
mod support;
