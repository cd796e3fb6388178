//! Where Envoy connects to.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::options::{ControlNetwork, Endpoint};
use crate::{control, secrets};

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
    let cluster = json!({
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": limits(),
        "typed_extension_protocol_options": http_options(&http1(), Some(idle_seconds)),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(endpoint)}}]}],
        },
    });
    found(cluster, endpoint)
}

/// The cluster with how the address of its endpoint is found. Of a name that has addresses of both families Envoy would take
/// the newer ones, where services often do not listen.
pub(crate) fn found(mut cluster: Value, endpoint: &Endpoint) -> Value {
    if let Some(members) = cluster.as_object_mut() {
        if endpoint.is_address() {
            members.insert("type".to_owned(), json!("STATIC"));
        } else {
            members.insert("type".to_owned(), json!("STRICT_DNS"));
            members.insert("dns_lookup_family".to_owned(), json!("V4_PREFERRED"));
        }
    }
    cluster
}

/// The two clusters that go wherever `:authority` says.
pub(crate) fn dynamic(trusted_ca: &Path) -> [Value; 2] {
    // Envoy asks for both names even where there is no TLS: this is about the host it resolved.
    let names = json!({"auto_sni": true, "auto_san_validation": true});
    let plain = json!({
        "upstream_http_protocol_options": names,
        "explicit_http_config": {"http_protocol_options": {}},
    });
    let mut tls = http1_or_http2();
    if let Some(members) = tls.as_object_mut() {
        members.insert("upstream_http_protocol_options".to_owned(), names);
    }
    let mut secured = dynamic_cluster(TLS, &tls);
    if let Some(members) = secured.as_object_mut() {
        members.insert("transport_socket".to_owned(), tls_socket(trusted_ca, None));
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
        "typed_extension_protocol_options": http_options(options, Some(UPSTREAM_IDLE_SECONDS)),
        "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": dns_cache(),
            },
        },
    })
}

/// Where the requests of one resource go.
#[derive(Debug)]
pub(crate) enum Destination {
    /// To this address, which stands in the resource's URL.
    Address(SocketAddr),
    /// To the endpoints that are told under the cluster's name.
    Endpoints,
}

/// The cluster of one resource. It sends to addresses that were judged before, and with TLS to nobody but `host`.
pub(crate) fn resource(
    name: &str,
    statistics: &str,
    destination: &Destination,
    tls: Option<(&Path, &str)>,
) -> Value {
    let options = if tls.is_some() { http1_or_http2() } else { http1() };
    let mut cluster = json!({
        "name": name,
        "alt_stat_name": statistics,
        "connect_timeout": "5s",
        "circuit_breakers": limits(),
        "typed_extension_protocol_options": http_options(&options, Some(UPSTREAM_IDLE_SECONDS)),
    });
    let Some(members) = cluster.as_object_mut() else { return cluster };
    match destination {
        Destination::Address(address) => {
            members.insert("type".to_owned(), json!("STATIC"));
            members.insert("load_assignment".to_owned(), endpoints(name, &[*address]));
        }
        Destination::Endpoints => {
            members.insert("type".to_owned(), json!("EDS"));
            members.insert("lb_policy".to_owned(), json!("LEAST_REQUEST"));
            let eds = json!({"eds_config": control::source()});
            members.insert("eds_cluster_config".to_owned(), eds);
            members.insert("outlier_detection".to_owned(), ejection());
        }
    }
    if let Some((trusted_ca, host)) = tls {
        members.insert("transport_socket".to_owned(), tls_socket(trusted_ca, Some(host)));
    }
    cluster
}

/// The addresses of a name, as Envoy is told them.
pub(crate) fn endpoints(name: &str, addresses: &[SocketAddr]) -> Value {
    let endpoint = |known: &SocketAddr| json!({"endpoint": {"address": address(&Endpoint::from(*known))}});
    let all: Vec<Value> = addresses.iter().map(endpoint).collect();
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": all}]})
}

/// An address that cannot be connected to is left out for a while, as long as another is there. What the upstream
/// answers never counts: that is the caller's business.
fn ejection() -> Value {
    json!({
        "split_external_local_origin_errors": true,
        "consecutive_local_origin_failure": 3,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_percent": 50,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
    })
}

/// TLS that verifies the chain. `host` is the one that has to be there; `None` where the request names it. Without a
/// validation context Envoy would verify nothing.
fn tls_socket(trusted_ca: &Path, host: Option<&str>) -> Value {
    let context = verified_as(host, |mut validation| {
        if let Some(members) = validation.as_object_mut() {
            members.insert("trusted_ca".to_owned(), json!({"filename": trusted_ca.to_string_lossy()}));
        }
        json!({"validation_context": validation})
    });
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// The context of TLS towards this host. `common` makes what is common to both directions, from whom the certificate has
/// to name.
fn verified_as(host: Option<&str>, common: impl FnOnce(Value) -> Value) -> Value {
    let is_address = host.is_some_and(|host| host.parse::<std::net::IpAddr>().is_ok());
    let names = host.map_or_else(
        || json!({}),
        |host| {
            let kind = if is_address { "IP_ADDRESS" } else { "DNS" };
            json!({"match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": host}}]})
        },
    );
    let mut common = common(names);
    if let Some(members) = common.as_object_mut() {
        let versions = json!({"tls_minimum_protocol_version": "TLSv1_2"});
        members.insert("tls_params".to_owned(), versions);
    }
    let mut context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    });
    if let (Some(host), Some(members)) = (host.filter(|_| !is_address), context.as_object_mut()) {
        members.insert("sni".to_owned(), json!(host));
    }
    context
}

/// TLS to a control plane: it is verified by authority and host, and shown the certificate of this gateway. Files are named
/// by secrets, which Envoy follows; whom the certificate has to name stands here, whatever they say.
pub(crate) fn mutual_tls_socket(network: &ControlNetwork) -> Value {
    let mut context = verified_as(Some(&network.endpoint.host), |names| {
        json!({"combined_validation_context": {
            "default_validation_context": names,
            "validation_context_sds_secret_config": secrets::authority_source(network),
        }})
    });
    if let Some(common) = context.pointer_mut("/common_tls_context").and_then(Value::as_object_mut) {
        let certificate = json!([secrets::certificate_source(network)]);
        common.insert("tls_certificate_sds_secret_configs".to_owned(), certificate);
        common.insert("alpn_protocols".to_owned(), json!(["h2"]));
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn http1() -> Value {
    json!({"explicit_http_config": {"http_protocol_options": {}}})
}

fn http1_or_http2() -> Value {
    json!({"auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}})
}

fn limits() -> Value {
    json!({"thresholds": [{
        "max_connections": 4096,
        "max_pending_requests": 8192,
        "max_requests": 16384,
        "max_retries": 0,
    }]})
}

/// How a cluster speaks HTTP, and how long its connections may be idle.
pub(crate) fn http_options(protocol: &Value, idle_seconds: Option<u64>) -> Value {
    let mut options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    });
    if let (Some(members), Some(protocol)) = (options.as_object_mut(), protocol.as_object()) {
        members.extend(protocol.clone());
        if let Some(seconds) = idle_seconds {
            let common = json!({"idle_timeout": format!("{seconds}s")});
            members.insert("common_http_protocol_options".to_owned(), common);
        }
    }
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options})
}
