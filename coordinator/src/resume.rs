//! Giving back what a suspension took (contract coordinator §4.6).

use crate::config::Limits;
use crate::tree;
use caracal_mandate::anchor::Anchor;
use caracal_mandate::id::AgentSessionId;
use caracal_store::change::Change;
use caracal_store::model::{AgentSession, Lifecycle};
use caracal_store::revoke::{Cause, Through, subtree};
use caracal_store::{StoreError, WriteTx};

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
    for session in subtree(tx.connection(), &cause.zone, root, Through::Suspended).await? {
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
        let anchors = resumed.iter().map(|session| Anchor::AgentSession(session.id.clone())).collect();
        tx.record_change(&cause.zone, &Change::Restored { anchors }).await?;
    }
    Ok(resumed.len())
}
