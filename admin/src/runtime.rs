//! What runs: agent sessions and authority records, to read (contract admin-audit §6.4, §6.5).

use crate::app::App;
use crate::csv;
use crate::page::{EVENTS, Key, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::response::Response;
use caracal_audit::keyset::Select;
use caracal_store::StoreError;
use serde_json::{Value, json};

/// The columns of records as CSV.
const RECORD_COLUMNS: [&str; 11] = [
    "authority_record_id",
    "authority_record_type",
    "subject_id",
    "federated_user_issuer",
    "parent_authority_record_id",
    "status",
    "authenticated_at",
    "created_at",
    "expires_at",
    "revoked_at",
    "revoked_reason",
];
/// The columns of sessions as CSV.
const SESSION_COLUMNS: [&str; 17] = [
    "session_id",
    "application_id",
    "parent_session_id",
    "status",
    "lifecycle",
    "labels",
    "depth",
    "child_count",
    "subject_authority_record_id",
    "subject_id",
    "federated_user_id",
    "federated_user_issuer",
    "started_at",
    "last_active_at",
    "terminated_at",
    "termination_reason",
    "ttl_seconds",
];

/// The issuer of a federated user, from the claims of a record.
fn issuer(row: Row<'_>) -> Result<Value, StoreError> {
    let claims = row.json("claims_json")?;
    Ok(claims.get("iss").cloned().unwrap_or_default())
}

/// `GET /v1/zones/:z/authority-records`
pub(crate) async fn authority_records(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    let (csv, name) = (csv::wanted(&params)?, format!("authority-records-{zone}"));
    let mut select = Select::new(
        "SELECT id, zone_id, session_type, subject_id, parent_id, status, expires_at, authenticated_at, \
         claims_json, created_at, revoked_at, revoked_reason FROM authority_records",
    )
    .and_text("zone_id = ?", zone);
    if let Some(id) = params.text("authority_record_id", 128)? {
        select = select.and_text("id = ?", id);
    }
    // A record whose time is over counts as expired, whatever is written in its row.
    let now = app.store.now();
    select = match params.one_of("status", &["active", "revoked", "expired"])? {
        Some("active") => select.and_number("status = 'active' AND expires_at > ?", now),
        Some("expired") => {
            select.and_number("(status = 'expired' OR (status = 'active' AND expires_at <= ?))", now)
        }
        Some(status) => select.and_text("status = ?", status),
        None => select,
    };
    if let Some(subject) = params.text("subject_id", 512)? {
        select = select.and_text("subject_id = ?", subject);
    }
    if let Some(kind) = params.one_of("kind", &["user", "application"])? {
        select = select.and_text("session_type = ?", kind);
    }
    let key = Key { time: "created_at", id: "id" };
    let page = page(&app, &params, EVENTS, select, key, |row| {
        let kind = row.text("session_type")?;
        let issuer = if kind == "user" { issuer(row)? } else { Value::Null };
        let over = row.text("status")? == "active" && row.int("expires_at")? <= now;
        let status = if over { "expired".to_owned() } else { row.text("status")? };
        Ok(json!({
            "authority_record_id": row.text("id")?, "zone_id": row.text("zone_id")?,
            "authority_record_type": kind, "subject_id": row.text("subject_id")?,
            "federated_user_issuer": issuer, "parent_authority_record_id": row.opt_text("parent_id")?,
            "status": status, "expires_at": row.iso("expires_at")?,
            "authenticated_at": row.iso("authenticated_at")?, "created_at": row.iso("created_at")?,
            "revoked_at": row.opt_iso("revoked_at")?, "revoked_reason": row.opt_text("revoked_reason")?,
        }))
    })
    .await?;
    Ok(csv::answer(csv, &name, RECORD_COLUMNS, page))
}

/// `GET /v1/zones/:z/sessions`
pub(crate) async fn sessions(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Response, Problem> {
    let (csv, name) = (csv::wanted(&params)?, format!("sessions-{zone}"));
    let mut select = Select::new(
        "SELECT s.id, s.application_id, s.parent_id, s.status, s.lifecycle, s.labels_json, s.depth, s.child_count, \
         s.subject_authority_record_id, r.subject_id, r.session_type, r.claims_json, s.started_at, \
         s.last_active_at, s.terminated_at, s.termination_reason, s.ttl_seconds \
         FROM sessions s JOIN authority_records r ON r.id = s.subject_authority_record_id",
    )
    .and_text("s.zone_id = ?", zone);
    if let Some(status) = params.one_of("status", &["active", "suspended", "terminated", "expired"])? {
        select = select.and_text("s.status = ?", status);
    }
    if let Some(lifecycle) = params.one_of("lifecycle", &["task", "service"])? {
        select = select.and_text("s.lifecycle = ?", lifecycle);
    }
    for (name, condition, max) in [
        ("application_id", "s.application_id = ?", 128),
        ("parent_session_id", "s.parent_id = ?", 128),
        ("parent_id", "s.parent_id = ?", 128),
        ("subject_id", "r.subject_id = ?", 512),
    ] {
        if let Some(value) = params.text(name, max)? {
            select = select.and_text(condition, value);
        }
    }
    if let Some(label) = params.text("label", 64)? {
        // Labels are a JSON array of texts, and a text with its quotes is found nowhere else in it.
        select =
            select.and_text("REPLACE(s.labels_json, ?, '') <> s.labels_json", Value::from(label).to_string());
    }
    let key = Key { time: "s.started_at", id: "s.id" };
    let page = page(&app, &params, EVENTS, select, key, |row| {
        let user = row.text("session_type")? == "user";
        let subject = row.text("subject_id")?;
        let (user_id, issuer) =
            if user { (json!(subject), issuer(row)?) } else { (Value::Null, Value::Null) };
        Ok(json!({
            "session_id": row.text("id")?, "application_id": row.text("application_id")?,
            "parent_session_id": row.opt_text("parent_id")?, "status": row.text("status")?,
            "lifecycle": row.text("lifecycle")?, "labels": row.json("labels_json")?, "depth": row.int("depth")?,
            "child_count": row.int("child_count")?,
            "subject_authority_record_id": row.text("subject_authority_record_id")?, "subject_id": subject,
            "federated_user_id": user_id, "federated_user_issuer": issuer,
            "started_at": row.iso("started_at")?, "last_active_at": row.iso("last_active_at")?,
            "terminated_at": row.opt_iso("terminated_at")?,
            "termination_reason": row.opt_text("termination_reason")?,
            "ttl_seconds": row.opt_int("ttl_seconds")?,
        }))
    })
    .await?;
    Ok(csv::answer(csv, &name, SESSION_COLUMNS, page))
}
