//! The HTTP connection manager: limits, filters and routes (contract gateway §D4).

use caracal_mandate::upstream::CLUSTER_PREFIX;
use serde_json::{Value, json};

use crate::clusters::{PLAIN, TLS, dns_cache};
use crate::options::{BootstrapOptions, Endpoint, GatewayOptions, Shape};
use crate::{control, local_reply, observe, wasm};

/// The name of the listener and of its routes.
pub(crate) const NAME: &str = "caracal";
/// The header by which the filter names the cluster. The filter takes it out of every inbound request.
pub(crate) const SELECTOR: &str = "x-caracal-upstream";
/// Resolves the host of the upstream.
const FORWARD_PROXY: &str = "envoy.filters.http.dynamic_forward_proxy";
/// Judges the address that the host resolved to.
const ADDRESS_GUARD: &str = "envoy.filters.http.rbac";

/// Networks that may never be an upstream (contract gateway §A14).
pub(crate) const RESTRICTED: &[(&str, u32)] = &[
    ("0.0.0.0", 32),
    ("169.254.0.0", 16),
    ("224.0.0.0", 4),
    ("::", 128),
    ("fe80::", 10),
    ("ff00::", 8),
    ("::ffff:0.0.0.0", 128),
    ("::ffff:169.254.0.0", 112),
    ("::ffff:224.0.0.0", 100),
    ("64:ff9b::", 128),
    ("64:ff9b::169.254.0.0", 112),
    ("64:ff9b::224.0.0.0", 100),
    ("64:ff9b:1::", 48),
    ("2002:a9fe::", 32),
    ("100.100.100.200", 32),
    ("168.63.129.16", 32),
    ("fd00:ec2::254", 128),
];

/// The network filter.
pub(crate) fn filter(options: &BootstrapOptions) -> Value {
    // Clusters of resources hold judged addresses, so nothing is left to resolve and to guard where they are used.
    let filters = match &options.shape {
        Shape::Gateway(GatewayOptions { control: None, .. }) => {
            vec![wasm::filter(options), forward_proxy(), address_guard(&options.protected), router()]
        }
        Shape::Gateway(_) | Shape::Sidecar(_) => vec![wasm::filter(options), router()],
    };
    let (source, routes) = match options.control() {
        None => ("route_config", routes(options)),
        Some(_) => ("rds", json!({"route_config_name": NAME, "config_source": control::source()})),
    };
    let mut filter = manager(options, &filters);
    if let Some(manager) = filter.get_mut("typed_config").and_then(Value::as_object_mut) {
        manager.insert(source.to_owned(), routes);
    }
    filter
}

/// The routes: one table for all resources, which stays as it is when they change.
pub(crate) fn routes(options: &BootstrapOptions) -> Value {
    let routes = match &options.shape {
        Shape::Gateway(GatewayOptions { control: None, .. }) => {
            let off = [wasm::FILTER, FORWARD_PROXY, ADDRESS_GUARD];
            vec![health(&off), ready(&off), selected(PLAIN), selected(TLS), nothing()]
        }
        Shape::Gateway(_) => {
            let off = [wasm::FILTER];
            vec![health(&off), ready(&off), of_resource(), nothing()]
        }
        Shape::Sidecar(_) => vec![upstream()],
    };
    json!({
        "name": NAME,
        "virtual_hosts": [{"name": NAME, "domains": ["*"], "routes": routes}],
    })
}

fn manager(options: &BootstrapOptions, filters: &[Value]) -> Value {
    let mut manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "caracal",
            "codec_type": "AUTO",
            "http2_protocol_options": {"max_concurrent_streams": 100},
            "use_remote_address": true,
            "skip_xff_append": matches!(options.shape, Shape::Gateway(_)),
            // The filter judges the path as it was sent; the operations of a resource are compared with it.
            "normalize_path": false,
            "merge_slashes": false,
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "max_request_headers_kb": 16,
            "common_http_protocol_options": {
                "idle_timeout": "120s",
                "max_headers_count": 100,
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "request_headers_timeout": "5s",
            "request_timeout": "45s",
            "stream_idle_timeout": "60s",
            "preserve_external_request_id": true,
            "always_set_request_id_in_response": true,
            "request_id_extension": {"typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": false,
                "use_request_id_for_trace_sampling": false,
            }},
            "server_header_transformation": "PASS_THROUGH",
            "access_log": observe::access_log(options),
            "local_reply_config": local_reply::config(),
            "http_filters": filters,
        },
    });
    // What Envoy lets upgrade, the filter judges.
    if let (false, Some(config)) =
        (options.upgrades.is_empty(), manager.get_mut("typed_config").and_then(Value::as_object_mut))
    {
        let upgrades = options.upgrades.iter().map(|protocol| json!({"upgrade_type": protocol})).collect();
        config.insert("upgrade_configs".to_owned(), upgrades);
    }
    manager
}

/// The filter and nobody else chose this cluster. Anything but an exact match falls through to
/// [`nothing`], so that a request that came past the filter goes nowhere.
fn selected(cluster: &str) -> Value {
    json!({
        "match": {"prefix": "/", "headers": [{"name": SELECTOR, "string_match": {"exact": cluster}}]},
        "route": {"cluster": cluster, "timeout": "0s", "idle_timeout": "60s"},
        "request_headers_to_remove": [SELECTOR],
    })
}

/// The filter and nobody else names the cluster of a resource. The prefix keeps the clusters of services out of reach of
/// a request that came past the filter.
fn of_resource() -> Value {
    json!({
        "match": {"prefix": "/", "headers": [{"name": SELECTOR, "string_match": {"prefix": CLUSTER_PREFIX}}]},
        "route": {"cluster_header": SELECTOR, "timeout": "0s", "idle_timeout": "60s"},
        "request_headers_to_remove": [SELECTOR],
    })
}

fn nothing() -> Value {
    json!({
        "match": {"prefix": "/"},
        "direct_response": local_reply::not_found(),
        "response_headers_to_add": [{
            "header": {"key": "content-type", "value": "application/json"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }],
    })
}

fn upstream() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s", "idle_timeout": "60s"}})
}

fn health(off: &[&str]) -> Value {
    json!({
        "match": {"path": "/health"},
        "direct_response": {"status": 200},
        "typed_per_filter_config": without_authority(off),
    })
}

fn ready(off: &[&str]) -> Value {
    json!({
        "match": {"path": "/ready"},
        "route": {"cluster": "sts", "timeout": "2s"},
        "typed_per_filter_config": without_authority(off),
    })
}

/// Operator paths: the only requests that need no mandate.
fn without_authority(off: &[&str]) -> Value {
    let disabled = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true, "config": {}});
    off.iter().map(|name| ((*name).to_owned(), disabled.clone())).collect::<serde_json::Map<_, _>>().into()
}

fn forward_proxy() -> Value {
    json!({
        "name": FORWARD_PROXY,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
            "dns_cache_config": dns_cache(),
            "save_upstream_address": true,
        },
    })
}

/// Refuses what a name resolved to when it may never be an upstream (contract gateway §A14). The filter
/// refuses the same addresses where they are written out.
fn address_guard(protected: &[Endpoint]) -> Value {
    let mut permissions: Vec<Value> =
        RESTRICTED.iter().map(|(prefix, length)| upstream_at(prefix, *length, None)).collect();
    for endpoint in protected {
        let bits = if endpoint.host.contains(':') { 128 } else { 32 };
        for (prefix, length) in
            [("127.0.0.0", 8), ("::ffff:127.0.0.0", 104), ("::1", 128), (endpoint.host.as_str(), bits)]
        {
            permissions.push(upstream_at(prefix, length, Some(endpoint.port)));
        }
    }
    json!({
        "name": ADDRESS_GUARD,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "DENY",
                "policies": {"restricted_address": {"permissions": permissions, "principals": [{"any": true}]}},
            },
        },
    })
}

/// Matches upstreams in a range of addresses, on one port where one is given.
fn upstream_at(prefix: &str, length: u32, port: Option<u16>) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher",
        "upstream_ip": {"address_prefix": prefix, "prefix_len": length},
    });
    if let (Some(port), Some(members)) = (port, config.as_object_mut()) {
        let range = json!({"start": port, "end": u32::from(port) + 1});
        members.insert("upstream_port_range".to_owned(), range);
    }
    json!({"matcher": {"name": "envoy.rbac.matchers.upstream_ip_port", "typed_config": config}})
}

fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            "suppress_envoy_headers": true,
        },
    })
}
