//! What the Admin API does (contract admin-audit), part by part. One program, because each is built for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs, dead_code, unreachable_pub)]

mod access;
mod administration;
mod approvals;
mod codes;
#[path = "../common/mod.rs"]
mod common;
mod configuration;
mod connections;
#[path = "../../../sts/tests/support/https.rs"]
mod https;
mod idp;
mod limits;
mod matrix;
mod policy;
mod provider_check;
mod provider_discovery;
mod reads;
mod revocations;
mod sinks;
