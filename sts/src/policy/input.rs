//! The policy input document (contract sts §14.2).
//!
//! A key whose value is empty, zero or nil is absent from the document: the decision contract tells request shapes
//! apart by what is absent, so this is part of the meaning and not a matter of taste. Reading is lenient in the other
//! direction: a missing or null key is the empty value.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::contract::POLICY_SCHEMA_VERSION;

/// Everything that one evaluation knows about the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyInput {
    /// `2026-05-20`; the empty text means the same, anything else is an evaluation error.
    #[serde(deserialize_with = "null_is_empty")]
    pub schema_version: String,
    /// Who asks.
    #[serde(deserialize_with = "null_is_empty")]
    pub principal: Principal,
    /// What is asked for.
    #[serde(deserialize_with = "null_is_empty")]
    pub resource: Resource,
    /// Through which door, and for which upstream request.
    #[serde(deserialize_with = "null_is_empty")]
    pub action: Action,
    /// The authority record that the request is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionReference>,
    /// The delegation edge that the request is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegation_edge: Option<DelegationEdge>,
    /// What else is known about the request.
    #[serde(deserialize_with = "null_is_empty")]
    pub context: Context,
}

impl Default for PolicyInput {
    fn default() -> Self {
        Self {
            schema_version: POLICY_SCHEMA_VERSION.to_owned(),
            principal: Principal::default(),
            resource: Resource::default(),
            action: Action::default(),
            session: None,
            delegation_edge: None,
            context: Context::default(),
        }
    }
}

impl PolicyInput {
    /// What may be kept of it to explain a decision: no claims of actor or subject (contract admin-audit §6.3).
    #[must_use]
    pub fn redacted(&self) -> Value {
        let context =
            Context { actor_claims: Map::new(), subject_claims: Map::new(), ..self.context.clone() };
        serde_json::to_value(Self { context, ..self.clone() }).unwrap_or_default()
    }
}

/// The application or workload that asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Principal {
    /// `Application` or `Workload`.
    #[serde(rename = "type", deserialize_with = "null_is_empty")]
    pub kind: String,
    /// Application or workload id.
    #[serde(deserialize_with = "null_is_empty")]
    pub id: String,
    /// Zone of the principal.
    #[serde(deserialize_with = "null_is_empty")]
    pub zone_id: String,
    /// `managed` or `dcr`; absent for workloads.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub registration_method: String,
    /// The bound agent session.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub agent_session_id: String,
    /// `task` or `service`, from the bound agent session.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub lifecycle: String,
    /// Labels of the bound agent session.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub labels: Vec<String>,
}

/// The protected resource that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// Always `Resource`.
    #[serde(rename = "type", deserialize_with = "null_is_empty")]
    pub kind: String,
    /// Internal id of the resource.
    #[serde(deserialize_with = "null_is_empty")]
    pub id: String,
    /// Canonical identifier, for example `resource://orders`.
    #[serde(deserialize_with = "null_is_empty")]
    pub identifier: String,
    /// The scopes that the resource declares, without the implicit lifecycle scope.
    #[serde(deserialize_with = "null_is_empty")]
    pub scopes: Vec<String>,
}

impl Default for Resource {
    fn default() -> Self {
        Self { kind: "Resource".to_owned(), id: String::new(), identifier: String::new(), scopes: Vec::new() }
    }
}

/// The door through which the request came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Action {
    /// `TokenExchange` or `CredentialInjection`.
    #[serde(deserialize_with = "null_is_empty")]
    pub id: String,
    /// Upper-case method of the upstream request; only on gateway-authenticated exchanges.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub method: String,
    /// Path of the upstream request; only on gateway-authenticated exchanges.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub path: String,
}

/// The authority record that the request is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionReference {
    /// Id of the authority record.
    #[serde(deserialize_with = "null_is_empty")]
    pub id: String,
}

/// The delegation edge that the request is bound to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DelegationEdge {
    /// Id of the edge.
    #[serde(deserialize_with = "null_is_empty")]
    pub id: String,
    /// Agent session that handed authority on.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub source_session_id: String,
    /// Agent session that received it.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub target_session_id: String,
    /// Application of the source session.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub issuer_application_id: String,
    /// Application of the target session.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub receiver_application_id: String,
    /// Internal id of the resource that the edge is limited to.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub resource_id: String,
    /// The scopes that the edge carries.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub scopes: Vec<String>,
    /// Version of the edge.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub edge_version: i64,
    /// Edge ids from the root of the lineage to this edge.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub path: Vec<String>,
    /// Delegation graph epoch of the zone.
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "null_is_empty")]
    pub graph_epoch: i64,
    /// Typed constraints of the edge.
    #[serde(skip_serializing_if = "is_empty_json")]
    pub constraints_json: Value,
}

/// What else is known about the request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// Claims of the acting credential: `{"caracal_client_id": <principal id>}`.
    #[serde(deserialize_with = "null_is_empty")]
    pub actor_claims: Map<String, Value>,
    /// All verified claims of the subject token; absent without one.
    #[serde(skip_serializing_if = "Map::is_empty", deserialize_with = "null_is_empty")]
    pub subject_claims: Map<String, Value>,
    /// Request id.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub trace_id: String,
    /// Id of the authority record.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub session_id: String,
    /// Id of the bound agent session.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub agent_session_id: String,
    /// Id of the bound delegation edge.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub delegation_edge_id: String,
    /// True only when an approved hold was presented.
    #[serde(deserialize_with = "null_is_empty")]
    pub challenge_resolved: bool,
    /// The scopes asked for, in request order and with duplicates.
    #[serde(deserialize_with = "null_is_empty")]
    pub requested_scopes: Vec<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

fn is_empty_json(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
