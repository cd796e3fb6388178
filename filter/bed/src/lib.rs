//! A test bed for the Envoy module: a host in memory that runs the module itself, and an issuer of its own.
//!
//! [`world`] is what the VMs of one Envoy share (time, shared data, metrics), [`vm`] one VM with its streams, [`process`] a
//! singleton and workers with their calls to clusters. Nothing here expects calls in any order: the host behaves like
//! Envoy, and tests look at what came of it. What the host's functions answer can be replaced by an error, one by one
//! ([`world::World::fail`]). [`fuzz`] throws anything at the module.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod abi;
pub mod chance;
pub mod cost;
pub mod fuzz;
pub mod issuer;
pub mod process;
pub mod stream;
pub mod vm;
mod wasi;
pub mod world;
