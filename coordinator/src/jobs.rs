//! What ends without anyone asking: tasks past their time, services that are not heard, delegations past their end
//! (contract coordinator §12).
//!
//! Every replica runs all of it. What a job finds by reading it looks at again in the transaction that acts, so two
//! replicas never end the same thing twice.

use crate::config::Config;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use caracal_store::model::{AgentSession, DelegationEdge, EdgeStatus, SessionStatus};
use caracal_store::revoke::{self, Cause, Ending};
use caracal_store::{StoreError, WriteTx, ids};
use std::future::Future;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// What a job looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Ttl,
    Lease,
    Edges,
}

impl Job {
    fn actor(self) -> &'static str {
        match self {
            Self::Ttl => "coordinator-ttl-sweeper",
            Self::Lease => "coordinator-lease-sweeper",
            Self::Edges => "coordinator-edge-sweeper",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Lease => "service_heartbeat_lost",
            Self::Edges => "expired",
        }
    }

    /// Zone and id of what is due; `$1` is now, `$2` how many at most.
    fn due(self) -> &'static str {
        match self {
            Self::Ttl => {
                "SELECT zone_id, id FROM sessions WHERE lifecycle = 'task' AND status IN ('active', 'suspended') \
                 AND started_at + ttl_seconds * 1000 <= $1 ORDER BY depth, id LIMIT $2"
            }
            Self::Lease => {
                "SELECT zone_id, id FROM sessions WHERE lifecycle = 'service' AND status = 'active' \
                 AND heartbeat_deadline_at <= $1 ORDER BY depth, id LIMIT $2"
            }
            Self::Edges => {
                "SELECT zone_id, id FROM delegation_edges WHERE status = 'active' AND expires_at <= $1 \
                 ORDER BY id LIMIT $2"
            }
        }
    }
}

/// Ends every task whose time is up, with all below it. Answers how many sessions ended.
pub async fn expire_sessions(config: &Config) -> Result<usize, StoreError> {
    run(config, Job::Ttl).await
}

/// Suspends every service whose lease ran out, with all below it. Answers how many sessions were suspended.
pub async fn suspend_lost_services(config: &Config) -> Result<usize, StoreError> {
    run(config, Job::Lease).await
}

/// Marks every delegation whose time is up. Answers how many there were.
pub async fn expire_edges(config: &Config) -> Result<usize, StoreError> {
    run(config, Job::Edges).await
}

async fn run(config: &Config, job: Job) -> Result<usize, StoreError> {
    let batch = config.limits.sweep_batch.max(1);
    let mut total = 0;
    loop {
        let due: Vec<(String, String)> = {
            let mut connection = config.store.read().await?;
            sqlx::query_as(job.due()).bind(config.store.now()).bind(batch).fetch_all(&mut *connection).await?
        };
        let found = due.len();
        if found == 0 {
            return Ok(total);
        }
        let ended =
            config.store.write(move |tx| Box::pin(async move { end_all(tx, job, due).await })).await?;
        total += ended;
        // Where another replica was first, and where fewer were due than fit: done.
        if ended == 0 || i64::try_from(found).is_ok_and(|found| found < batch) {
            return Ok(total);
        }
    }
}

async fn end_all(tx: &mut WriteTx<'_>, job: Job, due: Vec<(String, String)>) -> Result<usize, StoreError> {
    let now = tx.now();
    let request_id = ids::new_id();
    let mut ended = 0;
    for (zone, id) in due {
        let corrupt = |error: caracal_mandate::id::IdError| StoreError::corrupt(format!("an id: {error}"));
        let zone = ZoneId::new(zone).map_err(corrupt)?;
        let cause = Cause {
            zone: zone.clone(),
            request_id: request_id.clone(),
            actor: job.actor().to_owned(),
            reason: job.reason().to_owned(),
        };
        if job == Job::Edges {
            let id = DelegationEdgeId::new(id).map_err(corrupt)?;
            let edge = DelegationEdge::find(tx.connection(), &zone, &id).await?;
            if edge.is_some_and(|edge| edge.status == EdgeStatus::Active && edge.expires_at <= now) {
                ended += revoke::revoke_edge(tx, &cause, &id, Ending::Expired).await?.len();
            }
            continue;
        }
        let id = AgentSessionId::new(id).map_err(corrupt)?;
        let session = AgentSession::find(tx.connection(), &zone, &id).await?;
        let Some(session) = session.filter(|session| !session.is_within_time(now)) else { continue };
        ended += match (job, session.status) {
            (Job::Ttl, SessionStatus::Active | SessionStatus::Suspended) => {
                revoke::end_session(tx, &cause, &id, Ending::Expired).await?
            }
            (Job::Lease, SessionStatus::Active) => revoke::suspend_session(tx, &cause, &id).await?,
            _ => 0,
        };
    }
    Ok(ended)
}

/// Ends every attempt of a call that is past its deadline: failed where another may follow, else timed out (contract
/// coordinator §12). Answers how many there were.
pub async fn end_late_attempts(config: &Config) -> Result<usize, StoreError> {
    let batch = config.limits.sweep_batch.max(1);
    config.store.write(move |tx| Box::pin(async move { end_late(tx, batch).await })).await
}

async fn end_late(tx: &mut WriteTx<'_>, batch: i64) -> Result<usize, StoreError> {
    let now = tx.now();
    let late: Vec<(String, String, String)> = sqlx::query_as(
        "UPDATE agent_invocations SET status = CASE WHEN attempts < max_attempts THEN 'failed' ELSE 'timed_out' END, \
         error_json = '{\"reason\":\"deadline_exceeded\"}', completed_at = $1, updated_at = $1 \
         WHERE id IN (SELECT id FROM agent_invocations WHERE status = 'running' AND deadline_at <= $1 \
           ORDER BY deadline_at LIMIT $2) RETURNING zone_id, id, status",
    )
    .bind(now)
    .bind(batch)
    .fetch_all(&mut *tx.connection())
    .await?;
    let request_id = ids::new_id();
    for (zone, id, status) in &late {
        let cause = Cause {
            zone: ZoneId::new(zone.as_str())
                .map_err(|error| StoreError::corrupt(format!("agent_invocations.zone_id: {error}")))?,
            request_id: request_id.clone(),
            actor: "coordinator-deadline-sweeper".to_owned(),
            reason: "deadline_exceeded".to_owned(),
        };
        let metadata = serde_json::json!({
            "invocation_id": id, "status": status, "actor": cause.actor, "reason": cause.reason,
        });
        cause.write(tx, "invocation_timed_out", metadata).await?;
    }
    Ok(late.len())
}

/// Runs all jobs until `stop` resolves. A job that failed is logged and tried again at its next turn.
pub async fn run_jobs(config: Config, stop: impl Future<Output = ()>) {
    let ticker = |every: Duration| {
        let mut ticker = tokio::time::interval(every.max(Duration::from_millis(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticker
    };
    let limits = &config.limits;
    let (mut ttl, mut lease, mut edges) =
        (ticker(limits.ttl_sweep), ticker(limits.lease_sweep), ticker(limits.edge_sweep));
    let (mut deadlines, mut closures) = (ticker(limits.deadline_sweep), ticker(limits.closure_sweep));
    tokio::pin!(stop);
    loop {
        let job = tokio::select! {
            () = &mut stop => return,
            _ = deadlines.tick() => {
                report("coordinator-deadline-sweeper", end_late_attempts(&config).await);
                continue;
            }
            _ = closures.tick() => {
                report("coordinator-closure", revoke::settle(&config.store).await);
                continue;
            }
            _ = ttl.tick() => Job::Ttl,
            _ = lease.tick() => Job::Lease,
            _ = edges.tick() => Job::Edges,
        };
        report(job.actor(), run(&config, job).await);
    }
}

fn report(job: &str, result: Result<usize, StoreError>) {
    match result {
        Ok(0) => {}
        Ok(ended) => tracing::info!(job, ended, "a job ended what was due"),
        Err(error) => tracing::error!(job, %error, "a job failed"),
    }
}
