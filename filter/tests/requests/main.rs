//! What the filter does with requests, natively, on a host in memory. One program, because each is built for itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod gateway;
mod jwt_authn;
mod local;
mod mcp;
mod operator;
mod resource;
mod support;
mod traces;
mod upgrade;
