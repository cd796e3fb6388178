//! A test bed for the Envoy module.
//!
//! [`issuer`] makes zones, keys and mandates of a test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod issuer;
