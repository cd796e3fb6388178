//! Walks: down the tree of sessions, and along the lineage of delegations.

use crate::SqlConnection;
use crate::StoreError;
use crate::model::{AgentSession, DelegationEdge};
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use std::collections::HashMap;

/// Through which sessions a walk down the tree goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// Those that act.
    Active,
    /// Those that may act again.
    Suspended,
}

/// The session and all below it, parents first, as far as the walk goes.
pub async fn subtree(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    root: &AgentSessionId,
    through: Through,
) -> Result<Vec<AgentSession>, StoreError> {
    let status = match through {
        Through::Active => "active",
        Through::Suspended => "suspended",
    };
    let sql = format!(
        "WITH RECURSIVE tree (id) AS ( \
           SELECT id FROM sessions WHERE zone_id = $1 AND id = $2 AND status = '{status}' \
           UNION SELECT child.id FROM sessions child JOIN tree ON child.parent_id = tree.id \
             WHERE child.zone_id = $1 AND child.status = '{status}') \
         SELECT {columns} FROM sessions WHERE id IN (SELECT id FROM tree) ORDER BY depth, id",
        columns = AgentSession::COLUMNS,
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(root.as_str());
    query.fetch_all(connection).await?.iter().map(AgentSession::from_row).collect()
}

/// An edge and all that descend from it by `parent_edge_id`, with their distance from it, nearest first.
pub async fn edge_descendants(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    root: &DelegationEdgeId,
) -> Result<Vec<(DelegationEdge, usize)>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE line (id) AS ( \
           SELECT id FROM delegation_edges WHERE zone_id = $1 AND id = $2 \
           UNION SELECT child.id FROM delegation_edges child JOIN line ON child.parent_edge_id = line.id \
             WHERE child.zone_id = $1) \
         SELECT {} FROM delegation_edges WHERE id IN (SELECT id FROM line) ORDER BY id",
        DelegationEdge::COLUMNS
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(root.as_str());
    let edges: Vec<DelegationEdge> =
        query.fetch_all(connection).await?.iter().map(DelegationEdge::from_row).collect::<Result<_, _>>()?;
    let depths: HashMap<_, _> =
        edges.iter().map(|edge| (edge.id.clone(), edge.parent_edge_id.clone())).collect();
    let mut placed: Vec<(DelegationEdge, usize)> = edges
        .into_iter()
        .map(|edge| {
            let (mut depth, mut at) = (0, &edge.id);
            while at != root && depth <= depths.len() {
                let Some(Some(parent)) = depths.get(at) else { break };
                (depth, at) = (depth + 1, parent);
            }
            (edge, depth)
        })
        .collect();
    placed.sort_by_key(|(_, depth)| *depth);
    Ok(placed)
}
