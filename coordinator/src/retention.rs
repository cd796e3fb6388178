//! Removing what ended long ago (contract coordinator §12).
//!
//! A delegation binds its receiver even after it ended (contract §24 row 19), so it stays for as long as that session,
//! or any below it, could act. A session stays for as long as anything names it.

use crate::config::{Config, millis};
use caracal_mandate::id::ZoneId;
use caracal_store::revoke::Cause;
use caracal_store::{StoreError, WriteTx, ids};
use serde_json::json;
use std::collections::BTreeMap;

/// Ended before `$1`, at most `$2` of them. What descends from a delegation goes first.
const OLD_EDGES: &str = "DELETE FROM delegation_edges WHERE id IN ( \
       SELECT edge.id FROM delegation_edges edge \
       JOIN sessions receiver ON receiver.id = edge.target_session_id \
       WHERE edge.status <> 'active' AND edge.updated_at <= $1 AND receiver.terminated_at IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM delegation_edges child WHERE child.parent_edge_id = edge.id) \
       ORDER BY edge.updated_at, edge.id LIMIT $2) RETURNING zone_id";

/// Ended before `$1`, at most `$2` of them. What is below a session goes first, and so do its delegations.
const OLD_SESSIONS: &str = "SELECT session.zone_id, session.id FROM sessions session \
       WHERE session.terminated_at <= $1 \
         AND NOT EXISTS (SELECT 1 FROM sessions child WHERE child.parent_id = session.id) \
         AND NOT EXISTS (SELECT 1 FROM delegation_edges edge WHERE edge.source_session_id = session.id) \
         AND NOT EXISTS (SELECT 1 FROM delegation_edges edge WHERE edge.target_session_id = session.id) \
       ORDER BY session.terminated_at, session.id LIMIT $2";

/// How much of a zone was removed.
#[derive(Debug, Default, Clone, Copy)]
struct Removed {
    edges: usize,
    sessions: usize,
}

/// Removes sessions and delegations that ended longer ago than they are kept. Answers how many rows there were.
pub(crate) async fn remove_old(config: &Config) -> Result<usize, StoreError> {
    let mut total = 0;
    loop {
        let limits = config.limits.clone();
        let removed = config
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let batch = limits.sweep_batch.max(1);
                    let mut removed = BTreeMap::new();
                    remove_edges(tx, &mut removed, now - millis(limits.delegation_retention), batch).await?;
                    remove_sessions(tx, &mut removed, now - millis(limits.session_retention), batch).await?;
                    record(tx, &removed).await?;
                    Ok::<_, StoreError>(
                        removed.values().map(|removed| removed.edges + removed.sessions).sum::<usize>(),
                    )
                })
            })
            .await?;
        if removed == 0 {
            return Ok(total);
        }
        total += removed;
    }
}

async fn remove_edges(
    tx: &mut WriteTx<'_>,
    removed: &mut BTreeMap<String, Removed>,
    before: i64,
    batch: i64,
) -> Result<(), StoreError> {
    let zones: Vec<String> =
        sqlx::query_scalar(OLD_EDGES).bind(before).bind(batch).fetch_all(&mut *tx.connection()).await?;
    for zone in zones {
        removed.entry(zone).or_default().edges += 1;
    }
    Ok(())
}

async fn remove_sessions(
    tx: &mut WriteTx<'_>,
    removed: &mut BTreeMap<String, Removed>,
    before: i64,
    batch: i64,
) -> Result<(), StoreError> {
    let old: Vec<(String, String)> =
        sqlx::query_as(OLD_SESSIONS).bind(before).bind(batch).fetch_all(&mut *tx.connection()).await?;
    for (zone, id) in old {
        for statement in [
            "UPDATE agent_invocations SET source_session_id = NULL WHERE source_session_id = $1",
            "UPDATE agent_invocations SET target_session_id = NULL WHERE target_session_id = $1",
            "DELETE FROM sessions WHERE id = $1",
        ] {
            sqlx::query(statement).bind(id.as_str()).execute(&mut *tx.connection()).await?;
        }
        removed.entry(zone).or_default().sessions += 1;
    }
    Ok(())
}

async fn record(tx: &mut WriteTx<'_>, removed: &BTreeMap<String, Removed>) -> Result<(), StoreError> {
    let request_id = ids::new_id();
    for (zone, removed) in removed {
        let cause = Cause {
            zone: ZoneId::new(zone.as_str())
                .map_err(|error| StoreError::corrupt(format!("sessions.zone_id: {error}")))?,
            request_id: request_id.clone(),
            actor: "coordinator-retention".to_owned(),
            reason: "retention".to_owned(),
        };
        let metadata = json!({
            "sessions": removed.sessions, "delegations": removed.edges, "actor": cause.actor, "reason": cause.reason,
        });
        cause.write(tx, "retention_removed", metadata).await?;
    }
    Ok(())
}
