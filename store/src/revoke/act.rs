//! What takes authority away: each is one piece of one transaction, with the rows, the change for the gateways, and the
//! evidence.

use super::cause::Cause;
use super::reach::{Matches, Reach};
use super::walk::{self, Through};
use crate::audit::AuditEvent;
use crate::change::Change;
use crate::many::{list, pieces};
use crate::model::{AgentSession, DelegationEdge, LiveSessions, SessionStatus};
use crate::{StoreError, WriteTx};
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use std::collections::{BTreeMap, BTreeSet};

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
    let reach = Reach::of_live_session(tx.connection(), &cause.zone, session, now).await?;
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

/// Ends sessions of a zone that [`find_alone`] found in this transaction, each for its own cause: one change for the
/// gateways, whatever their number.
pub async fn end_alone(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    ended: &[(Cause, AgentSession)],
) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    let now = tx.now();
    let mut by_reason = BTreeMap::<&str, Vec<&AgentSession>>::new();
    for (cause, session) in ended {
        by_reason.entry(&cause.reason).or_default().push(session);
    }
    for (reason, sessions) in by_reason {
        write_ended(tx, zone, &sessions, SessionStatus::Terminated, reason).await?;
    }
    let sessions: Vec<&AgentSession> = ended.iter().map(|(_, session)| session).collect();
    uncount(tx, zone, &sessions, &sessions).await?;
    let told = |(cause, session): &(Cause, AgentSession)| {
        cause.of_session(now, "session_terminated", session, &cause.reason)
    };
    tx.audit_all(&ended.iter().map(told).collect::<Vec<_>>()).await?;
    let anchors = sessions.iter().map(|session| Anchor::AgentSession(session.id.clone())).collect();
    tx.record_change(zone, &Change::Revoked { anchors }).await?;
    Ok(())
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
    let zone = cause.zone.as_str();
    for piece in pieces(&sessions) {
        let sql = format!(
            "UPDATE sessions SET status = 'suspended', updated_at = $1 WHERE zone_id = $2 AND id IN {}",
            list(piece.len(), 2)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(now).bind(zone);
        for session in piece {
            query = query.bind(session.id.as_str());
        }
        query.execute(&mut *tx.connection()).await?;
    }
    let told = |session| cause.of_session(now, "session_suspended", session, &cause.reason);
    tx.audit_all(&sessions.iter().map(told).collect::<Vec<_>>()).await?;
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
        let mut events = Vec::new();
        self.end_sessions(tx, cause, ending, &mut events).await?;
        self.end_edges(tx, cause, ending, &mut events).await?;
        self.end_records(tx, cause, &mut events).await?;
        tx.audit_all(&events).await?;
        if !self.edges.is_empty() {
            raise_graph_epoch(tx, &cause.zone).await?;
        }
        let sessions = self.sessions.iter().map(|session| Anchor::AgentSession(session.id.clone()));
        let edges = self.edges.iter().map(|edge| Anchor::DelegationEdge(edge.id.clone()));
        let records = self.records.iter().map(|record| Anchor::AuthorityRecord(record.id.clone()));
        let anchors = sessions.chain(edges).chain(records).collect();
        tx.record_change(&cause.zone, &Change::Revoked { anchors }).await?;
        Ok(())
    }

    /// The topmost end as they are told to, all below them as children of what ended.
    async fn end_sessions(
        &self,
        tx: &mut WriteTx<'_>,
        cause: &Cause,
        ending: Ending,
        events: &mut Vec<AuditEvent>,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        let ids: BTreeSet<&AgentSessionId> = self.sessions.iter().map(|session| &session.id).collect();
        let is_below =
            |session: &&AgentSession| session.parent_id.as_ref().is_some_and(|parent| ids.contains(parent));
        let (below, top): (Vec<&AgentSession>, Vec<&AgentSession>) = self.sessions.iter().partition(is_below);
        let status = match ending {
            Ending::Revoked => SessionStatus::Terminated,
            Ending::Expired => SessionStatus::Expired,
        };
        for (sessions, status, reason) in
            [(&top, status, cause.reason.as_str()), (&below, SessionStatus::Terminated, "parent_terminated")]
        {
            let kind =
                if status == SessionStatus::Expired { "session_expired" } else { "session_terminated" };
            events.extend(sessions.iter().map(|session| cause.of_session(now, kind, session, reason)));
            write_ended(tx, &cause.zone, sessions, status, reason).await?;
        }
        uncount(tx, &cause.zone, &self.sessions.iter().collect::<Vec<_>>(), &top).await
    }

    /// Where sessions end, their delegations are taken back, however the sessions end.
    async fn end_edges(
        &self,
        tx: &mut WriteTx<'_>,
        cause: &Cause,
        ending: Ending,
        events: &mut Vec<AuditEvent>,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        let ending = if self.sessions.is_empty() { ending } else { Ending::Revoked };
        let (status, revoked_at, kind) = match ending {
            Ending::Revoked => ("revoked", Some(now), "delegation_revoked"),
            Ending::Expired => ("expired", None, "delegation_expired"),
        };
        events.extend(self.edges.iter().map(|edge| cause.of_edge(now, kind, edge)));
        for piece in pieces(&self.edges) {
            let sql = format!(
                "UPDATE delegation_edges SET status = $1, revoked_at = $2, updated_at = $3, \
                 edge_version = edge_version + 1 WHERE zone_id = $4 AND id IN {}",
                list(piece.len(), 4)
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(status).bind(revoked_at).bind(now);
            let mut query = query.bind(cause.zone.as_str());
            for edge in piece {
                query = query.bind(edge.id.as_str());
            }
            query.execute(&mut *tx.connection()).await?;
        }
        Ok(())
    }

    async fn end_records(
        &self,
        tx: &mut WriteTx<'_>,
        cause: &Cause,
        events: &mut Vec<AuditEvent>,
    ) -> Result<(), StoreError> {
        let now = tx.now();
        let told = |record| cause.of_record(now, "authority_record_revoked", record);
        events.extend(self.records.iter().map(told));
        for piece in pieces(&self.records) {
            let sql = format!(
                "UPDATE authority_records SET status = 'revoked', revoked_at = $1, revoked_reason = $2 \
                 WHERE zone_id = $3 AND id IN {}",
                list(piece.len(), 3)
            );
            let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(now).bind(cause.reason.as_str());
            let mut query = query.bind(cause.zone.as_str());
            for record in piece {
                query = query.bind(record.id.as_str());
            }
            query.execute(&mut *tx.connection()).await?;
        }
        Ok(())
    }
}

async fn write_ended(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    sessions: &[&AgentSession],
    status: SessionStatus,
    reason: &str,
) -> Result<(), StoreError> {
    let now = tx.now();
    for piece in pieces(sessions) {
        let sql = format!(
            "UPDATE sessions SET status = $1, terminated_at = $2, termination_reason = $3, updated_at = $2 \
             WHERE zone_id = $4 AND id IN {}",
            list(piece.len(), 4)
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(status.as_str()).bind(now).bind(reason);
        let mut query = query.bind(zone.as_str());
        for session in piece {
            query = query.bind(session.id.as_str());
        }
        query.execute(&mut *tx.connection()).await?;
    }
    Ok(())
}

/// Takes sessions that ended out of the numbers: all out of the live ones, the topmost out of those of their parents.
async fn uncount(
    tx: &mut WriteTx<'_>,
    zone: &ZoneId,
    all: &[&AgentSession],
    top: &[&AgentSession],
) -> Result<(), StoreError> {
    for (parent, children) in counted(top.iter().filter_map(|session| session.parent_id.as_ref())) {
        sqlx::query(
            "UPDATE sessions SET child_count = CASE WHEN child_count > $1 THEN child_count - $1 ELSE 0 END \
             WHERE zone_id = $2 AND id = $3",
        )
        .bind(i64::try_from(children).unwrap_or(i64::MAX))
        .bind(zone.as_str())
        .bind(parent.as_str())
        .execute(&mut *tx.connection())
        .await?;
    }
    for (application, ended) in counted(all.iter().map(|session| &session.application_id)) {
        LiveSessions::remove(tx, zone, application, ended).await?;
    }
    Ok(())
}

/// How often each is there.
fn counted<'a, T: Ord + 'a>(all: impl Iterator<Item = &'a T>) -> BTreeMap<&'a T, usize> {
    let mut counts = BTreeMap::new();
    for one in all {
        *counts.entry(one).or_insert(0) += 1;
    }
    counts
}
