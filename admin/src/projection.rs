//! A flat choice of fields of events and of changes (contract admin-audit §6.1 and §6.6, `fields`).

use crate::page::Params;
use crate::problem::Problem;
use serde_json::{Map, Value};

/// What can be chosen of a kind of item.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Fields of the item itself, with the member that each is taken from.
    own: &'static [(&'static str, &'static str)],
    /// The member that the other fields stand in.
    within: &'static str,
    /// The other fields.
    inner: &'static [&'static str],
}

/// Of events.
pub(crate) static OF_EVENTS: Fields = Fields {
    own: &[
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
    ],
    within: "metadata_json",
    inner: &[
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
        "federated_user_issuer",
    ],
};

/// Of the record of changes.
pub(crate) static OF_CHANGES: Fields = Fields {
    own: &[
        ("id", "id"),
        ("request_id", "request_id"),
        ("actor_id", "actor_id"),
        ("actor_name", "actor_name"),
        ("actor_scope", "actor_scope"),
        ("action", "action"),
        ("method", "method"),
        ("path", "path"),
        ("entity_type", "entity_type"),
        ("entity_id", "entity_id"),
        ("status_code", "status_code"),
        ("occurred_at", "occurred_at"),
        ("chain_seq", "chain_seq"),
        ("signed", "signed"),
    ],
    within: "payload_json",
    inner: &["change_kind", "changed_fields"],
};

impl Fields {
    /// All of them, in the order of the contract: the columns of CSV.
    pub(crate) fn all(&'static self) -> Projection {
        let own = self.own.iter().map(|(name, _)| (*name).to_owned());
        let names = own.chain(self.inner.iter().map(|name| (*name).to_owned())).collect();
        Projection { of: self, names }
    }

    /// Those that the request names; none where it names none, and all of them where CSV is asked for.
    pub(crate) fn chosen(&'static self, params: &Params, csv: bool) -> Result<Option<Projection>, Problem> {
        match params.text("fields", 1000)? {
            Some(text) => self.parse(text).map(Some),
            None => Ok(csv.then(|| self.all())),
        }
    }

    fn parse(&'static self, text: &str) -> Result<Projection, Problem> {
        let names: Vec<String> =
            text.split(',').map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned).collect();
        let known =
            |field: &str| self.own.iter().any(|(name, _)| *name == field) || self.inner.contains(&field);
        match names.iter().find(|field| !known(field)) {
            Some(field) => Err(Problem::invalid("invalid_fields").because(format!("{field} is no field"))),
            None if names.is_empty() => Err(Problem::invalid("invalid_fields")),
            None => Ok(Projection { of: self, names }),
        }
    }
}

/// The chosen fields, in their order.
#[derive(Debug)]
pub(crate) struct Projection {
    of: &'static Fields,
    names: Vec<String>,
}

impl Projection {
    /// The names of the chosen fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub(crate) fn apply(&self, item: &Value) -> Value {
        let mut flat = Map::new();
        for field in &self.names {
            let value = match self.of.own.iter().find(|(name, _)| name == field) {
                Some(("determining_policies", member)) => names(item.get(*member)),
                Some((_, member)) => item.get(*member).cloned().unwrap_or_default(),
                None => {
                    item.get(self.of.within).and_then(|data| data.get(field)).cloned().unwrap_or_default()
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
