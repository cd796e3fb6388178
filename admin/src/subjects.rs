//! Subjects: whom authority stems from. A subject is no row of its own, it is what the authority records of one name
//! have in common (contract admin-audit §5.8).

use crate::app::{App, Done, Kind, zone_id};
use crate::body::{Body, Text};
use crate::connections;
use crate::cut;
use crate::gate::Call;
use crate::page::{Bounds, Key, Params, page};
use crate::problem::Problem;
use crate::row::Row;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::keyset::Select;
use caracal_store::StoreError;
use caracal_store::model::FederatedSubject;
use caracal_store::revoke::Selector;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const BOUNDS: Bounds = Bounds::new(100, 200);
/// One row per subject.
const SUBJECTS: &str = "SELECT * FROM (SELECT r.zone_id AS zone, r.subject_id AS subject_id, \
     MAX(CASE WHEN r.session_type = 'user' THEN 1 ELSE 0 END) AS federated, MAX(a.name) AS application_name, \
     COUNT(*) AS total, SUM(CASE WHEN r.status = 'active' AND r.expires_at > ? THEN 1 ELSE 0 END) AS active, \
     SUM(CASE WHEN r.status = 'revoked' THEN 1 ELSE 0 END) AS revoked, MIN(r.created_at) AS first_seen, \
     MAX(r.created_at) AS last_seen, MAX(r.revoked_at) AS last_revoked_at, \
     MAX(CASE WHEN r.session_type = 'user' THEN r.claims_json ELSE NULL END) AS claims_json \
     FROM authority_records r LEFT JOIN applications a ON a.id = r.subject_id AND r.session_type = 'application' \
     GROUP BY r.zone_id, r.subject_id) AS subjects";

fn select(now: i64, zone: &str) -> Select {
    Select::new(&SUBJECTS.replace('?', &now.to_string())).and_text("zone = ?", zone)
}

fn to_json(row: Row<'_>) -> Result<Value, StoreError> {
    let claims = row.json("claims_json")?;
    Ok(json!({
        "subject_id": row.text("subject_id")?, "federated": row.flag("federated")?,
        "application_name": row.opt_text("application_name")?, "total_sessions": row.int("total")?,
        "active_sessions": row.int("active")?, "revoked_sessions": row.int("revoked")?,
        "first_seen": row.iso("first_seen")?, "last_seen": row.iso("last_seen")?,
        "last_revoked_at": row.opt_iso("last_revoked_at")?, "issuer": claims.get("iss"),
    }))
}

/// `GET /v1/zones/:z/subjects`
pub(crate) async fn list(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let mut select = select(app.store.now(), &zone);
    if let Some(kind) = params.one_of("kind", &["user", "application"])? {
        select = select.and_number("federated = ?", i64::from(kind == "user"));
    }
    if let Some(search) = params.text("search", 512)? {
        let pattern = search.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        select = select.and_text(
            "(LOWER(subject_id) LIKE ? ESCAPE '\\' OR LOWER(application_name) LIKE ? ESCAPE '\\')",
            format!("%{pattern}%"),
        );
    }
    let key = Key { time: "last_seen", id: "subject_id" };
    page(&app, &params, BOUNDS, select, key, to_json).await
}

/// `GET /v1/zones/:z/subjects/overview?subject_id=`.
pub(crate) async fn overview(
    State(app): State<App>,
    Path(zone): Path<String>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let subject = params.text("subject_id", 512)?;
    let subject =
        subject.ok_or_else(|| Problem::invalid("invalid_query").because("subject_id: is missing"))?;
    let mut connection = app.store.read().await?;
    let rows =
        select(app.store.now(), &zone).and_text("subject_id = ?", subject).all(&mut connection, "").await?;
    let row = rows.first().map(Row).ok_or_else(|| Problem::absent("subject_not_found"))?;
    let sessions = Select::new(
        "SELECT s.id, s.application_id, a.name, s.lifecycle, s.status, s.started_at FROM sessions s \
         JOIN authority_records r ON r.id = s.subject_authority_record_id \
         JOIN applications a ON a.id = s.application_id",
    )
    .and_text("s.zone_id = ?", zone.as_str())
    .and_text("r.subject_id = ?", subject)
    .all(&mut connection, " ORDER BY s.started_at DESC, s.id DESC")
    .await?;
    let mut active = 0;
    let mut recent = Vec::new();
    for session in &sessions {
        let session = Row(session);
        let status = session.text("status")?;
        active += usize::from(status == "active");
        if recent.len() < 5 {
            recent.push(json!({
                "session_id": session.text("id")?, "application_id": session.text("application_id")?,
                "application_name": session.text("name")?, "lifecycle": session.text("lifecycle")?,
                "status": status, "started_at": session.iso("started_at")?,
            }));
        }
    }
    Ok(Json(json!({
        "subject": to_json(row)?,
        "governed": { "active": active, "total": sessions.len(), "recent": recent },
        "connections": connections::of_subject(&mut connection, &zone, subject).await?,
    })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    subject_id: Text<512>,
    reason: Option<Text<512>>,
}

/// `POST /v1/zones/:z/subjects/revoke`: everything that stems from the subject ends, in one transaction.
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, revoke): (_, Revoke) = body.parse("invalid_subject_revoke")?;
    let reason = revoke.reason.map_or_else(|| "subject_revoked".to_owned(), |reason| reason.0);
    let cause = cut::cause(&call, &zone, &reason);
    let subject = revoke.subject_id.0;
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            let known: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM authority_records WHERE zone_id = $1 AND subject_id = $2",
            )
            .bind(zone.as_str())
            .bind(subject.as_str())
            .fetch_one(&mut *tx.connection())
            .await?;
            if known == 0 {
                return Err(Problem::absent("subject_not_found"));
            }
            let done = cut::cut(tx, &cause, &Selector::Subject { id: subject.clone() }).await?;
            let connections = connections::revoke_subject(tx, &cause, &subject).await?;
            // A token that the issuer gave out before does not bring the user back.
            FederatedSubject::bar(tx, &zone, &subject).await?;
            let body = json!({
                "subject_id": subject, "authority_records": done.records, "sessions": done.sessions,
                "delegations": done.edges, "connections": connections,
            });
            Ok(Done::new(StatusCode::OK, Kind::Action, ("subjects", &subject), body))
        })
    })
    .await
}
