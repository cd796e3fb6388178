//! The whole bootstrap.

use serde_json::{Value, json};

use crate::options::{Admin, BootstrapOptions, FeedSource, GatewayOptions, Shape};
use crate::{clusters, connection_manager, control, node, observe, wasm};

/// The most connections that callers may hold open.
const MAX_DOWNSTREAM_CONNECTIONS: u32 = 16_384;

/// Renders the bootstrap.
#[must_use]
pub fn render(options: &BootstrapOptions) -> Value {
    let mut all = vec![clusters::service("sts", &options.sts), clusters::service("audit", &options.audit)];
    match &options.shape {
        Shape::Gateway(GatewayOptions { control: Some(control), .. }) => all.push(control::cluster(control)),
        Shape::Gateway(gateway) => all.extend(clusters::dynamic(&gateway.trusted_ca)),
        Shape::Sidecar(sidecar) => all.push(clusters::fixed("upstream", &sidecar.upstream)),
    }
    let mut resources = json!({ "clusters": all });
    if let (None, Some(members)) = (options.control(), resources.as_object_mut()) {
        members.insert("listeners".to_owned(), json!([listener(options)]));
    }
    let mut bootstrap = json!({
        "node": node::render(options),
        "admin": {"address": admin(&options.admin)},
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
            },
        }]},
        "stats_config": observe::stats(),
        "static_resources": resources,
    });
    if let (FeedSource::Singleton, Some(members)) = (options.feed, bootstrap.as_object_mut()) {
        members.insert("bootstrap_extensions".to_owned(), json!([wasm::singleton(options)]));
    }
    if let (Some(control), Some(members)) = (options.control(), bootstrap.as_object_mut()) {
        members.insert("dynamic_resources".to_owned(), control::resources(control));
    }
    bootstrap
}

/// The listener, with everything that stands behind it.
pub(crate) fn listener(options: &BootstrapOptions) -> Value {
    json!({
        "name": connection_manager::NAME,
        "address": clusters::address(&options.listener),
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "filter_chains": [{"filters": [connection_manager::filter(options)]}],
    })
}

fn admin(admin: &Admin) -> Value {
    match admin {
        Admin::Port(endpoint) => clusters::address(endpoint),
        Admin::Socket(path) => json!({"pipe": {"path": path, "mode": 0o600}}),
    }
}
