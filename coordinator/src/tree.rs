//! The tree of sessions: who started whom, and who is alive.

use crate::config::{Limits, millis};
use crate::failure::{Code, Failure};
use caracal_mandate::claims::SubjectType;
use caracal_mandate::id::{AgentSessionId, ApplicationId, ZoneId};
use caracal_store::SqlConnection;
use caracal_store::many::{pieces, placeholders};
use caracal_store::model::{AgentSession, AuthorityRecord, Lifecycle, SessionStatus};
use caracal_store::{StoreError, WriteTx};
use serde_json::{Value, json};

/// No parent chain is longer; a longer one is broken.
const MAX_ANCESTORS: u32 = 64;

/// What "live" means for counts and replays (contract §4.3); `$1` is now.
pub(crate) const LIVE: &str = "status IN ('active', 'suspended') AND \
     ((lifecycle = 'service' AND (status = 'suspended' OR heartbeat_deadline_at > $1)) \
      OR (lifecycle = 'task' AND started_at + ttl_seconds * 1000 > $1))";

/// The session, or 404 `session_not_found`.
pub(crate) async fn find(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    id: &AgentSessionId,
) -> Result<AgentSession, Failure> {
    AgentSession::find(connection, zone, id).await?.ok_or_else(|| Code::SessionNotFound.into())
}

/// Does the user's record that a session was started on stand? An application's record need not: it is as old as one
/// mandate, and its application is looked at instead (contract sts §11).
pub(crate) async fn subject_stands(
    connection: &mut SqlConnection,
    session: &AgentSession,
    now: i64,
) -> Result<bool, StoreError> {
    let record =
        AuthorityRecord::find(connection, &session.zone_id, &session.subject_authority_record_id).await?;
    Ok(record.is_some_and(|record| record.subject_type == SubjectType::Application || record.is_live(now)))
}

/// May a session act: active, within its time, and the user whom it acts for still stands ([`subject_stands`])? As a
/// condition on a row of `sessions` that has this name; `now` is a parameter.
pub(crate) fn acts(session: &str, now: &str) -> String {
    format!(
        "{session}.status = 'active' \
         AND (({session}.lifecycle = 'service' AND {session}.heartbeat_deadline_at > {now}) \
           OR ({session}.lifecycle = 'task' AND {session}.started_at + {session}.ttl_seconds * 1000 > {now})) \
         AND EXISTS (SELECT 1 FROM authority_records record \
           WHERE record.id = {session}.subject_authority_record_id AND record.zone_id = {session}.zone_id \
             AND (record.session_type = 'application' OR (record.status = 'active' AND record.expires_at > {now})))"
    )
}

/// Those of two sessions that may act.
pub(crate) async fn find_acting(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    ids: [&AgentSessionId; 2],
    now: i64,
) -> Result<Vec<AgentSession>, StoreError> {
    let sql = format!(
        "SELECT {} FROM sessions WHERE zone_id = $1 AND id IN ($2, $3) AND {}",
        AgentSession::COLUMNS,
        acts("sessions", "$4")
    );
    let [one, other] = ids;
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(one.as_str());
    let rows = query.bind(other.as_str()).bind(now).fetch_all(connection).await?;
    rows.iter().map(AgentSession::from_row).collect()
}

/// May everyone above a session act?
pub(crate) async fn ancestors_may_act(
    connection: &mut SqlConnection,
    session: &AgentSession,
    now: i64,
) -> Result<bool, StoreError> {
    let Some(parent) = &session.parent_id else { return Ok(true) };
    let sql = format!(
        "WITH RECURSIVE up (id, parent_id, height) AS ( \
           SELECT id, parent_id, CAST(1 AS BIGINT) FROM sessions WHERE zone_id = $1 AND id = $2 \
           UNION ALL SELECT above.id, above.parent_id, up.height + 1 FROM up \
             JOIN sessions above ON above.id = up.parent_id \
             WHERE above.zone_id = $1 AND up.height < {MAX_ANCESTORS}) \
         SELECT COUNT(*), COUNT(CASE WHEN above.parent_id IS NULL THEN 1 END), COUNT(CASE WHEN {} THEN 1 END) \
         FROM up JOIN sessions above ON above.id = up.id",
        acts("above", "$3")
    );
    let (all, roots, acting): (i64, i64, i64) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(session.zone_id.as_str())
        .bind(parent.as_str())
        .bind(now)
        .fetch_one(connection)
        .await?;
    Ok(roots == 1 && acting == all)
}

/// How many live sessions there are in the zone, or of one application.
pub(crate) async fn count_live(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    application: Option<&ApplicationId>,
    now: i64,
) -> Result<i64, StoreError> {
    let of_application = if application.is_some() { " AND application_id = $3" } else { "" };
    let sql = format!("SELECT COUNT(*) FROM sessions WHERE {LIVE} AND zone_id = $2{of_application}");
    let mut query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(now).bind(zone.as_str());
    if let Some(application) = application {
        query = query.bind(application.as_str());
    }
    Ok(query.fetch_one(connection).await?)
}

/// How many live children a session has.
pub(crate) async fn count_children(
    connection: &mut SqlConnection,
    parent: &AgentSession,
    now: i64,
) -> Result<i64, StoreError> {
    let sql = format!("SELECT COUNT(*) FROM sessions WHERE {LIVE} AND zone_id || '' = $2 AND parent_id = $3");
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(now)
        .bind(parent.zone_id.as_str())
        .bind(parent.id.as_str());
    Ok(query.fetch_one(connection).await?)
}

/// Is it live in the sense of [`LIVE`]?
pub(crate) fn is_live(session: &AgentSession, now: i64) -> bool {
    match (session.status, session.lifecycle) {
        (SessionStatus::Suspended, Lifecycle::Service) => true,
        (SessionStatus::Active | SessionStatus::Suspended, _) => session.is_within_time(now),
        _ => false,
    }
}

/// A new lease's end.
pub(crate) fn lease_end(now: i64, limits: &Limits) -> i64 {
    now.saturating_add(millis(limits.lease))
}

/// Inserts new sessions, and counts those that have a parent there.
pub(crate) async fn insert_all(tx: &mut WriteTx<'_>, sessions: &[&AgentSession]) -> Result<(), StoreError> {
    for piece in pieces(sessions) {
        let sql = format!(
            "INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, \
             labels_json, metadata_json, status, depth, max_children, child_count, ttl_seconds, started_at, \
             last_active_at, updated_at, last_heartbeat_at, heartbeat_deadline_at, lease_generation) VALUES {}",
            placeholders(piece.len(), 19)
        );
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for session in piece {
            query = query
                .bind(session.id.as_str())
                .bind(session.zone_id.as_str())
                .bind(session.application_id.as_str())
                .bind(session.parent_id.as_ref().map(AgentSessionId::as_str))
                .bind(session.subject_authority_record_id.as_str())
                .bind(session.lifecycle.as_str())
                .bind(json!(session.labels).to_string())
                .bind(session.metadata.to_string())
                .bind(session.status.as_str())
                .bind(session.depth)
                .bind(session.max_children)
                .bind(session.child_count)
                .bind(session.ttl_seconds)
                .bind(session.started_at)
                .bind(session.last_active_at)
                .bind(session.updated_at)
                .bind(session.last_heartbeat_at)
                .bind(session.heartbeat_deadline_at)
                .bind(session.lease_generation);
        }
        query.execute(&mut *tx.connection()).await?;
    }
    for session in sessions {
        let Some(parent) = &session.parent_id else { continue };
        sqlx::query("UPDATE sessions SET child_count = child_count + 1 WHERE zone_id = $1 AND id = $2")
            .bind(session.zone_id.as_str())
            .bind(parent.as_str())
            .execute(&mut *tx.connection())
            .await?;
    }
    Ok(())
}

/// A session's row as lists show it (contract §4.4).
pub(crate) fn to_json(session: &AgentSession) -> Value {
    let time = |millis: Option<i64>| millis.map(caracal_store::clock::iso);
    json!({
        "agent_session_id": session.id,
        "zone_id": session.zone_id,
        "application_id": session.application_id,
        "parent_id": session.parent_id,
        "subject_authority_record_id": session.subject_authority_record_id,
        "lifecycle": session.lifecycle,
        "labels": session.labels,
        "status": session.status,
        "depth": session.depth,
        "ttl_seconds": session.ttl_seconds,
        "metadata": session.metadata,
        "started_at": caracal_store::clock::iso(session.started_at),
        "terminated_at": time(session.terminated_at),
        "termination_reason": session.termination_reason,
        "last_heartbeat_at": time(session.last_heartbeat_at),
        "heartbeat_deadline_at": time(session.heartbeat_deadline_at),
        "lease_generation": session.lease_generation,
    })
}

/// [`to_json`] without some members.
pub(crate) fn to_json_without(session: &AgentSession, members: &[&str]) -> Value {
    let mut value = to_json(session);
    if let Some(object) = value.as_object_mut() {
        for member in members {
            object.remove(*member);
        }
    }
    value
}
