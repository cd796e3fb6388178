//! Where an Envoy gets its configuration from, when it does not stand in its bootstrap: one stream of increments for
//! everything (ADS, delta), over a Unix socket or by mutual TLS, with a credential that is good for this gateway alone.

use serde_json::{Value, json};

use crate::clusters;
use crate::options::{ControlPlace, ControlPlane};

/// The cluster of the control plane.
const CLUSTER: &str = "xds";
/// The metadata that carries the credential.
pub(crate) const CREDENTIAL: &str = "authorization";
/// What stands before it.
pub(crate) const SCHEME: &str = "Bearer ";

/// The cluster that leads to it. A control plane that hangs is noticed, and the stream begun anew.
pub(crate) fn cluster(control: &ControlPlane) -> Value {
    let http2 = json!({"explicit_http_config": {"http2_protocol_options": {
        "connection_keepalive": {"interval": "30s", "timeout": "10s"},
    }}});
    let address = match &control.place {
        ControlPlace::Network(network) => clusters::address(&network.endpoint),
        ControlPlace::Socket(path) => json!({"pipe": {"path": path.to_string_lossy()}}),
    };
    let mut cluster = json!({
        "name": CLUSTER,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": clusters::http_options(&http2, None),
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    });
    if let ControlPlace::Network(network) = &control.place {
        cluster = clusters::found(cluster, &network.endpoint);
        if let Some(members) = cluster.as_object_mut() {
            members.insert("transport_socket".to_owned(), clusters::mutual_tls_socket(network));
        }
    }
    cluster
}

/// What comes from it.
pub(crate) fn resources(control: &ControlPlane) -> Value {
    json!({
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{
                "envoy_grpc": {"cluster_name": CLUSTER},
                "initial_metadata": [{"key": CREDENTIAL, "value": format!("{SCHEME}{}", control.credential.0)}],
            }],
        },
        "lds_config": source(),
        "cds_config": source(),
    })
}

/// A reference to the one stream.
pub(crate) fn source() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}
