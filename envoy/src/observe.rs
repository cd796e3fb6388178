//! What operators see: reasons as labels of metrics, and the access log.

use serde_json::{Value, json};

use crate::options::BootstrapOptions;

/// Makes a label of the reason that stands at the end of a counter's name (`caracal_gateway_denials_total.reason.x`).
pub(crate) fn stats() -> Value {
    json!({"stats_tags": [{
        "tag_name": "reason",
        "regex": r"^wasmcustom\.caracal_gateway_[a-z_]+(\.reason\.([a-z0-9_]+))$",
    }]})
}

/// One line of JSON for each request, where the operator wants it. No path and no query: those may hold secrets.
pub(crate) fn access_log(options: &BootstrapOptions) -> Value {
    let Some(path) = &options.access_log else { return json!([]) };
    let state = |name: &str| format!("%FILTER_STATE(wasm.caracal.{name}:PLAIN)%");
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path.to_string_lossy(),
            "log_format": {"json_format": {
                "time": "%START_TIME%",
                "request_id": "%REQ(X-REQUEST-ID)%",
                "method": "%REQ(:METHOD)%",
                "status": "%RESPONSE_CODE%",
                "flags": "%RESPONSE_FLAGS%",
                "duration_ms": "%DURATION%",
                "bytes_received": "%BYTES_RECEIVED%",
                "bytes_sent": "%BYTES_SENT%",
                "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "subject": state("subject"),
                "application": state("application"),
                "session": state("session"),
                "decision_id": state("decision_id"),
                "reason": state("reason"),
            }},
        },
    }])
}
