//! The module: once on every worker as a filter, once on the main thread as the feed's singleton.

use serde_json::{Value, json};

use crate::KEY_VARIABLE;
use crate::options::{BootstrapOptions, FeedSource, OnBacklog, Shape};

/// The name of the filter in the chain, by which a route can switch it off.
pub(crate) const FILTER: &str = "caracal";
/// Filter and singleton share data because they share this id. It never changes: a new id would be a
/// new, empty store.
const VM_ID: &str = "caracal";

/// The HTTP filter.
pub(crate) fn filter(options: &BootstrapOptions) -> Value {
    let mut config = plugin(options, "caracal-filter", &filter_configuration(options));
    if let (true, Some(members)) = (options.mcp, config.as_object_mut()) {
        // Without it Envoy shows the module no body before the headers have passed.
        members.insert("allow_on_headers_stop_iteration".to_owned(), json!(true));
    }
    json!({
        "name": FILTER,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": config,
        },
    })
}

/// The bootstrap extension.
pub(crate) fn singleton(options: &BootstrapOptions) -> Value {
    let configuration = json!({
        "service": "feed",
        "gateway_id": options.gateway_id,
        "sts": {"cluster": "sts", "authority": "sts"},
        "wait_s": options.feed_wait_s,
    });
    json!({
        "name": "envoy.bootstrap.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.wasm.v3.WasmService",
            "singleton": true,
            "config": plugin(options, "caracal-feed", &configuration),
        },
    })
}

fn plugin(options: &BootstrapOptions, name: &str, configuration: &Value) -> Value {
    json!({
        "name": name,
        "root_id": name,
        // A VM that trapped is made anew; until then, and while it is empty, every request is refused.
        "failure_policy": "FAIL_RELOAD",
        "reload_config": {"backoff": {"base_interval": "1s", "max_interval": "10s"}},
        "vm_config": {
            "vm_id": VM_ID,
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": options.module.to_string_lossy()}},
            "environment_variables": {"host_env_keys": [KEY_VARIABLE]},
        },
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": configuration.to_string(),
        },
    })
}

fn filter_configuration(options: &BootstrapOptions) -> Value {
    let on_backlog = match options.on_backlog {
        OnBacklog::Allow => "allow",
        OnBacklog::Deny => "deny",
    };
    let mut configuration = json!({
        "gateway_id": options.gateway_id,
        "sts": {"cluster": "sts", "authority": "sts"},
        "audit": {
            "cluster": "audit",
            "authority": "audit",
            "on_backlog": on_backlog,
            "capacity": options.evidence_capacity,
        },
        "max_feed_age_ms": options.max_feed_age_ms,
        "max_body_bytes": options.max_body_bytes,
        // What nobody reads is not written: each of these is a call of the host's for every request.
        "filter_state": options.access_log.is_some(),
        // The connection manager does it.
        "response_request_id": false,
    });
    if let (FeedSource::Workers, Some(members)) = (options.feed, configuration.as_object_mut()) {
        members.insert("feed".to_owned(), json!("worker"));
        members.insert("feed_wait_s".to_owned(), json!(options.feed_wait_s));
    }
    if let (true, Some(members)) = (options.mcp, configuration.as_object_mut()) {
        members.insert("mcp".to_owned(), json!(true));
    }
    if let (false, Some(members)) = (options.upgrades.is_empty(), configuration.as_object_mut()) {
        members.insert("upgrades".to_owned(), json!(options.upgrades));
    }
    let specific = match &options.shape {
        Shape::Gateway(gateway) => {
            let mut specific = json!({"role": "gateway", "binding": "header"});
            if let (Some(zone), Some(members)) = (&gateway.zone, specific.as_object_mut()) {
                members.insert("zone".to_owned(), json!(zone));
            }
            if let (Some(_), Some(members)) = (&gateway.control, specific.as_object_mut()) {
                members.insert("clusters".to_owned(), json!("resource"));
            }
            specific
        }
        Shape::Sidecar(sidecar) => json!({
            "role": "resource",
            "binding": {"fixed": {"zone": sidecar.zone, "resource": sidecar.resource}},
            "forward_mandate": sidecar.forward_mandate,
            "dry_run": sidecar.dry_run,
        }),
    };
    if let (Some(members), Value::Object(specific)) = (configuration.as_object_mut(), specific) {
        members.extend(specific);
    }
    configuration
}
