//! The Envoy module: host calls in, a verdict out.
//!
//! [`host`] is the boundary to Envoy, [`root`] what a VM holds, [`request`] the life of one request.
//! All decisions are made by `caracal-mandate`; this crate brings it what it needs and acts on what it
//! says.

mod abi;
mod bind;
pub mod circuit;
pub mod config;
pub mod crypto;
mod discovery;
#[cfg_attr(not(target_arch = "wasm32"), expect(dead_code, reason = "only a host calls it"))]
mod dispatch;
#[cfg(target_arch = "wasm32")]
mod entry;
pub mod event;
pub mod evidence;
pub mod exchange;
pub mod feed;
mod fields;
pub mod forward;
mod headers;
pub mod host;
mod jwt_authn;
pub mod known;
pub mod live;
mod members;
#[cfg(target_arch = "wasm32")]
mod memory;
pub mod metrics;
pub mod pause;
pub mod pure;
pub mod record;
pub mod reply;
pub mod request;
pub mod root;
pub mod signed;
pub mod snapshot;
pub mod wire;
