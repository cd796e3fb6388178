//! `GET /stats`: how much there is, and what the jobs did (contract coordinator §9).

use crate::caller::check_operator;
use crate::config::Config;
use crate::failure::Failure;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use caracal_store::SqlConnection;
use caracal_store::audit;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `GET /stats`, for the operator's token only.
pub(crate) async fn route(
    State(config): State<Arc<Config>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Failure> {
    check_operator(&config, &headers)?;
    let now = config.store.now();
    let mut connection = config.store.read().await?;
    let (receipts, oldest): (i64, Option<i64>) =
        sqlx::query_as("SELECT COUNT(*), MIN(created_at) FROM idempotency_receipts")
            .fetch_one(&mut *connection)
            .await?;
    let mut stats = config.counters.jobs_json();
    let members = [
        ("sessions", by_status(&mut connection, "sessions").await?),
        ("delegations", by_status(&mut connection, "delegation_edges").await?),
        ("invocations", by_status(&mut connection, "agent_invocations").await?),
        ("outbox", json!({ "pending": audit::count_waiting(&mut connection).await? })),
        (
            "idempotency",
            json!({
                "rows": receipts,
                "oldestSeconds": oldest.map_or(0, |oldest| (now - oldest).max(0) / 1000),
                "outcomes": config.counters.keys_json(),
            }),
        ),
    ];
    stats.extend(members.map(|(name, value)| (name.to_owned(), value)));
    Ok(Json(Value::Object(stats)))
}

/// How many rows of a table there are of each status.
async fn by_status(connection: &mut SqlConnection, table: &'static str) -> Result<Value, Failure> {
    let sql = format!("SELECT status, COUNT(*) FROM {table} GROUP BY status");
    let counts: Vec<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await?;
    let members: Map<String, Value> =
        counts.into_iter().map(|(status, count)| (status, Value::from(count))).collect();
    Ok(Value::Object(members))
}
