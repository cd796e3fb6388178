//! What operators do with Caracal, and what they see of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod apply;
mod command_line;
mod documented;
mod metrics;
mod openapi;
mod operator;
mod secrets;
mod settings;
mod tampering;
