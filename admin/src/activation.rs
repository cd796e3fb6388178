//! Which policy set version decides in a zone (contract admin-audit §5.12): activation, its status, and trying one out.

use crate::app::{App, Done, Kind, zone_id};
use crate::body::Body;
use crate::gate::Call;
use crate::object::find_or;
use crate::page::Params;
use crate::policy_sets::{PolicySet, compile, documents, require_versions, try_compile, version};
use crate::problem::Problem;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use caracal_mandate::id::ZoneId;
use caracal_store::SqlConnection;
use caracal_store::change::Change;
use caracal_store::{StoreError, clock};
use caracal_sts::policy::{POLICY_SCHEMA_VERSION, PolicyInput};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Debug, Deserialize)]
struct Activate {
    version_id: String,
}

#[derive(Debug, Deserialize)]
struct Simulate {
    version_id: String,
    input: Option<Value>,
}

/// `POST /v1/zones/:z/policy-sets/:id/activate`. The version decides from the moment of the commit; the change log tells
/// every gateway.
pub(crate) async fn activate(
    State(app): State<App>,
    Extension(call): Extension<Arc<Call>>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Response, Problem> {
    let zone = zone_id(&zone)?;
    let (value, request): (_, Activate) = body.parse("invalid_body")?;
    let mut connection = app.store.read().await?;
    find_or::<PolicySet>(&mut connection, zone.as_str(), &id, "policy_set_binding_not_found").await?;
    let (_, manifest) = version(&mut connection, &id, &request.version_id, "version_not_found").await?;
    require_versions(&mut connection, zone.as_str(), &manifest).await?;
    let documents = documents(&mut connection, zone.as_str(), &manifest).await?;
    drop(connection);
    // Versions never change, so what compiles here is what will be active.
    compile(documents).await?;
    let author = call.actor.author();
    app.change(&call, Some(&value), move |tx| {
        Box::pin(async move {
            find_or::<PolicySet>(tx.connection(), zone.as_str(), &id, "policy_set_binding_not_found").await?;
            let now = tx.now();
            sqlx::query(
                "UPDATE policy_sets SET active_version_id = NULL, activated_at = NULL \
                 WHERE zone_id = $1 AND active_version_id IS NOT NULL",
            )
            .bind(zone.as_str())
            .execute(&mut *tx.connection())
            .await?;
            sqlx::query(
                "UPDATE policy_sets SET active_version_id = $1, activated_at = $2, updated_at = $2, updated_by = $3 \
                 WHERE id = $4",
            )
            .bind(request.version_id.as_str())
            .bind(now)
            .bind(author)
            .bind(id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            let epoch = tx.record_change(&zone, &Change::Policy).await?;
            let (version_id, outbox_id) = (request.version_id, epoch.0.to_string());
            let status_url = format!(
                "/v1/zones/{zone}/policy-sets/{id}/activation-status?version_id={version_id}&outbox_id={outbox_id}"
            );
            let body = json!({
                "activated": true, "version_id": version_id, "outbox_id": outbox_id, "status_url": status_url,
            });
            Ok(Done::new(StatusCode::ACCEPTED, Kind::Action, ("policy-sets", &id), body))
        })
    })
    .await
}

/// How far the notice of an activation has come: it is the row of the change log with that epoch.
async fn notice(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    id: Option<&str>,
) -> Result<(&'static str, Option<i64>), Problem> {
    let policy =
        |json: &str| serde_json::from_str::<Change>(json).is_ok_and(|change| change == Change::Policy);
    let Some(id) = id else { return Ok(("dispatched", None)) };
    let Ok(epoch) = id.parse::<i64>() else { return Ok(("missing", None)) };
    let row: Option<(String, i64)> = sqlx::query_as(
        "SELECT change_json, created_at FROM change_log WHERE zone_id = $1 AND authority_epoch = $2",
    )
    .bind(zone.as_str())
    .bind(epoch)
    .fetch_optional(connection)
    .await?;
    Ok(match row {
        None => ("missing", None),
        Some((json, at)) if policy(&json) => ("dispatched", Some(at)),
        Some(_) => ("mismatch", None),
    })
}

/// `GET /v1/zones/:z/policy-sets/:id/activation-status`. Every decision reads the active version together with the rest
/// of the live state, so what is committed is loaded.
pub(crate) async fn status(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
    params: Params,
) -> Result<Json<Value>, Problem> {
    let zone = zone_id(&zone)?;
    let mut connection = app.store.read().await?;
    let set =
        find_or::<PolicySet>(&mut connection, zone.as_str(), &id, "policy_set_binding_not_found").await?;
    let active = set.get("active_version_id").and_then(Value::as_str);
    let version_id = params
        .text("version_id", 128)?
        .or(active)
        .ok_or_else(|| Problem::absent("active_policy_set_version_not_found"))?;
    let (row, _) = version(&mut connection, &id, version_id, "active_policy_set_version_not_found").await?;
    let manifest_sha256 = row.get("manifest_sha256").cloned().unwrap_or_default();
    let activated_at: Option<i64> = sqlx::query_scalar("SELECT activated_at FROM policy_sets WHERE id = $1")
        .bind(id.as_str())
        .fetch_one(&mut *connection)
        .await?;
    let outbox_id = params.text("outbox_id", 128)?;
    let (outbox, dispatched_at) = notice(&mut connection, &zone, outbox_id).await?;
    let is_active = active == Some(version_id);
    let propagation = match (is_active, outbox) {
        (false, _) => "waiting_for_activation",
        (true, "mismatch") => "failed",
        (true, "missing") => "waiting_for_outbox",
        (true, _) => "loaded",
    };
    let sts = if is_active {
        let age = activated_at.map(|at| (app.store.now() - at) / 1000);
        json!({
            "state": "loaded", "loaded": true, "zone_id": zone.as_str(), "policy_set_version_id": version_id,
            "manifest_sha256": manifest_sha256, "loaded_at": activated_at.map(clock::iso), "age_seconds": age,
        })
    } else {
        json!({ "state": "not_loaded", "loaded": false })
    };
    Ok(Json(json!({
        "zone_id": zone.as_str(), "policy_set_id": id, "version_id": version_id, "active": is_active,
        "active_version_id": active, "manifest_sha256": manifest_sha256, "propagation_status": propagation,
        "outbox": {
            "id": outbox_id, "state": outbox, "attempts": i32::from(outbox == "dispatched"),
            "last_error": null, "dispatched_at": dispatched_at.or(activated_at).map(clock::iso),
        },
        "sts": sts,
    })))
}

/// What an input lacks to be one that the STS would make.
fn warnings(zone: &ZoneId, input: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let text = |pointer: &str| input.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let version = text("/schema_version");
    if version != POLICY_SCHEMA_VERSION {
        warnings.push(format!("input_schema_mismatch:{version}"));
    }
    if text("/principal/zone_id") != zone.as_str() {
        warnings.push("principal_zone_mismatch".to_owned());
    }
    for (member, warning) in
        [("resource", "missing_resource"), ("action", "missing_action"), ("context", "missing_context")]
    {
        if !input.get(member).is_some_and(Value::is_object) {
            warnings.push(warning.to_owned());
        }
    }
    warnings
}

/// `POST /v1/zones/:z/policy-sets/:id/simulate`. Changes nothing, so it leaves no record.
pub(crate) async fn simulate(
    State(app): State<App>,
    Path((zone, id)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let zone = zone_id(&zone)?;
    let (_, request): (_, Simulate) = body.parse("invalid_body")?;
    let mut connection = app.store.read().await?;
    find_or::<PolicySet>(&mut connection, zone.as_str(), &id, "version_not_found").await?;
    let (row, manifest) = version(&mut connection, &id, &request.version_id, "version_not_found").await?;
    let sources = documents(&mut connection, zone.as_str(), &manifest).await?;
    drop(connection);
    let mut warnings = request.input.as_ref().map(|input| warnings(&zone, input)).unwrap_or_default();
    let outcome = match request.input {
        None => Err(("not_executed", "no input".to_owned())),
        Some(input) => evaluate(sources, input).await?.map_err(|why| ("failed", why)),
    };
    let would_activate = warnings.is_empty() && !matches!(outcome, Err(("failed", _)));
    let manifest_sha256 = row.get("manifest_sha256");
    let (explanation, result) = match outcome {
        Ok(result) => {
            let reason =
                result.pointer("/diagnostics/0/reason").cloned().unwrap_or_else(|| json!("evaluated"));
            let explanation = json!({
                "evaluation": "executed", "reason": reason, "decision": result.get("decision"),
                "policy_set_version_id": request.version_id, "manifest_sha256": manifest_sha256,
            });
            (explanation, result)
        }
        Err((evaluation, why)) => {
            if evaluation == "failed" {
                warnings.push(format!("sts_simulation_failed:{why}"));
            }
            (json!({ "evaluation": evaluation, "reason": why }), Value::Null)
        }
    };
    Ok(Json(json!({
        "dry_run": true, "would_activate": would_activate, "policy_set_id": id, "version_id": request.version_id,
        "schema_version": POLICY_SCHEMA_VERSION, "input_schema_version": POLICY_SCHEMA_VERSION,
        "manifest_sha256": manifest_sha256,
        "policies": manifest.iter().map(|entry| entry.policy_version_id.as_str()).collect::<Vec<_>>(),
        "warnings": warnings, "explanation": explanation, "result": result,
    })))
}

async fn evaluate(sources: Vec<(String, String)>, input: Value) -> Result<Result<Value, String>, Problem> {
    let input: PolicyInput = match serde_json::from_value(input) {
        Ok(input) => input,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let bundle = match try_compile(sources).await? {
        Ok(bundle) => bundle,
        Err(why) => return Ok(Err(why)),
    };
    let decided = tokio::task::spawn_blocking(move || bundle.evaluate(&input)).await;
    let decided =
        decided.map_err(|error| StoreError::corrupt(format!("an evaluation did not end: {error}")))?;
    Ok(decided.map(|decision| decision.to_result_json()).map_err(|error| error.to_string()))
}
