//! The evidence ledger.
//!
//! Whoever decides something leaves an event in the outbox, in the transaction of what it tells. The ledger takes the
//! events from there, in order, exactly once, and links the events of each zone into a chain ([`chain`]), so that a
//! row that was changed, removed or moved is found ([`verify`]) and kept as a finding ([`integrity`]). What is older than
//! it is kept goes from the beginning of a chain, and the chain says so ([`retention`]). Gateways have no disk: they number their events and
//! deliver them here; what never arrived is recorded as a gap. [`Ledger`] is the side that reads.
#![forbid(unsafe_code)]

mod api;
mod base;
pub mod canonical;
pub mod chain;
pub mod changes;
mod delivery;
mod gateway_events;
mod ingest;
pub mod integrity;
pub mod keyset;
pub mod query;
pub mod retention;
mod sealed;
mod service;
pub mod verify;

pub use api::{document, operations};
pub use query::Ledger;
pub use service::Audit;
