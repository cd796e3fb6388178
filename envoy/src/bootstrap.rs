//! The whole bootstrap.

use serde_json::{Value, json};

use crate::options::{Admin, BootstrapOptions, FeedSource, Shape};
use crate::{clusters, connection_manager, observe, wasm};

/// The most connections that callers may hold open.
const MAX_DOWNSTREAM_CONNECTIONS: u32 = 16_384;

/// Renders the bootstrap.
#[must_use]
pub fn render(options: &BootstrapOptions) -> Value {
    let mut all = vec![clusters::service("sts", &options.sts), clusters::service("audit", &options.audit)];
    match &options.shape {
        Shape::Gateway(gateway) => all.extend(clusters::dynamic(&gateway.trusted_ca)),
        Shape::Sidecar(sidecar) => all.push(clusters::fixed("upstream", &sidecar.upstream)),
    }
    let mut bootstrap = json!({
        "node": {"id": options.gateway_id, "cluster": "caracal"},
        "admin": {"address": admin(&options.admin)},
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
            },
        }]},
        "stats_config": observe::stats(),
        "static_resources": {
            "listeners": [{
                "name": "caracal",
                "address": clusters::address(&options.listener),
                "per_connection_buffer_limit_bytes": 1024 * 1024,
                "filter_chains": [{"filters": [connection_manager::filter(options)]}],
            }],
            "clusters": all,
        },
    });
    if let (FeedSource::Singleton, Some(members)) = (options.feed, bootstrap.as_object_mut()) {
        members.insert("bootstrap_extensions".to_owned(), json!([wasm::singleton(options)]));
    }
    bootstrap
}

fn admin(admin: &Admin) -> Value {
    match admin {
        Admin::Port(endpoint) => clusters::address(endpoint),
        Admin::Socket(path) => json!({"pipe": {"path": path, "mode": 0o600}}),
    }
}
