//! The shapes of what the Coordinator takes and answers.

use caracal_store::openapi::schema::{
    any, extended, flag, id, list, list_of, matching, maybe, number, number_of, object, one_of, open_object,
    problem, text, text_of, time, without,
};
use serde_json::{Value, json};

fn members() -> Value {
    json!({ "type": "object" })
}

/// What a delegation is asked for with (contract coordinator §6).
pub(super) fn delegation_request() -> Value {
    let scope = matching("^[!#-\\[\\]-~]{1,200}$");
    let constraints = object(&[
        ("resources?", list_of(text(), 0, 64)),
        ("max_depth?", number_of(1, 10)),
        ("max_hops?", number_of(1, 10)),
        ("ttl_seconds?", number_of(1, 86_400)),
        ("policy_approved?", flag()),
        ("expires_at?", time()),
        ("broad_reason?", text_of(1, 256)),
    ]);
    open_object(&[
        ("source_session_id", id()),
        ("target_session_id", id()),
        ("issuer_application_id", id()),
        ("receiver_application_id", id()),
        ("parent_edge_id?", id()),
        ("resource_id?", maybe(text_of(1, 512))),
        ("scopes?", list(scope)),
        ("ttl_seconds?", number_of(1, 86_400)),
        ("expires_at?", time()),
        ("constraints?", constraints.clone()),
        ("constraints_json?", constraints),
    ])
}

/// What a service is registered with.
pub(super) fn registration() -> Value {
    open_object(&[
        ("application_id", id()),
        ("endpoint_url", text_of(1, 2048)),
        ("protocol_versions?", list(text())),
        ("framework?", open_object(&[("name", text()), ("version?", text())])),
        ("capabilities?", list(text())),
        ("metadata?", members()),
    ])
}

/// What a service is asked for with.
pub(super) fn invocation_request() -> Value {
    let retry = open_object(&[("max_attempts?", number_of(1, 10)), ("backoff_ms?", number_of(0, 300_000))]);
    open_object(&[
        ("service_id", text_of(1, 255)),
        ("method", text_of(1, 255)),
        ("idempotency_key", text_of(1, 128)),
        ("source_session_id?", maybe(id())),
        ("target_session_id?", maybe(id())),
        ("params?", any()),
        ("metadata?", members()),
        ("timeout_ms?", number_of(1, 900_000)),
        ("retry_policy?", retry),
    ])
}

fn session() -> Value {
    object(&[
        ("agent_session_id", id()),
        ("zone_id", id()),
        ("application_id", id()),
        ("parent_id", maybe(id())),
        ("subject_authority_record_id", id()),
        ("lifecycle", one_of(&["task", "service"])),
        ("labels", list(text())),
        ("status", one_of(&["active", "suspended", "terminated", "expired"])),
        ("depth", number()),
        ("ttl_seconds", maybe(number())),
        ("metadata", any()),
        ("started_at", time()),
        ("terminated_at", maybe(time())),
        ("termination_reason", maybe(text())),
        ("last_heartbeat_at", maybe(time())),
        ("heartbeat_deadline_at", maybe(time())),
        ("lease_generation", number()),
    ])
}

fn delegation() -> Value {
    object(&[
        ("id", id()),
        ("zone_id", id()),
        ("source_session_id", id()),
        ("target_session_id", id()),
        ("issuer_application_id", id()),
        ("receiver_application_id", id()),
        ("parent_edge_id", maybe(id())),
        ("resource_id", maybe(id())),
        ("scopes", list(text())),
        ("constraints_json", any()),
        ("status", text()),
        ("expires_at", time()),
        ("edge_version", number()),
        ("revoked_at", maybe(time())),
        ("created_at", time()),
    ])
}

fn invocation() -> Value {
    object(&[
        ("id", id()),
        ("zone_id", id()),
        ("service_id", text()),
        ("source_session_id", maybe(id())),
        ("target_session_id", maybe(id())),
        ("method", text()),
        ("status", text()),
        ("attempts", number()),
        ("max_attempts", number()),
        ("timeout_ms", number()),
        ("retry_policy_json", any()),
        ("deadline_at", maybe(time())),
        ("cancel_requested_at", maybe(time())),
        ("started_at", maybe(time())),
        ("completed_at", maybe(time())),
        ("created_at", maybe(time())),
    ])
}

fn service() -> Value {
    object(&[
        ("id", id()),
        ("zone_id", id()),
        ("application_id", id()),
        ("endpoint_url", text()),
        ("protocol_versions", list(text())),
        ("framework_name", maybe(text())),
        ("framework_version", maybe(text())),
        ("capabilities", list(text())),
        ("health", text()),
        // For whose it is, and operators.
        ("metadata_json?", any()),
        ("last_heartbeat_at", maybe(time())),
    ])
}

/// All of them, by name.
pub(super) fn components() -> Vec<(&'static str, Value)> {
    let started = extended(
        &without(&session(), &["metadata", "terminated_at", "termination_reason"]),
        &[("delegation_edge_id", maybe(id()))],
    );
    let new_delegation = extended(
        &without(&delegation(), &["id"]),
        &[
            ("delegation_edge_id", id()),
            ("warnings", list(text())),
            ("allow_reason", list(text())),
            ("effective_authority", members()),
        ],
    );
    let effective = object(&[
        ("agent_session_id", id()),
        ("inbound_edges", list(id())),
        ("effective_scopes", list(text())),
        ("effective_resources", list(text())),
        ("effective_resource_ids?", list(id())),
        ("effective_resource_constrained?", flag()),
        ("effective_max_hops", number()),
        ("effective_ttl_seconds", maybe(number())),
        ("earliest_expires_at", maybe(time())),
    ]);
    let impact = object(&[
        ("edge_id", id()),
        ("affected_edges", list(id())),
        ("affected_sessions", list(id())),
        ("affected_agents", list(id())),
        ("affected_authority_records", list(id())),
        ("affected_subject_sessions", list(id())),
    ]);
    let with_parameters =
        extended(&invocation(), &[("params_json", any()), ("metadata_json", any()), ("error_json", any())]);
    let entry = object(&[
        ("id", text()),
        ("status", text()),
        ("topic", text()),
        ("event", text()),
        ("created_at", time()),
    ]);
    vec![
        ("Problem", problem()),
        ("AgentSession", session()),
        ("StartedSession", started),
        ("ChildSession", without(&session(), &["terminated_at", "termination_reason", "lease_generation"])),
        ("Delegation", delegation()),
        ("DelegationWithReason", extended(&delegation(), &[("broad_reason", maybe(text()))])),
        ("NewDelegation", new_delegation),
        ("EffectiveAuthority", effective),
        ("Impact", impact),
        ("AgentService", service()),
        ("Invocation", invocation()),
        ("InvocationWithParameters", with_parameters),
        ("OutboxEntry", entry),
    ]
}
