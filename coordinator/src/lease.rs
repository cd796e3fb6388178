//! The lease of a service: taken over, and renewed (contract coordinator §5).

use crate::body::{self, Fields};
use crate::caller::{Caller, path_id};
use crate::config::{Config, Limits};
use crate::failure::{Code, Failure};
use crate::services;
use crate::sessions::find_owned;
use crate::tree;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use caracal_mandate::claims::SubjectType;
use caracal_mandate::id::AgentSessionId;
use caracal_store::WriteTx;
use caracal_store::clock::iso;
use caracal_store::model::{AgentSession, AuthorityRecord, Lifecycle, SessionStatus};
use caracal_store::revoke::{self, Ending};
use serde_json::{Value, json};
use std::sync::Arc;

/// An answer that is only refused after something else was committed: a lease found lost suspends its session, and the
/// caller is refused all the same.
type Outcome = Result<Value, Code>;

/// `POST /zones/{zone}/agents/{session}/lease`
pub(crate) async fn take_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
) -> Result<Json<Value>, Failure> {
    let id = path_id(session)?;
    let limits = config.limits.clone();
    let outcome: Outcome =
        config.store.write(move |tx| Box::pin(async move { take(tx, &limits, &caller, &id).await })).await?;
    Ok(Json(outcome?))
}

async fn take(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    id: &AgentSessionId,
) -> Result<Outcome, Failure> {
    let session = find_owned(tx, caller, id).await?;
    match (session.lifecycle, session.status) {
        (Lifecycle::Task, _) => return Err(Code::SessionNotService.into()),
        (_, SessionStatus::Suspended) => return Err(Code::SessionSuspended.into()),
        (_, SessionStatus::Terminated | SessionStatus::Expired) => return Err(Code::SessionNotLive.into()),
        (Lifecycle::Service, SessionStatus::Active) => {}
    }
    if let Some(code) = end_if_lost(tx, caller, &session).await? {
        return Ok(Err(code));
    }
    check_record(tx, caller, &session).await?;
    let now = tx.now();
    let (deadline, generation) = (tree::lease_end(now, limits), session.lease_generation + 1);
    sqlx::query(
        "UPDATE sessions SET lease_generation = $1, heartbeat_deadline_at = $2, last_heartbeat_at = $3, \
         last_active_at = $3, updated_at = $3 WHERE zone_id = $4 AND id = $5",
    )
    .bind(generation)
    .bind(deadline)
    .bind(now)
    .bind(caller.zone.as_str())
    .bind(session.id.as_str())
    .execute(&mut *tx.connection())
    .await?;
    caller.cause("requested").session(tx, "session_lease_taken", &session, "requested").await?;
    Ok(Ok(json!({
        "status": session.status,
        "heartbeat_deadline_at": iso(deadline),
        "lease_generation": generation,
    })))
}

/// What a heartbeat says.
#[derive(Debug)]
struct Heartbeat {
    generation: i64,
    health: &'static str,
    service_id: Option<String>,
    active_invocations: i64,
    metadata: serde_json::Map<String, Value>,
}

impl Heartbeat {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let mut fields = Fields::parse(bytes)?;
        let generation = fields.integer("lease_generation", 1..=i64::MAX);
        let words = ["starting", "healthy", "degraded", "unhealthy"].map(|word| (word, word));
        let health = fields.word("status", &words).unwrap_or("healthy");
        let service_id = fields.text("service_id");
        let active_invocations = fields.integer("active_invocations", 0..=i64::MAX).unwrap_or(0);
        let metadata = fields.object("metadata");
        if generation.is_none() {
            fields.issue(&["lease_generation"], "is required, an integer from 1");
        }
        fields.finish()?;
        let generation = fields.whole(generation)?;
        Ok(Self { generation, health, service_id, active_invocations, metadata })
    }
}

/// `POST /zones/{zone}/agents/{session}/heartbeat`
pub(crate) async fn heartbeat_route(
    State(config): State<Arc<Config>>,
    Extension(caller): Extension<Caller>,
    Path((_, session)): Path<(String, String)>,
    body: Body,
) -> Result<Json<Value>, Failure> {
    let id = path_id(session)?;
    let heartbeat = Heartbeat::parse(&body::read(body, config.limits.body_bytes).await?)?;
    let limits = config.limits.clone();
    let outcome: Outcome = config
        .store
        .write(move |tx| Box::pin(async move { beat(tx, &limits, &caller, &id, heartbeat).await }))
        .await?;
    Ok(Json(outcome?))
}

async fn beat(
    tx: &mut WriteTx<'_>,
    limits: &Limits,
    caller: &Caller,
    id: &AgentSessionId,
    heartbeat: Heartbeat,
) -> Result<Outcome, Failure> {
    let session = find_owned(tx, caller, id).await?;
    if !matches!(session.status, SessionStatus::Active | SessionStatus::Suspended) {
        return Err(Code::SessionNotLive.into());
    }
    if session.lifecycle != Lifecycle::Service {
        return Err(Code::SessionNotService.into());
    }
    let now = tx.now();
    if !tree::subject_stands(tx.connection(), &session, now).await? {
        return Ok(Err(end_without_subject(tx, caller, &session).await?));
    }
    if heartbeat.generation != session.lease_generation {
        return Err(Code::SessionLeaseFenced.into());
    }
    if session.status == SessionStatus::Active
        && let Some(code) = end_if_lost(tx, caller, &session).await?
    {
        return Ok(Err(code));
    }
    check_record(tx, caller, &session).await?;
    let mut service = Value::Null;
    if let Some(id) = &heartbeat.service_id {
        let (application, health) = (&session.application_id, heartbeat.health);
        service = services::beat(tx, caller, application, id, health, heartbeat.metadata).await?;
    }
    let deadline = tree::lease_end(now, limits);
    sqlx::query(
        "UPDATE sessions SET last_active_at = $1, last_heartbeat_at = $1, heartbeat_deadline_at = $2 \
         WHERE zone_id = $3 AND id = $4",
    )
    .bind(now)
    .bind(deadline)
    .bind(caller.zone.as_str())
    .bind(session.id.as_str())
    .execute(&mut *tx.connection())
    .await?;
    Ok(Ok(json!({
        "agent": {
            "id": session.id,
            "zone_id": session.zone_id,
            "application_id": session.application_id,
            "status": session.status,
            "last_active_at": iso(now),
            "last_heartbeat_at": iso(now),
            "heartbeat_deadline_at": iso(deadline),
            "lease_generation": session.lease_generation,
        },
        "service": service,
        "active_invocations": heartbeat.active_invocations,
    })))
}

/// Ends a session whose user does not stand any more; suspends one whose lease has run out.
async fn end_if_lost(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    session: &AgentSession,
) -> Result<Option<Code>, Failure> {
    let now = tx.now();
    if !tree::subject_stands(tx.connection(), session, now).await? {
        return Ok(Some(end_without_subject(tx, caller, session).await?));
    }
    if !session.is_within_time(now) {
        revoke::suspend_session(tx, &caller.cause("service_heartbeat_lost"), &session.id).await?;
        return Ok(Some(Code::SessionLeaseExpired));
    }
    Ok(None)
}

async fn end_without_subject(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    session: &AgentSession,
) -> Result<Code, Failure> {
    let cause = caller.cause("subject_authority_inactive");
    revoke::end_session(tx, &cause, &session.id, Ending::Revoked).await?;
    Ok(Code::SessionSubjectInactive)
}

/// A lease is renewed on an application's own record only.
pub(crate) async fn check_record(
    tx: &mut WriteTx<'_>,
    caller: &Caller,
    session: &AgentSession,
) -> Result<(), Failure> {
    let id = caller.record().ok_or(Code::AuthorityRecordRequired)?;
    let now = tx.now();
    let record = AuthorityRecord::find(tx.connection(), &caller.zone, id).await?;
    let stands = record.is_some_and(|record| {
        record.is_live(now)
            && record.subject_type == SubjectType::Application
            && record.subject_id == session.application_id.as_str()
    });
    if stands { Ok(()) } else { Err(Code::IdentityRevoked.into()) }
}
