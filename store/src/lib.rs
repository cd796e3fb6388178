//! What the services share to persist and talk.
//!
//! [`Store`] is the door: reads go to a pool, writes go through one [`writer`](Writer) that puts many requests into one
//! transaction and answers none of them before the commit. What takes authority away is recorded through
//! [`WriteTx::record_change`], which raises the zone's epoch and leaves a row in the change log in that same
//! transaction; what is decided leaves its audit event there too.
#![forbid(unsafe_code)]

pub mod audit;
pub mod change;
pub mod clock;
pub mod config;
pub mod connection;
pub mod database;
pub mod egress;
mod file;
pub mod http;
pub mod ids;
pub mod internal;
pub mod keys;
pub mod limits;
pub mod many;
pub mod metrics;
pub mod model;
pub mod once;
pub mod openapi;
mod planner;
pub mod revoke;
pub mod secrets;
pub mod settings;
pub mod shares;
mod sqlite;
pub mod telemetry;
mod together;
pub mod trace;
pub mod writer;

pub use connection::{Reader, SqlConnection};
pub use database::{Store, StoreError};
pub use together::Together;
pub use writer::{WriteTx, Writer};
