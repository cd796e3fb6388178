//! What takes authority away: each is one piece of one transaction, with the rows, the change for the gateways, and the
//! evidence.

use super::cause::Cause;
use super::reach::{Matches, Reach};
use super::walk::{self, Through};
use crate::change::Change;
use crate::model::{AgentSession, DelegationEdge, SessionStatus};
use crate::{StoreError, WriteTx};
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use std::collections::BTreeSet;

/// How something ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It was taken back.
    Revoked,
    /// Its time is up.
    Expired,
}

/// Ends a session and all below it, and every delegation of theirs, with what descends from it. Answers how many
/// sessions ended: none if it was not live.
pub async fn end_session(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    session: &AgentSessionId,
    ending: Ending,
) -> Result<usize, StoreError> {
    let now = tx.now();
    let matches = Matches::live_session(session);
    let reach = Reach::search(tx.connection(), &cause.zone, &matches, now).await?;
    reach.end(tx, cause, ending).await?;
    Ok(reach.sessions.len())
}

/// Ends a delegation and what descends from it. Sessions live on; they hold that authority no more. Answers the
/// delegations that stood until now.
pub async fn revoke_edge(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    edge: &DelegationEdgeId,
    ending: Ending,
) -> Result<Vec<DelegationEdge>, StoreError> {
    let now = tx.now();
    let reach = Reach::search(tx.connection(), &cause.zone, &Matches::edge(edge), now).await?;
    reach.end(tx, cause, ending).await?;
    Ok(reach.edges)
}

/// Suspends a session and all below it that act. Nothing but the sessions is revoked, so it can be taken back.
pub async fn suspend_session(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    root: &AgentSessionId,
) -> Result<usize, StoreError> {
    let sessions = walk::subtree(tx.connection(), &cause.zone, root, Through::Active).await?;
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
    let anchors = sessions.iter().map(|session| Anchor::AgentSession(session.id.clone())).collect();
    tx.record_change(&cause.zone, &Change::Revoked { anchors }).await?;
    Ok(sessions.len())
}

/// The zone's delegation graph lost edges. New edges take nothing from anyone, so they do not count (contract
/// coordinator §24 row 20).
pub async fn raise_graph_epoch(tx: &mut WriteTx<'_>, zone: &ZoneId) -> Result<(), StoreError> {
    sqlx::query("UPDATE zones SET graph_epoch = graph_epoch + 1 WHERE id = $1")
        .bind(zone.as_str())
        .execute(&mut *tx.connection())
        .await?;
    Ok(())
}

impl Reach {
    /// Ends all of it: one change for the gateways, and evidence of each. Nothing is written where there is nothing.
    pub async fn end(&self, tx: &mut WriteTx<'_>, cause: &Cause, ending: Ending) -> Result<(), StoreError> {
        if self.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<&AgentSessionId> = self.sessions.iter().map(|session| &session.id).collect();
        let mut anchors = Vec::new();
        for session in &self.sessions {
            let below = session.parent_id.as_ref().is_some_and(|parent| ids.contains(parent));
            write_session(tx, cause, session, below, ending).await?;
            anchors.push(Anchor::AgentSession(session.id.clone()));
        }
        // Where sessions end, their delegations are taken back, however the sessions end.
        let of_edges = if self.sessions.is_empty() { ending } else { Ending::Revoked };
        for edge in &self.edges {
            write_edge(tx, cause, edge, of_edges).await?;
            anchors.push(Anchor::DelegationEdge(edge.id.clone()));
        }
        let now = tx.now();
        for record in &self.records {
            sqlx::query(
                "UPDATE authority_records SET status = 'revoked', revoked_at = $1, revoked_reason = $2 \
                 WHERE zone_id = $3 AND id = $4",
            )
            .bind(now)
            .bind(cause.reason.as_str())
            .bind(cause.zone.as_str())
            .bind(record.id.as_str())
            .execute(&mut *tx.connection())
            .await?;
            cause.record(tx, "authority_record_revoked", record).await?;
            anchors.push(Anchor::AuthorityRecord(record.id.clone()));
        }
        if !self.edges.is_empty() {
            raise_graph_epoch(tx, &cause.zone).await?;
        }
        tx.record_change(&cause.zone, &Change::Revoked { anchors }).await?;
        Ok(())
    }
}

async fn write_session(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    session: &AgentSession,
    below: bool,
    ending: Ending,
) -> Result<(), StoreError> {
    let now = tx.now();
    let (status, reason) = match (below, ending) {
        (true, _) => (SessionStatus::Terminated, "parent_terminated"),
        (false, Ending::Revoked) => (SessionStatus::Terminated, cause.reason.as_str()),
        (false, Ending::Expired) => (SessionStatus::Expired, cause.reason.as_str()),
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
    if let (false, Some(parent)) = (below, &session.parent_id) {
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
    cause.session(tx, kind, session, reason).await
}

async fn write_edge(
    tx: &mut WriteTx<'_>,
    cause: &Cause,
    edge: &DelegationEdge,
    ending: Ending,
) -> Result<(), StoreError> {
    let now = tx.now();
    let (status, revoked_at, kind) = match ending {
        Ending::Revoked => ("revoked", Some(now), "delegation_revoked"),
        Ending::Expired => ("expired", None, "delegation_expired"),
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
    cause.edge(tx, kind, edge).await
}
