//! Why a request was denied, and what to feed into a simulation of it (contract admin-audit §6.3).

use crate::app::App;
use crate::events::{of_request, to_json};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use caracal_audit::query::StoredEvent;
use caracal_sts::policy::POLICY_SCHEMA_VERSION;
use serde_json::{Map, Value, json};

/// `GET /v1/zones/:z/audit/by-request/:request/explain`
pub(crate) async fn explain(
    State(app): State<App>,
    Path((zone, request)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let events = of_request(&app, &zone, &request).await?;
    let denied: Vec<Value> = events
        .iter()
        .filter(|stored| stored.event.decision == "deny")
        .map(|stored| {
            let mut item = to_json(stored);
            // It is told once, below, and there as it is.
            if let Some(metadata) = item.get_mut("metadata_json").and_then(Value::as_object_mut) {
                metadata.remove("policy_input");
            }
            json!({
                "event_id": item.get("id"), "event_type": item.get("event_type"),
                "evaluation_status": item.get("evaluation_status"),
                "determining_policies": item.get("determining_policies_json"),
                "diagnostics": item.get("diagnostics_json"), "metadata": item.get("metadata_json"),
                "reason": reason(stored), "policy_input": policy_input(stored),
            })
        })
        .collect();
    let final_decision = if denied.is_empty() {
        events.last().map_or("unknown", |stored| stored.event.decision.as_str())
    } else {
        "deny"
    };
    Ok(Json(json!({
        "request_id": request, "zone_id": zone, "final_decision": final_decision, "denied": denied,
        "events": events.iter().map(to_json).collect::<Vec<_>>(),
    })))
}

/// Why, in one word or sentence: what policy says, else what the event does.
fn reason(stored: &StoredEvent) -> Value {
    let said = |value: Option<&Value>| value.filter(|value| value.is_string()).cloned();
    let diagnostics = stored.event.diagnostics_json.as_array();
    let by_policy = diagnostics.and_then(|all| said(all.iter().find_map(|entry| entry.get("reason"))));
    let by_event = || said(stored.event.metadata_json.as_ref().and_then(|facts| facts.get("reason")));
    by_policy.or_else(by_event).unwrap_or_else(|| stored.event.evaluation_status.as_str().into())
}

/// The input that the policy saw: the one that is kept with the event, else what the event's facts amount to. Claims are
/// never stored.
fn policy_input(stored: &StoredEvent) -> Value {
    let nothing = Value::Null;
    let metadata = stored.event.metadata_json.as_ref().unwrap_or(&nothing);
    match metadata.get("policy_input") {
        Some(input) if input.is_object() => input.clone(),
        _ => rebuilt(stored, metadata),
    }
}

fn rebuilt(stored: &StoredEvent, metadata: &Value) -> Value {
    let text = |name: &str| metadata.get(name).and_then(Value::as_str).unwrap_or_default();
    let list = |name: &str| {
        metadata.get(name).filter(|value| value.is_array()).cloned().unwrap_or_else(|| json!([]))
    };
    let mut principal = Map::new();
    principal.insert("type".to_owned(), "Application".into());
    principal.insert("id".to_owned(), text("application_id").into());
    principal.insert("zone_id".to_owned(), stored.event.zone_id.as_str().into());
    for (member, name) in [
        ("registration_method", "application_registration_method"),
        ("agent_session_id", "agent_session_id"),
        ("lifecycle", "agent_lifecycle"),
    ] {
        if !text(name).is_empty() {
            principal.insert(member.to_owned(), text(name).into());
        }
    }
    if metadata.get("agent_labels").is_some() {
        principal.insert("labels".to_owned(), list("agent_labels"));
    }
    let scopes = list("requested_scopes");
    let mut context = json!({ "actor_claims": {}, "requested_scopes": scopes, "challenge_resolved": false });
    if let Some(members) = context.as_object_mut() {
        for name in ["session_id", "agent_session_id", "delegation_edge_id"] {
            if !text(name).is_empty() {
                members.insert(name.to_owned(), text(name).into());
            }
        }
    }
    let mut input = json!({
        "schema_version": POLICY_SCHEMA_VERSION, "principal": principal,
        "resource": { "type": "Resource", "identifier": text("resource"), "scopes": scopes },
        "action": { "id": "TokenExchange" }, "context": context,
    });
    if let Some(members) = input.as_object_mut() {
        for (member, name) in [("session", "session_id"), ("delegation_edge", "delegation_edge_id")] {
            if !text(name).is_empty() {
                members.insert(member.to_owned(), json!({ "id": text(name) }));
            }
        }
    }
    input
}
