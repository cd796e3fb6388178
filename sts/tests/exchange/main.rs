//! The token exchange, the key set and the gateway feed over HTTP, on a real SQLite database.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod approvals;
mod audit;
mod authentication;
mod binding;
mod check;
mod claims;
mod control;
mod edge_cases;
mod epochs;
mod explain;
mod faults;
mod feed;
mod form;
mod gateway_signature;
mod internal_policy;
mod key_rotation;
mod mandates;
mod pages;
mod resources;
mod single_use;
mod subject;
#[path = "../support/mod.rs"]
mod support;
mod together;
mod weaknesses;
