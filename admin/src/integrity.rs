//! Are the chains of events and of changes still as they were written? (contract admin-audit §17 no. 2 and 25, §19.3)

use crate::app::{App, Done, Kind, zone_id};
use crate::gate::Call;
use crate::problem::Problem;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_audit::integrity::{Integrity, acknowledge};
use caracal_store::clock;
use serde_json::{Value, json};
use std::sync::Arc;

fn to_json(integrity: &Integrity) -> Value {
    let findings: Vec<Value> = integrity
        .findings
        .iter()
        .map(|open| {
            json!({
                "chain": open.chain, "zone_id": (open.key != caracal_audit::changes::GLOBAL).then_some(&open.key),
                "chain_seq": open.chain_seq.to_string(), "id": open.row_id, "fault": open.fault,
                "found_at": clock::iso(open.found_at),
            })
        })
        .collect();
    json!({
        "status": integrity.status(), "chains": integrity.chains, "rows": integrity.rows,
        "checked_at": integrity.checked_at.map(clock::iso), "open_findings": integrity.open,
        "findings": findings,
    })
}

/// `GET /v1/audit-integrity`
pub(crate) async fn all(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    Ok(Json(to_json(&Integrity::read(&mut connection, None).await?)))
}

/// `GET /v1/zones/:z/audit-integrity`
pub(crate) async fn of_zone(
    State(app): State<App>,
    Path(zone): Path<String>,
) -> Result<Json<Value>, Problem> {
    let mut connection = app.store.read().await?;
    Ok(Json(to_json(&Integrity::read(&mut connection, Some(&zone)).await?)))
}

/// `POST /v1/zones/:z/audit-integrity/check`: checks now, one zone at a time. It has to read all of the zone's rows.
pub(crate) async fn check(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path(zone): Path<String>,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    app.require_zone(&zone).await?;
    let running = app.checking.try_lock().map_err(|_| {
        Problem::conflict("audit_check_running").because("a zone is being checked; ask again when it is done")
    })?;
    let integrity = app.ledger.check(zone.as_str()).await?;
    drop(running);
    let body = to_json(&integrity);
    app.change(&call, None, move |_| {
        Box::pin(async move {
            Ok(Done::new(StatusCode::OK, Kind::Action, ("audit-integrity", zone.as_str()), body))
        })
    })
    .await
}

/// `POST /v1/audit-integrity/acknowledge`: the open findings are known, and make the ledger unready no longer. What was
/// found stays recorded.
pub(crate) async fn take_note(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
) -> Result<Response, Problem> {
    call.require_admin()?;
    let author = call.actor.author();
    app.change(&call, None, move |tx| {
        Box::pin(async move {
            let noted = acknowledge(tx, &author).await?;
            let body = json!({ "acknowledged": noted });
            Ok(Done::new(StatusCode::OK, Kind::Action, ("audit-integrity", "acknowledge"), body))
        })
    })
    .await
}
