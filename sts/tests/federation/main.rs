//! Contract sts §21: users of an external issuer, and what leaves the installation to get its keys. The issuer is a
//! server of the test's own, over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod egress;
mod grants;
#[path = "../support/https.rs"]
mod https;
mod issuer;
mod keys;
mod refusals;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "other test binaries use the rest")]
mod support;
mod users;
