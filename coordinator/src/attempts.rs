//! What becomes of a call: started, canceled, completed (contract coordinator §8).

use crate::body::{self, Fields};
use crate::caller::{Caller, path_id};
use crate::config::{Config, Limits};
use crate::failure::{Code, Failure};
use crate::invocations::{COLUMNS, charge, evidence, to_json};
use crate::page::json_column;
use crate::services;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use caracal_mandate::id::AgentSessionId;
use caracal_store::WriteTx;
use serde_json::{Map, Value};
use sqlx::Row as _;
use std::sync::Arc;

/// What is to become of it.
#[derive(Debug)]
enum Step {
    Start,
    Cancel,
    Complete { succeeded: bool, error: Option<Value>, metadata: Map<String, Value> },
}

/// `PATCH /zones/{zone}/invocations/{invocation}/start`
pub(crate) async fn start_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, invocation)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    step(&config, caller, invocation, Step::Start).await
}

/// `PATCH /zones/{zone}/invocations/{invocation}/cancel`
pub(crate) async fn cancel_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, invocation)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let bytes = body::read(body, config.limits.body_bytes).await?;
    if !bytes.trim_ascii().is_empty() {
        let mut fields = Fields::parse(&bytes)?;
        let reason = fields.text("reason");
        if reason.is_some_and(|reason| !(1..=256).contains(&reason.chars().count())) {
            fields.issue(&["reason"], "has 1 to 256 characters");
        }
        fields.finish()?;
    }
    step(&config, caller, invocation, Step::Cancel).await
}

/// `PATCH /zones/{zone}/invocations/{invocation}/complete`
pub(crate) async fn complete_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, invocation)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let mut fields = Fields::parse(&body::read(body, config.limits.body_bytes).await?)?;
    let succeeded = fields.word("status", &[("succeeded", true), ("failed", false)]);
    if succeeded.is_none() {
        fields.issue(&["status"], "is required, succeeded or failed");
    }
    let error = fields.take("error").filter(|error| !error.is_null());
    if error.as_ref().is_some_and(|error| !error.is_object()) {
        fields.issue(&["error"], "is not an object");
    }
    let metadata = fields.object("metadata");
    fields.finish()?;
    let succeeded = fields.whole(succeeded)?;
    step(&config, caller, invocation, Step::Complete { succeeded, error, metadata }).await
}

async fn step(config: &Config, caller: Caller, id: String, step: Step) -> Result<Json<Value>, Failure> {
    let id: AgentSessionId = path_id(id)?;
    let limits = config.limits.clone();
    let row = config
        .store
        .write(move |tx| Box::pin(async move { take(tx, &limits, &caller, id.as_str(), step).await }))
        .await?;
    Ok(Json(row))
}

async fn take(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    id: &str,
    step: Step,
) -> Result<Value, Failure> {
    let now = tx.now();
    caller.check_stands(tx.connection(), now).await?;
    charge(tx, limits, caller).await?;
    let row = sqlx::query(
        "SELECT service_id, status, attempts, max_attempts, timeout_ms, deadline_at, metadata_json \
         FROM agent_invocations WHERE zone_id = $1 AND id = $2",
    )
    .bind(caller.zone.as_str())
    .bind(id)
    .fetch_optional(&mut *tx.connection())
    .await?
    .ok_or(Code::InvocationNotFound)?;
    let service: String = row.try_get("service_id")?;
    let owner = services::owner(tx.connection(), caller, &service).await?;
    if !caller.is_admin() && !caller.acts_for(&owner, "invoke_from") {
        return Err(Code::InvokerOwnershipRequired.into());
    }
    let status: String = row.try_get("status")?;
    let (attempts, most): (i64, i64) = (row.try_get("attempts")?, row.try_get("max_attempts")?);
    let timeout: i64 = row.try_get("timeout_ms")?;
    let is = |words: &[&str]| words.contains(&status.as_str());
    let (change, kind, error, metadata) = match step {
        Step::Start if is(&["pending", "failed"]) && attempts < most => {
            let deadline = now.saturating_add(timeout);
            let change = format!(
                "status = 'running', attempts = attempts + 1, deadline_at = {deadline}, started_at = {now}, \
                 completed_at = NULL"
            );
            (change, "invocation_started", None, Map::new())
        }
        Step::Start => return Err(Code::InvocationNotStartable.into()),
        Step::Cancel if is(&["pending"]) => {
            let change = format!("status = 'canceled', completed_at = {now}");
            (change, "invocation_canceled", None, Map::new())
        }
        Step::Cancel if is(&["running"]) => {
            let change = format!("status = 'cancel_requested', cancel_requested_at = {now}");
            (change, "invocation_cancel_requested", None, Map::new())
        }
        Step::Cancel => return Err(Code::InvocationNotCancelable.into()),
        Step::Complete { succeeded, error, metadata } if is(&["running", "cancel_requested"]) => {
            let (word, kind) = if succeeded {
                ("succeeded", "invocation_succeeded")
            } else {
                ("failed", "invocation_failed")
            };
            (format!("status = '{word}', completed_at = {now}"), kind, error, metadata)
        }
        Step::Complete { .. } => return Err(Code::InvocationNotCompletable.into()),
    };
    let mut merged = json_column(&row, "metadata_json")?;
    if let Some(members) = merged.as_object_mut() {
        members.extend(metadata);
    }
    let sql = format!(
        "UPDATE agent_invocations SET {change}, error_json = $1, metadata_json = $2, updated_at = $3 \
         WHERE zone_id = $4 AND id = $5 RETURNING {COLUMNS}"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(error.map(|error| error.to_string()))
        .bind(merged.to_string())
        .bind(now)
        .bind(caller.zone.as_str())
        .bind(id)
        .fetch_one(&mut *tx.connection())
        .await?;
    let changed = to_json(&row)?;
    caller.cause("requested").write(tx, kind, evidence(&changed, caller)).await?;
    Ok(changed)
}
