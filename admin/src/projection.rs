//! A flat choice of an event's fields (contract admin-audit §6.1, `fields`).

use crate::problem::Problem;
use serde_json::{Map, Value};

/// Fields of the event itself, by the name in the item.
const OF_EVENT: [(&str, &str); 11] = [
    ("id", "id"),
    ("occurred_at", "occurred_at"),
    ("event_type", "event_type"),
    ("decision", "decision"),
    ("evaluation_status", "evaluation_status"),
    ("request_id", "request_id"),
    ("ingested_at", "ingested_at"),
    ("policy_set_id", "policy_set_id"),
    ("policy_set_version_id", "policy_set_version_id"),
    ("manifest_sha", "manifest_sha"),
    ("determining_policies", "determining_policies_json"),
];

/// Fields of its metadata.
const OF_METADATA: [&str; 34] = [
    "application_id",
    "application_name",
    "resource",
    "requested_scopes",
    "agent_session_id",
    "agent_lifecycle",
    "agent_labels",
    "delegation_edge_id",
    "delegation_hop_count",
    "method",
    "latency_ms",
    "upstream_status",
    "result_class",
    "reason",
    "trace_id",
    "provider_id",
    "connection_id",
    "upstream_host",
    "gateway_status",
    "error_kind",
    "response_bytes",
    "auth_mode",
    "subject_fingerprint",
    "subject",
    "authorized_by",
    "command",
    "subcommand",
    "challenge_id",
    "tier",
    "approver_class",
    "privacy_mode",
    "approver_subject_id",
    "subject_anchor",
    "subject_kind",
];
const ISSUER: &str = "federated_user_issuer";

/// The chosen fields, in their order.
#[derive(Debug)]
pub(crate) struct Projection(Vec<String>);

impl Projection {
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let fields: Vec<String> =
            text.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned).collect();
        let known = |field: &str| {
            OF_EVENT.iter().any(|(name, _)| *name == field) || OF_METADATA.contains(&field) || field == ISSUER
        };
        match fields.iter().find(|field| !known(field)) {
            Some(field) => Err(Problem::invalid("invalid_fields").because(format!("{field} is no field"))),
            None if fields.is_empty() => Err(Problem::invalid("invalid_fields")),
            None => Ok(Self(fields)),
        }
    }

    /// The names of the chosen fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn apply(&self, item: &Value) -> Value {
        let mut flat = Map::new();
        for field in &self.0 {
            let value = match OF_EVENT.iter().find(|(name, _)| name == field) {
                Some(("determining_policies", member)) => names(item.get(*member)),
                Some((_, member)) => item.get(*member).cloned().unwrap_or_default(),
                None => {
                    item.get("metadata_json").and_then(|data| data.get(field)).cloned().unwrap_or_default()
                }
            };
            flat.insert(field.clone(), value);
        }
        Value::Object(flat)
    }
}

/// `[{"policy": name}]` as `[name]`.
fn names(policies: Option<&Value>) -> Value {
    let policies = policies.and_then(Value::as_array).into_iter().flatten();
    policies.filter_map(|policy| policy.get("policy")).cloned().collect()
}
