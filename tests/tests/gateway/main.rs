//! Requests through a real Envoy with the filter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod examples;
mod governed_request;
mod local;
mod mcp;
mod mesh;
mod observed;
mod providers;
mod sidecar;
mod traces;
mod trap;
mod websocket;
