//! The graph of delegations: edges, their lineage, and whether they can be used.

use crate::failure::Failure;
use crate::tree;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use caracal_mandate::narrow::MAX_HOPS;
use caracal_store::SqlConnection;
use caracal_store::clock::iso;
use caracal_store::model::{AgentSession, DelegationEdge};
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};

/// Every edge that leads to a session, whatever its status, oldest first. The zone is compared so that the planner does
/// not go through all of it by its index.
pub(crate) async fn inbound(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    session: &AgentSessionId,
) -> Result<Vec<DelegationEdge>, StoreError> {
    let sql = format!(
        "SELECT {} FROM delegation_edges WHERE zone_id || '' = $1 AND target_session_id = $2 ORDER BY created_at, id",
        DelegationEdge::COLUMNS
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(session.as_str());
    query.fetch_all(connection).await?.iter().map(DelegationEdge::from_row).collect()
}

/// Was a session, or one above it, ever handed authority? Then it is bound by it and is no root of its own.
pub(crate) async fn is_bound(
    connection: &mut SqlConnection,
    session: &AgentSession,
) -> Result<bool, StoreError> {
    let sql = "WITH RECURSIVE up (id, parent_id) AS ( \
                 SELECT id, parent_id FROM sessions WHERE zone_id = $1 AND id = $2 \
                 UNION SELECT above.id, above.parent_id FROM sessions above JOIN up ON above.id = up.parent_id \
                   WHERE above.zone_id = $1) \
               SELECT COUNT(*) FROM delegation_edges WHERE zone_id || '' = $1 AND target_session_id IN (SELECT id FROM up)";
    let count: i64 = sqlx::query_scalar(sql)
        .bind(session.zone_id.as_str())
        .bind(session.id.as_str())
        .fetch_one(connection)
        .await?;
    Ok(count > 0)
}

/// How many edges lead from the root edge to this one, if all of that can be used: every edge live, every session along
/// it able to act. `None` where it cannot, is broken, or is longer than any path may be.
pub(crate) async fn usable_lineage(
    connection: &mut SqlConnection,
    edge: &DelegationEdge,
    now: i64,
) -> Result<Option<u32>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE up (id, parent_edge_id, length) AS ( \
           SELECT id, parent_edge_id, CAST(1 AS BIGINT) FROM delegation_edges WHERE zone_id = $1 AND id = $2 \
           UNION ALL SELECT above.id, above.parent_edge_id, up.length + 1 FROM up \
             JOIN delegation_edges above ON above.id = up.parent_edge_id \
             WHERE above.zone_id = $1 AND up.length <= {MAX_HOPS}) \
         SELECT COUNT(*), COUNT(CASE WHEN edge.parent_edge_id IS NULL THEN 1 END), \
           COUNT(CASE WHEN edge.status = 'active' AND edge.revoked_at IS NULL AND edge.expires_at > $3 \
             AND {} AND {} THEN 1 END) \
         FROM up JOIN delegation_edges edge ON edge.id = up.id \
         LEFT JOIN sessions source ON source.id = edge.source_session_id AND source.zone_id = $1 \
         LEFT JOIN sessions target ON target.id = edge.target_session_id AND target.zone_id = $1",
        tree::acts("source", "$3"),
        tree::acts("target", "$3"),
    );
    let (length, roots, usable): (i64, i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(edge.zone_id.as_str())
        .bind(edge.id.as_str())
        .bind(now)
        .fetch_one(connection)
        .await?;
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    Ok((roots == 1 && usable == i64::from(length) && length <= MAX_HOPS).then_some(length))
}

/// Is a lineage so long that no further edge may follow?
pub(crate) fn is_full(length: u32) -> bool {
    length >= MAX_HOPS
}

/// Do live edges lead from one session to another?
pub(crate) async fn leads_to(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    from: &AgentSessionId,
    to: &AgentSessionId,
    now: i64,
) -> Result<bool, StoreError> {
    let sql = "WITH RECURSIVE reached (id) AS ( \
                 SELECT id FROM sessions WHERE zone_id = $1 AND id = $2 \
                 UNION SELECT edge.target_session_id FROM delegation_edges edge \
                   JOIN reached ON edge.source_session_id = reached.id \
                   WHERE edge.zone_id = $1 AND edge.status = 'active' AND edge.expires_at > $3) \
               SELECT COUNT(*) FROM reached WHERE id = $4";
    let count: i64 = sqlx::query_scalar(sql)
        .bind(zone.as_str())
        .bind(from.as_str())
        .bind(now)
        .bind(to.as_str())
        .fetch_one(connection)
        .await?;
    Ok(count > 0)
}

/// Inserts an edge.
pub(crate) async fn insert(tx: &mut WriteTx<'_>, edge: &DelegationEdge) -> Result<(), Failure> {
    let constraints = constraints_json(edge)?.to_string();
    sqlx::query(
        "INSERT INTO delegation_edges (id, zone_id, source_session_id, target_session_id, issuer_application_id, \
         receiver_application_id, parent_edge_id, inherited, resource_id, scopes_json, constraints_json, status, \
         expires_at, edge_version, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'active', $12, 0, $13, $13)",
    )
    .bind(edge.id.as_str())
    .bind(edge.zone_id.as_str())
    .bind(edge.source_session_id.as_str())
    .bind(edge.target_session_id.as_str())
    .bind(edge.issuer_application_id.as_str())
    .bind(edge.receiver_application_id.as_str())
    .bind(edge.parent_edge_id.as_ref().map(DelegationEdgeId::as_str))
    .bind(i64::from(edge.inherited))
    .bind(edge.resource_id.as_ref().map(|id| id.as_str().to_owned()))
    .bind(json!(edge.scopes).to_string())
    .bind(constraints)
    .bind(edge.expires_at)
    .bind(edge.created_at)
    .execute(&mut *tx.connection())
    .await?;
    Ok(())
}

/// An edge's row as lists show it (contract §6.1).
pub(crate) fn to_json(edge: &DelegationEdge) -> Result<Value, Failure> {
    Ok(json!({
        "id": edge.id,
        "zone_id": edge.zone_id,
        "source_session_id": edge.source_session_id,
        "target_session_id": edge.target_session_id,
        "issuer_application_id": edge.issuer_application_id,
        "receiver_application_id": edge.receiver_application_id,
        "parent_edge_id": edge.parent_edge_id,
        "resource_id": edge.resource_id,
        "scopes": edge.scopes,
        "constraints_json": constraints_json(edge)?,
        "status": edge.status,
        "expires_at": iso(edge.expires_at),
        "edge_version": edge.edge_version,
        "revoked_at": edge.revoked_at.map(iso),
        "created_at": iso(edge.created_at),
    }))
}

fn constraints_json(edge: &DelegationEdge) -> Result<Value, Failure> {
    let value = serde_json::to_value(&edge.constraints);
    Ok(value.map_err(|error| StoreError::corrupt(format!("constraints: {error}")))?)
}
