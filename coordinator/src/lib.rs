//! Agent sessions, their leases, and the delegations between them (contract coordinator).
//!
//! [`router`] answers what SDKs and operators ask; [`run_jobs`] ends what nobody ends: tasks past their time, services
//! that are not heard, delegations past their end; and removes what ended long ago. Every decision is taken inside the transaction that acts on it, and
//! there is one writer, so two decisions never see half of each other. What takes authority away leaves, in that same
//! transaction, a change for the gateways and an audit event.
#![forbid(unsafe_code)]

mod aliases;
mod api;
mod attempts;
mod authority;
mod body;
mod caller;
mod config;
mod constraints;
mod counters;
mod delegate;
mod delegations;
mod effective;
mod failure;
mod graph;
mod invocations;
mod job;
mod jobs;
mod lease;
#[cfg(test)]
mod no_record_tests;
mod outbox;
mod page;
mod rates;
mod receipt;
mod resume;
mod retention;
mod routes;
mod services;
mod sessions;
mod start;
mod stats;
mod subject;
mod together;
mod tree;
mod verify;

pub use api::{document, operations};
pub use config::{Config, Limits};
pub use counters::Counters;
pub use jobs::{
    end_late_attempts, expire_edges, expire_sessions, remove_old_rows, run_jobs, suspend_lost_services,
};
pub use rates::{Rates, limit_addresses};
pub use routes::router;
pub use together::Groups;
