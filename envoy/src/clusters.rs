//! Where Envoy connects to.

use std::path::Path;

use serde_json::{Value, json};

use crate::options::Endpoint;

/// The cluster for upstreams without TLS that the STS names.
pub(crate) const PLAIN: &str = "dfp_plain";
/// The cluster for upstreams with TLS that the STS names.
pub(crate) const TLS: &str = "dfp_tls";

/// How long a connection to the STS or to Audit may be idle before Envoy ends it, seconds. They end theirs after 60 s:
/// if Envoy were not first, a request could meet a connection that is just being ended, and be lost.
pub const SERVICE_IDLE_SECONDS: u64 = 45;
/// How long a connection to anything else may be idle, seconds.
const UPSTREAM_IDLE_SECONDS: u64 = 90;

/// A cluster with one endpoint.
pub(crate) fn fixed(name: &str, endpoint: &Endpoint) -> Value {
    one_endpoint(name, endpoint, UPSTREAM_IDLE_SECONDS)
}

/// A cluster with one of our own services.
pub(crate) fn service(name: &str, endpoint: &Endpoint) -> Value {
    one_endpoint(name, endpoint, SERVICE_IDLE_SECONDS)
}

fn one_endpoint(name: &str, endpoint: &Endpoint, idle_seconds: u64) -> Value {
    let numeric = endpoint.host.parse::<std::net::IpAddr>().is_ok();
    json!({
        "name": name,
        "type": if numeric { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "5s",
        "circuit_breakers": limits(),
        "typed_extension_protocol_options": http_options(&json!({"explicit_http_config": {"http_protocol_options": {}}}), idle_seconds),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(endpoint)}}]}],
        },
    })
}

/// The two clusters that go wherever `:authority` says.
pub(crate) fn dynamic(trusted_ca: &Path) -> [Value; 2] {
    // Envoy asks for both names even where there is no TLS: this is about the host it resolved.
    let names = json!({"auto_sni": true, "auto_san_validation": true});
    let plain = json!({
        "upstream_http_protocol_options": names,
        "explicit_http_config": {"http_protocol_options": {}},
    });
    let tls = json!({
        "upstream_http_protocol_options": names,
        "auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
    });
    let mut secured = dynamic_cluster(TLS, &tls);
    if let Some(members) = secured.as_object_mut() {
        // Without a validation context Envoy would verify nothing.
        let socket = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                    "validation_context": {"trusted_ca": {"filename": trusted_ca.to_string_lossy()}},
                },
            },
        });
        members.insert("transport_socket".to_owned(), socket);
    }
    [dynamic_cluster(PLAIN, &plain), secured]
}

/// The name resolution that the dynamic clusters and their filter share.
pub(crate) fn dns_cache() -> Value {
    json!({
        "name": "caracal_upstreams",
        "dns_lookup_family": "V4_PREFERRED",
        "max_hosts": 1024,
        "host_ttl": "300s",
        "dns_query_timeout": "5s",
    })
}

/// An address as Envoy writes it.
pub(crate) fn address(endpoint: &Endpoint) -> Value {
    json!({"socket_address": {"address": endpoint.host, "port_value": endpoint.port}})
}

fn dynamic_cluster(name: &str, options: &Value) -> Value {
    json!({
        "name": name,
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "circuit_breakers": limits(),
        "typed_extension_protocol_options": http_options(options, UPSTREAM_IDLE_SECONDS),
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": dns_cache(),
            },
        },
    })
}

fn limits() -> Value {
    json!({"thresholds": [{
        "max_connections": 4096,
        "max_pending_requests": 8192,
        "max_requests": 16384,
        "max_retries": 0,
    }]})
}

fn http_options(protocol: &Value, idle_seconds: u64) -> Value {
    let mut options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"idle_timeout": format!("{idle_seconds}s")},
    });
    if let (Some(members), Some(protocol)) = (options.as_object_mut(), protocol.as_object()) {
        members.extend(protocol.clone());
    }
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options})
}
