//! What takes authority away, and gives it back: terminate, suspend, resume, revoke (contract coordinator §4.6, §6.8).
//!
//! Each of them is one piece of one transaction: the rows, the change for the gateways, the evidence.

use crate::config::Limits;
use crate::event::Cause;
use crate::graph;
use crate::tree::{self, Through};
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId};
use caracal_store::change::Change;
use caracal_store::model::{AgentSession, DelegationEdge, EdgeStatus, Lifecycle, SessionStatus};
use caracal_store::{StoreError, WriteTx};
use std::collections::BTreeSet;

/// How an edge ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdgeEnd {
    /// It was taken back.
    Revoked,
    /// Its time is up.
    Expired,
}

/// Ends a session and all below it, and every edge that leads to or from one of them, with what descends from it.
/// `root_status` is what becomes of the session itself. Answers how many sessions ended: none if it was not live.
pub(crate) async fn terminate(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    root: &AgentSessionId,
    root_status: SessionStatus,
) -> Result<usize, StoreError> {
    let ending = tree::subtree(tx.connection(), &cause.zone, root, Through::Live).await?;
    if ending.is_empty() {
        return Ok(0);
    }
    let now = tx.now();
    let mut touched = BTreeSet::new();
    for session in &ending {
        let is_root = session.id == *root;
        let (status, reason) = if is_root {
            (root_status, cause.reason.as_str())
        } else {
            (SessionStatus::Terminated, "parent_terminated")
        };
        sqlx::query(
            "UPDATE sessions SET status = $1, terminated_at = $2, termination_reason = $3, updated_at = $2 \
             WHERE zone_id = $4 AND id = $5",
        )
        .bind(status.as_str())
        .bind(now)
        .bind(reason)
        .bind(cause.zone.as_str())
        .bind(session.id.as_str())
        .execute(&mut *tx.connection())
        .await?;
        if let (true, Some(parent)) = (is_root, &session.parent_id) {
            sqlx::query(
                "UPDATE sessions SET child_count = CASE WHEN child_count > 0 THEN child_count - 1 ELSE 0 END \
                 WHERE zone_id = $1 AND id = $2",
            )
            .bind(cause.zone.as_str())
            .bind(parent.as_str())
            .execute(&mut *tx.connection())
            .await?;
        }
        let kind = if status == SessionStatus::Expired { "session_expired" } else { "session_terminated" };
        cause.session(tx, kind, session, reason).await?;
        let ids: Vec<String> = sqlx::query_scalar(
            "SELECT id FROM delegation_edges WHERE zone_id = $1 AND status = 'active' \
             AND (source_session_id = $2 OR target_session_id = $2) ORDER BY id",
        )
        .bind(cause.zone.as_str())
        .bind(session.id.as_str())
        .fetch_all(&mut *tx.connection())
        .await?;
        for id in ids {
            touched.insert(
                DelegationEdgeId::new(id)
                    .map_err(|error| StoreError::corrupt(format!("delegation_edges.id: {error}")))?,
            );
        }
    }
    let mut anchors = session_anchors(&ending);
    for id in &touched {
        let edges = end_edges(tx, cause, id, EdgeEnd::Revoked).await?;
        anchors.extend(edges.into_iter().map(|edge| Anchor::DelegationEdge(edge.id)));
    }
    if anchors.len() > ending.len() {
        graph::raise_epoch(tx, &cause.zone).await?;
    }
    tx.record_change(&cause.zone, &Change::Revoked { anchors }).await?;
    Ok(ending.len())
}

/// Suspends a session and all below it that act. Nothing but the sessions is revoked, so it can be taken back.
pub(crate) async fn suspend(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    root: &AgentSessionId,
) -> Result<usize, StoreError> {
    let sessions = tree::subtree(tx.connection(), &cause.zone, root, Through::Active).await?;
    if sessions.is_empty() {
        return Ok(0);
    }
    let now = tx.now();
    for session in &sessions {
        sqlx::query(
            "UPDATE sessions SET status = 'suspended', updated_at = $1 WHERE zone_id = $2 AND id = $3",
        )
        .bind(now)
        .bind(cause.zone.as_str())
        .bind(session.id.as_str())
        .execute(&mut *tx.connection())
        .await?;
        cause.session(tx, "session_suspended", session, &cause.reason).await?;
    }
    let anchors = session_anchors(&sessions);
    tx.record_change(&cause.zone, &Change::Revoked { anchors }).await?;
    Ok(sessions.len())
}

/// Lets a suspended session act again, and the suspended ones below it. A task whose time is up stays as it is, with
/// all below it; a service gets a fresh lease. The caller has looked at what is above.
pub(crate) async fn resume(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    root: &AgentSessionId,
    limits: &Limits,
) -> Result<usize, StoreError> {
    let now = tx.now();
    let deadline = tree::lease_end(now, limits);
    let mut resumed: Vec<AgentSession> = Vec::new();
    for session in tree::subtree(tx.connection(), &cause.zone, root, Through::Suspended).await? {
        let follows = session.id == *root
            || session.parent_id.as_ref().is_some_and(|parent| resumed.iter().any(|done| done.id == *parent));
        let in_time = session.lifecycle == Lifecycle::Service || session.is_within_time(now);
        if !follows || !in_time || !tree::subject_stands(tx.connection(), &session, now).await? {
            continue;
        }
        sqlx::query(
            "UPDATE sessions SET status = 'active', updated_at = $1, \
             heartbeat_deadline_at = CASE WHEN lifecycle = 'service' THEN $2 ELSE NULL END \
             WHERE zone_id = $3 AND id = $4",
        )
        .bind(now)
        .bind(deadline)
        .bind(cause.zone.as_str())
        .bind(session.id.as_str())
        .execute(&mut *tx.connection())
        .await?;
        cause.session(tx, "session_resumed", &session, &cause.reason).await?;
        resumed.push(session);
    }
    if !resumed.is_empty() {
        let anchors = session_anchors(&resumed);
        tx.record_change(&cause.zone, &Change::Restored { anchors }).await?;
    }
    Ok(resumed.len())
}

/// Revokes an edge and what descends from it, and tells the gateways. Sessions live on; they hold that authority no
/// more. Answers the edges that stood until now.
pub(crate) async fn revoke(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    edge: &DelegationEdgeId,
    end: EdgeEnd,
) -> Result<Vec<DelegationEdge>, StoreError> {
    let edges = end_edges(tx, cause, edge, end).await?;
    if !edges.is_empty() {
        graph::raise_epoch(tx, &cause.zone).await?;
        let anchors = edges.iter().map(|edge| Anchor::DelegationEdge(edge.id.clone())).collect();
        tx.record_change(&cause.zone, &Change::Revoked { anchors }).await?;
    }
    Ok(edges)
}

async fn end_edges(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    edge: &DelegationEdgeId,
    end: EdgeEnd,
) -> Result<Vec<DelegationEdge>, StoreError> {
    let now = tx.now();
    let mut ended = Vec::new();
    for (edge, _) in graph::descendants(tx.connection(), &cause.zone, edge).await? {
        if edge.status != EdgeStatus::Active {
            continue;
        }
        let (status, revoked_at, kind) = match end {
            EdgeEnd::Revoked => ("revoked", Some(now), "delegation_revoked"),
            EdgeEnd::Expired => ("expired", None, "delegation_expired"),
        };
        sqlx::query(
            "UPDATE delegation_edges SET status = $1, revoked_at = $2, updated_at = $3, \
             edge_version = edge_version + 1 WHERE zone_id = $4 AND id = $5",
        )
        .bind(status)
        .bind(revoked_at)
        .bind(now)
        .bind(cause.zone.as_str())
        .bind(edge.id.as_str())
        .execute(&mut *tx.connection())
        .await?;
        cause.edge(tx, kind, &edge).await?;
        ended.push(edge);
    }
    Ok(ended)
}

fn session_anchors(sessions: &[AgentSession]) -> Vec<Anchor> {
    sessions.iter().map(|session| Anchor::AgentSession(session.id.clone())).collect()
}
