//! Approvals: holds to read and to decide (contract admin-audit §5.13). The STS makes them and uses them up.

use crate::app::{App, Done, Kind, zone_id};
use crate::body::Body;
use crate::gate::Call;
use crate::page::{CONFIGURATION, CREATED, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::audit::AuditEvent;
use caracal_store::{StoreError, WriteTx, clock};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

/// Each state with its condition; `?` is now. They exclude each other in the order of precedence.
const STATES: [(&str, &str); 5] = [
    ("consumed", "consumed_at IS NOT NULL"),
    ("rejected", "consumed_at IS NULL AND rejected_at IS NOT NULL"),
    ("expired", "consumed_at IS NULL AND rejected_at IS NULL AND expires_at <= ?"),
    (
        "approved",
        "consumed_at IS NULL AND rejected_at IS NULL AND satisfied_at IS NOT NULL AND expires_at > ?",
    ),
    ("pending", "consumed_at IS NULL AND rejected_at IS NULL AND satisfied_at IS NULL AND expires_at > ?"),
];

const SELECT: &str = "SELECT a.*, \
    (SELECT COUNT(*) FROM approvals p WHERE p.zone_id = a.zone_id AND p.principal_id = a.principal_id \
      AND p.id <> a.id AND p.created_at <= a.created_at AND p.satisfied_at IS NOT NULL) AS prior_approved, \
    (SELECT COUNT(*) FROM approvals p WHERE p.zone_id = a.zone_id AND p.principal_id = a.principal_id \
      AND p.id <> a.id AND p.created_at <= a.created_at AND p.rejected_at IS NOT NULL) AS prior_rejected \
    FROM approvals a";

fn item(row: Row<'_>, now: i64) -> Result<Value, StoreError> {
    Ok(json!({
        "id": row.text("id")?, "zone_id": row.text("zone_id")?, "session_id": row.text("session_id")?,
        "principal_id": row.text("principal_id")?, "application_id": row.opt_text("application_id")?,
        "approval_type": "human_approval", "tier": row.text("tier")?,
        "approver_class": row.text("approver_class")?, "privacy_mode": row.text("privacy_mode")?,
        "subject_anchor": row.opt_text("subject_anchor")?, "binding": row.text("binding")?,
        "metadata_json": row.json("metadata_json")?, "decision_reason": row.opt_text("decision_reason")?,
        "created_at": row.iso("created_at")?, "expires_at": row.iso("expires_at")?,
        "satisfied_at": row.opt_iso("satisfied_at")?, "rejected_at": row.opt_iso("rejected_at")?,
        "consumed_at": row.opt_iso("consumed_at")?,
        "approver_subject_id": row.opt_text("approver_subject_id")?,
        "principal_federated": row.flag("principal_federated")?,
        "prior_approved": row.int("prior_approved")?, "prior_rejected": row.int("prior_rejected")?,
        "state": state(row, now)?,
    }))
}

fn state(row: Row<'_>, now: i64) -> Result<&'static str, StoreError> {
    Ok(match () {
        () if row.opt_int("consumed_at")?.is_some() => "consumed",
        () if row.opt_int("rejected_at")?.is_some() => "rejected",
        () if row.int("expires_at")? <= now => "expired",
        () if row.opt_int("satisfied_at")?.is_some() => "approved",
        () => "pending",
    })
}

/// `GET /v1/zones/:z/approvals`
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let now = app.store.now();
    let mut select = Select::new(SELECT).and_text("zone_id = ?", zone);
    if let Some(wanted) = params.one_of("state", &STATES.map(|(name, _)| name))? {
        for (_, condition) in STATES.iter().filter(|(name, _)| *name == wanted) {
            select = if condition.contains('?') {
                select.and_number(condition, now)
            } else {
                select.and(condition)
            };
        }
    }
    if let Some(tier) = params.text("tier", 64)? {
        select = select.and_text("tier = ?", tier);
    }
    if let Some(principal) = params.text("principal", 128)? {
        select = select.and_text("principal_id = ?", principal);
    }
    if let Some(since) = params.time("since")? {
        select = select.and_number("created_at >= ?", since);
    }
    if let Some(until) = params.time("until")? {
        select = select.and_number("created_at <= ?", until);
    }
    page(&app, &params, CONFIGURATION, select, CREATED, |row| item(row, now)).await
}

/// `GET /v1/zones/:z/approvals/counts`
pub(crate) async fn counts(State(app): State<App>, Path(zone): Path<String>) -> Result<Json<Value>, Problem> {
    let now = app.store.now();
    let mut connection = app.store.read().await?;
    let sums = STATES.map(|(name, condition)| {
        format!("COALESCE(SUM(CASE WHEN {} THEN 1 ELSE 0 END), 0) AS {name}", condition.replace('?', "$2"))
    });
    let sql = format!("SELECT {} FROM approvals WHERE zone_id = $1", sums.join(", "));
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone).bind(now).fetch_one(&mut *connection).await?;
    let mut counts = Map::new();
    for (name, _) in STATES {
        counts.insert(name.to_owned(), Row(&row).int(name)?.into());
    }
    Ok(Json(Value::Object(counts)))
}

async fn find(connection: &mut SqlConnection, zone: &str, id: &str, now: i64) -> Result<Value, Problem> {
    let sql = format!("{SELECT} WHERE a.zone_id = $1 AND a.id = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone).bind(id).fetch_optional(connection).await?;
    let row = row.ok_or_else(|| Problem::absent("approval_not_found"))?;
    Ok(item(Row(&row), now)?)
}

/// `GET /v1/zones/:z/approvals/:id`
pub(crate) async fn one(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    Ok(Json(find(&mut connection, &zone, &id, app.store.now()).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Approved,
    Rejected,
}

/// `POST /v1/zones/:z/approvals/:id/approve`
pub(crate) async fn approve(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    decide(app, call, zone, id, body, Verdict::Approved).await
}

/// `POST /v1/zones/:z/approvals/:id/reject`
pub(crate) async fn reject(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    decide(app, call, zone, id, body, Verdict::Rejected).await
}

async fn decide(
    app: App,
    call: Arc<Call>,
    zone: String,
    id: String,
    body: Body,
    verdict: Verdict,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let Reason { reason } = if body.is_empty() { Reason::default() } else { body.parse("invalid_body")?.1 };
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > MAX_REASON) {
        let why = format!("a reason has at most {MAX_REASON} characters");
        return Err(Problem::invalid("invalid_body").because(why));
    }
    let author = call.actor.identity();
    app.change(&call, None, move |tx| {
        Box::pin(async move { settle(tx, &zone, &id, &author, reason, verdict).await })
    })
    .await
}

async fn settle(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    id: &str,
    author: &str,
    reason: Option<String>,
    verdict: Verdict,
) -> Result<Done, Problem> {
    let now = tx.now();
    let (satisfied_at, rejected_at) = match verdict {
        Verdict::Approved => (Some(now), None),
        Verdict::Rejected => (None, Some(now)),
    };
    let result = sqlx::query(
        "UPDATE approvals SET satisfied_at = $1, rejected_at = $2, approver_subject_id = $3, decision_reason = $4 \
         WHERE id = $5 AND zone_id = $6 AND approver_class IN ('operator', 'any') AND satisfied_at IS NULL \
         AND rejected_at IS NULL AND consumed_at IS NULL AND expires_at > $7",
    )
    .bind(satisfied_at)
    .bind(rejected_at)
    .bind(author)
    .bind(reason)
    .bind(id)
    .bind(zone.as_str())
    .bind(now)
    .execute(&mut *tx.connection())
    .await?;
    let hold = find(tx.connection(), zone.as_str(), id, now).await?;
    if result.rows_affected() != 1 {
        if hold.get("approver_class").and_then(Value::as_str) == Some("subject") {
            return Err(Problem::forbidden("subject_approval_required"));
        }
        let state = hold.get("state").cloned().unwrap_or_default();
        return Err(Problem::conflict("approval_not_decidable").with("state", state));
    }
    let word = if verdict == Verdict::Approved { "approved" } else { "rejected" };
    let event = AuditEvent::new(zone.as_str(), "step_up_decided", id, word, now);
    tx.audit(&event.with_metadata(event_fields(&hold, author))).await?;
    tx.announce_decision();
    let body = json!({
        "id": id, "state": word, "satisfied_at": satisfied_at.map(clock::iso),
        "rejected_at": rejected_at.map(clock::iso), "approver_subject_id": author,
    });
    Ok(Done::new(StatusCode::OK, Kind::Action, ("approvals", id), body))
}

/// What the event says of the hold (contract sts §25.3).
fn event_fields(hold: &Value, author: &str) -> Value {
    let mut fields = Map::new();
    let own = [
        ("challenge_id", "id"),
        ("tier", "tier"),
        ("approver_class", "approver_class"),
        ("privacy_mode", "privacy_mode"),
        ("binding", "binding"),
        ("expires_at", "expires_at"),
        ("subject_anchor", "subject_anchor"),
        ("application_id", "application_id"),
        ("session_id", "session_id"),
    ];
    let said = |value: &&Value| !value.is_null() && **value != json!("");
    for (name, column) in own {
        if let Some(value) = hold.get(column).filter(said) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
    for name in ["agent_session_id", "delegation_edge_id", "agent_labels", "requested_scopes", "resources"] {
        if let Some(value) = hold.get("metadata_json").and_then(|data| data.get(name)) {
            fields.insert(name.to_owned(), value.clone());
        }
    }
    fields.insert("approver_plane".to_owned(), "operator".into());
    fields.insert("approver_subject_id".to_owned(), author.into());
    Value::Object(fields)
}
