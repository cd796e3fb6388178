//! Envoy bootstraps, rendered from typed options.
//!
//! [`render`] makes the whole configuration of one Envoy: a listener with the filter, the clusters that
//! the filter calls, and the singleton that follows the feed. Two shapes exist: the gateway in front of
//! all resources, and a sidecar in front of one. A gateway may also take its listener, routes and clusters
//! from the server in [`xds`], which follows the store. The result is JSON, which Envoy reads with
//! `--config-path` when the file's name ends in `.json`.
//!
//! The shared key is not in it: Envoy hands the filter the environment variable
//! [`KEY_VARIABLE`] of its own process.

mod bootstrap;
mod clusters;
mod connection_manager;
mod control;
pub mod lint;
mod local_reply;
mod node;
mod observe;
mod options;
mod secrets;
mod wasm;
pub mod xds;

pub use bootstrap::render;
pub use clusters::SERVICE_IDLE_SECONDS;
pub use options::{
    Admin, BootstrapOptions, ControlCredential, ControlNetwork, ControlPlace, ControlPlane, ControlSecrets,
    Endpoint, EndpointError, FeedSource, GatewayOptions, OnBacklog, Shape, SidecarOptions,
};
pub use secrets::{RenderedSecrets, render_secrets};

/// The environment variable of the Envoy process that holds the key shared with the STS and Audit, in
/// hex (contract gateway §A10).
pub const KEY_VARIABLE: &str = "CARACAL_GATEWAY_STS_HMAC_KEY";
