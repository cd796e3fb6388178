//! The configurations that the filter is compared with, and its own.

use crate::error::Error;
use crate::stack::{Binaries, Stack};
use crate::world::{RESOURCE, World};
use caracal_envoy::{BootstrapOptions, Endpoint, Shape, SidecarOptions, render};
use caracal_mandate::id::{GatewayId, ResourceIdentifier, ZoneId};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

/// How many verified tokens the native cache may hold: as many as the filter's.
const CACHED_TOKENS: u32 = 4096;

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip().to_string(), address.port())
}

/// The most events that a worker may hold. On few processors the load takes what Audit needs to keep up with it.
const MOST_EVENTS: u32 = 100_000;

/// The filter in front of one resource, as an operator renders it.
pub(crate) fn filter(
    binaries: &Binaries,
    stack: &Stack,
    world: &World,
    upstream: SocketAddr,
) -> Result<Value, Error> {
    let wrong = |error: caracal_mandate::id::IdError| Error::answer("an id", error.to_string());
    let shape = Shape::Sidecar(SidecarOptions {
        zone: ZoneId::new(world.zone.as_str()).map_err(wrong)?,
        resource: ResourceIdentifier::new(RESOURCE).map_err(wrong)?,
        upstream: endpoint(upstream),
        forward_mandate: true,
        dry_run: false,
    });
    let module = std::path::absolute(&binaries.filter).map_err(Error::file(&binaries.filter))?;
    let mut options = BootstrapOptions::new(GatewayId::new("bench").map_err(wrong)?, shape, module);
    options.listener = Endpoint::loopback(0);
    options.sts = endpoint(stack.addresses.sts);
    options.audit = endpoint(stack.addresses.audit);
    options.evidence_capacity = MOST_EVENTS;
    Ok(render(&options))
}

/// The same, but a connection whose answer was cut off is closed at once. Envoy would keep it for a second, so that its
/// caller may still read what was sent, and whoever measures by such a connection would measure that second.
pub(crate) fn closing_at_once(mut filter: Value) -> Value {
    if let Some(manager) = manager(&mut filter) {
        manager.insert("delayed_close_timeout".into(), json!("0s"));
    }
    filter
}

fn manager(bootstrap: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    bootstrap.pointer_mut(manager).and_then(Value::as_object_mut)
}

/// What the filter's Envoy does, without the filter and with these before the router.
fn plain(filter: &Value, others: Vec<Value>) -> Value {
    let mut bootstrap = filter.clone();
    if let Some(members) = bootstrap.as_object_mut() {
        members.remove("bootstrap_extensions");
    }
    let Some(manager) = manager(&mut bootstrap) else { return bootstrap };
    // It is about what the filter does not answer by itself, and takes Envoy's own 403 for something else.
    manager.remove("local_reply_config");
    if let Some(Value::Array(filters)) = manager.get_mut("http_filters") {
        let router = filters.pop();
        *filters = others;
        filters.extend(router);
    }
    bootstrap
}

/// This module, which knows nothing of Caracal, and nothing else.
pub(crate) fn module(filter: &Value, module: &Path) -> Value {
    let wasm = json!({
        "name": "module",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {"name": "module", "vm_config": {
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": module.to_string_lossy()}},
            }},
        },
    });
    plain(filter, vec![wasm])
}

/// No filter at all.
pub(crate) fn bare(filter: &Value) -> Value {
    plain(filter, Vec::new())
}

/// Envoy's own verification of the token, and its own rule on method, path and scope.
pub(crate) fn native(filter: &Value, issuer: &str, jwks: &str, is_cached: bool) -> Value {
    let mut provider = json!({
        "issuer": issuer,
        "audiences": [RESOURCE],
        "local_jwks": {"inline_string": jwks},
        "forward": true,
        "payload_in_metadata": "mandate",
        "clock_skew_seconds": 1,
    });
    if let (true, Some(members)) = (is_cached, provider.as_object_mut()) {
        members.insert("jwt_cache_config".into(), json!({"jwt_cache_size": CACHED_TOKENS}));
    }
    let jwt_authn = json!({
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"sts": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "sts"}}],
        },
    });
    let policy = |method: &str, scope: &str| {
        json!({
            "permissions": [{"and_rules": {"rules": [
                {"header": {"name": ":method", "string_match": {"exact": method}}},
                {"url_path": {"path": {"exact": "/v1/orders"}}},
            ]}}],
            "principals": [{"sourced_metadata": {"metadata_matcher": {
                "filter": "envoy.filters.http.jwt_authn",
                "path": [{"key": "mandate"}, {"key": "scope"}],
                "value": {"string_match": {"contains": scope}},
            }}}],
        })
    };
    let rbac = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {
                "read": policy("GET", "orders:read"),
                "write": policy("POST", "orders:write"),
            }},
        },
    });
    plain(filter, vec![jwt_authn, rbac])
}

/// A service beside Envoy that is asked about every request.
pub(crate) fn asking(filter: &Value, service: SocketAddr) -> Value {
    let mut bootstrap = plain(
        filter,
        vec![json!({
            "name": "envoy.filters.http.ext_authz",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
                "http_service": {"server_uri": {
                    "uri": format!("http://{service}"), "cluster": "authz", "timeout": "1s",
                }},
            },
        })],
    );
    if let Some(Value::Array(clusters)) = bootstrap.pointer_mut("/static_resources/clusters") {
        clusters.push(json!({
            "name": "authz", "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "authz", "endpoints": [{"lb_endpoints": [{"endpoint": {
                "address": {"socket_address": {"address": service.ip().to_string(), "port_value": service.port()}},
            }}]}]},
        }));
    }
    bootstrap
}
