//! What callers see when Envoy itself answers: the same JSON as the filter's (contract gateway §A17).
//!
//! The filter's own answers also pass here and must stay as they are, so every rule names what only
//! Envoy does: a response flag, or the details of the answer.

use serde_json::{Value, json};

/// The configuration.
pub(crate) fn config() -> Value {
    json!({
        "mappers": [
            // NC: the resource has no cluster (yet), or may not have one.
            mapper(&flags(&["DF", "NC"]), Some(502), "internal_error", "upstream not addressable"),
            mapper(&flags(&["UT"]), Some(504), "internal_error", "upstream timeout"),
            // Idle after the whole request was read: the upstream is what everybody waits for.
            mapper(&both(&flags(&["SI"]), &status(504)), None, "internal_error", "upstream timeout"),
            mapper(
                &flags(&["UF", "UH", "UC", "UR", "UO", "URX", "LR", "UPE"]),
                Some(502),
                "internal_error",
                "upstream unreachable",
            ),
            mapper(&details("startsWith('rbac_access_denied')"), Some(502), "internal_error", "upstream not addressable"),
            mapper(&details("contains('wasm_fail_stream')"), None, "sts_unavailable", "authority filter is restarting"),
            mapper(&details("contains('upgrade_failed')"), None, "access_denied", "upgrade not supported"),
            mapper(&status(413), None, "payload_too_large", "request body too large"),
            mapper(&status(431), None, "invalid_token", "request headers too large"),
            mapper(&flags(&["DPE", "SI", "OM", "DO"]), None, "internal_error", "request not acceptable"),
        ],
    })
}

/// The answer of the route that nothing may reach.
pub(crate) fn not_found() -> Value {
    json!({
        "status": 404,
        "body": {"inline_string": "{\"error\":\"resource_not_found\",\"error_description\":\"no route\"}\n"},
    })
}

fn mapper(filter: &Value, status: Option<u16>, error: &str, description: &str) -> Value {
    let mut mapper = json!({
        "filter": filter,
        "body_format_override": {
            "content_type": "application/json",
            "json_format": {
                "error": error,
                "error_description": description,
                "requestId": "%REQ(X-REQUEST-ID)%",
            },
        },
    });
    if let (Some(status), Some(members)) = (status, mapper.as_object_mut()) {
        members.insert("status_code".to_owned(), json!(status));
    }
    mapper
}

fn flags(flags: &[&str]) -> Value {
    json!({"response_flag_filter": {"flags": flags}})
}

fn both(one: &Value, other: &Value) -> Value {
    json!({"and_filter": {"filters": [one, other]}})
}

/// The filter's own 413 and 431 carry the same meaning, so the status is enough.
fn status(code: u16) -> Value {
    json!({"status_code_filter": {"comparison": {
        "op": "EQ",
        "value": {"default_value": code, "runtime_key": "caracal.never_set"},
    }}})
}

fn details(test: &str) -> Value {
    json!({"extension_filter": {
        "name": "envoy.access_loggers.extension_filters.cel",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            "expression": format!("response.code_details.{test}"),
        },
    }})
}
