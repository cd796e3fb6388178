//! The policy engine against contract sts §14 and §15 and contract admin-audit §5.10.

// Helpers outside test functions fail the test that calls them.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod bundle;
mod decision;
mod differential;
mod document;
mod edge_cases;
mod input;
mod support;
