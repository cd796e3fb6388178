//! Reading the ledger (contract admin-audit §6.1 to §6.3).

use crate::app::App;
use crate::csv;
use crate::page::{EVENTS, Params, envelope};
use crate::problem::Problem;
use crate::projection::{OF_EVENTS, Projection};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use caracal_audit::query::{Filter, StoredEvent};
use caracal_store::clock;
use serde_json::{Value, json};

/// Members whose value is never shown, at any depth and in any case (contract admin-audit §6.2).
const REDACTED: [&str; 17] = [
    "access_token",
    "api_key",
    "apikey",
    "assertion",
    "authorization",
    "client_secret",
    "cookie",
    "id_token",
    "passwd",
    "password",
    "private_key",
    "refresh_token",
    "secret",
    "session",
    "session_id",
    "set_cookie",
    "token",
];
const MAX_TYPES: usize = 16;

/// Hides what must not be shown.
pub(crate) fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(members) => {
            for (name, member) in members {
                if REDACTED.contains(&name.to_ascii_lowercase().as_str()) {
                    *member = "[redacted]".into();
                } else {
                    redact(member);
                }
            }
        }
        _ => {}
    }
}

/// From when, and until before when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) since: Option<i64>,
    pub(crate) until: Option<i64>,
}

impl Times {
    pub(crate) fn of(params: &Params) -> Result<Self, Problem> {
        Ok(Self { since: params.time("since")?, until: params.time("until")? })
    }
}

/// An event as the API shows it.
pub(crate) fn to_json(stored: &StoredEvent) -> Value {
    let event = &stored.event;
    let mut metadata = event.metadata_json.clone().unwrap_or_default();
    redact(&mut metadata);
    json!({
        "id": event.id, "zone_id": event.zone_id, "event_type": event.event_type, "request_id": event.request_id,
        "decision": event.decision, "policy_set_id": null, "policy_set_version_id": event.policy_set_version_id,
        "manifest_sha": event.manifest_sha, "evaluation_status": event.evaluation_status,
        "determining_policies_json": event.determining_policies_json, "diagnostics_json": event.diagnostics_json,
        "metadata_json": metadata, "occurred_at": clock::iso(event.occurred_at),
        "ingested_at": clock::iso(stored.ingested_at), "chain_seq": stored.link.seq.to_string(),
        "content_sha256": stored.link.content_sha256,
    })
}

fn filter(params: &Params) -> Result<Filter, Problem> {
    let times = Times::of(params)?;
    let text = |name: &str, max: usize| Ok::<_, Problem>(params.text(name, max)?.map(str::to_owned));
    let types = params.text("event_type", 512)?.unwrap_or_default();
    let event_types: Vec<String> =
        types.split(',').map(str::trim).filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
    if event_types.len() > MAX_TYPES {
        let why = format!("event_type: at most {MAX_TYPES} types");
        return Err(Problem::invalid("invalid_query").because(why));
    }
    let decisions = ["allow", "deny", "partial", "pending", "approved", "rejected", "consumed", "expired"];
    Ok(Filter {
        since: times.since,
        until: times.until,
        request_id: text("request_id", 128)?,
        decision: params.one_of("decision", &decisions)?.map(str::to_owned),
        event_types,
        application_id: text("application_id", 128)?,
        session_id: text("session_id", 128)?,
        authority_record_id: text("authority_record_id", 128)?,
        label: text("label", 64)?,
    })
}

/// `GET /v1/zones/:z/audit`
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    let csv = csv::wanted(&params)?;
    let chosen = OF_EVENTS.chosen(&params, csv)?;
    let (filter, limit, cursor) = (filter(&params)?, params.limit(EVENTS)?, params.cursor()?);
    let page = app.ledger.list(&zone, &filter, cursor.as_ref(), limit).await?;
    let items = page.items.iter().map(to_json);
    let items = match &chosen {
        Some(chosen) => items.map(|item| chosen.apply(&item)).collect(),
        None => items.collect(),
    };
    let (name, page) = (format!("audit-{zone}"), envelope(items, page.next.as_ref()));
    Ok(csv::answer(csv, &name, chosen.iter().flat_map(Projection::names), page))
}

/// `GET /v1/zones/:z/audit/by-request/:request`
pub(crate) async fn by_request(
    State(app): State<App>,
    Path((zone, request)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let events = of_request(&app, &zone, &request).await?;
    Ok(Json(events.iter().map(to_json).collect()))
}

pub(crate) async fn of_request(app: &App, zone: &str, request: &str) -> Result<Vec<StoredEvent>, Problem> {
    let events = app.ledger.by_request(zone, request).await?;
    if events.is_empty() { Err(Problem::absent("request_not_found")) } else { Ok(events) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_6_2_redaction() {
        let mut value = json!({
            "application_id": "a", "Session_ID": "s", "agent_session_id": "g",
            "deep": [{ "Token": { "x": 1 }, "tokens": 2 }],
        });
        redact(&mut value);
        let expected = json!({
            "application_id": "a", "Session_ID": "[redacted]", "agent_session_id": "g",
            "deep": [{ "Token": "[redacted]", "tokens": 2 }],
        });
        assert_eq!(value, expected);
    }
}
