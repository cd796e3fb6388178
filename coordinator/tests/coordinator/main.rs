//! The Coordinator on a real SQLite file, with real signed mandates, through its router.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod cascade;
mod codes;
mod delegation;
mod edge_cases;
mod faq;
mod idempotency;
mod identity;
mod invocations;
mod jobs;
mod lease;
mod live_sessions;
mod mint;
mod property;
mod retention;
mod services;
mod session;
mod stats;
mod support;
mod together;
mod verify;
mod weaknesses;
