//! What the end-to-end tests share: a running Caracal with its Envoy, an upstream that counts, and the calls that
//! operators and agents make. Everything listens on ports that the system hands out and ends with the test.
//!
//! Run them with `cargo xtask test --e2e`, which builds what they need and says where it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod clock;
mod collector;
pub mod drill;
mod envoy;
mod leash;
mod link;
mod raw;
mod relay;
mod script;
mod stack;
mod stand_in;
mod tls;
mod tls_upstream;
mod upstream;
mod world;

pub use clock::Clock;
pub use collector::{Collector, TraceSpan};
pub use envoy::{Sidecar, change_filter, gateway_key, refused, sidecar_bootstrap, sidecar_options};
pub use leash::{Leash, Shared};
pub use link::{Link, LinkState};
pub use raw::{Answered, Raw, RawStream};
pub use relay::{Place, Relay};
pub use script::{Credentials, Script};
pub use stack::{Options, Stack, binary, envoy_binary, filter_module, python, trapping_filter_module};
pub use stand_in::{Feeding, Reply, StandIn, now_ms};
pub use tls_upstream::{Authority, TlsUpstream};
pub use upstream::{Seen, Upstream};
pub use world::{Agent, World};

/// The claims of a token; nothing is verified.
pub fn claims(token: &str) -> serde_json::Value {
    let jws = caracal_mandate::jws::CompactJws::split(token.as_bytes()).unwrap();
    serde_json::from_slice(&jws.payload().unwrap()).unwrap()
}
