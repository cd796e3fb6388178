//! The official Python packages 1.0.0, unmodified, against everything that is real.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod admin;
mod agents;
mod approvals;
mod authority;
mod federation;
mod services;
mod verify;
