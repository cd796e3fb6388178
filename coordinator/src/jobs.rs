//! What ends without anyone asking: tasks past their time, services that are not heard, delegations past their end
//! (contract coordinator §12).
//!
//! Every replica runs all of it. What a job finds by reading it looks at again in the transaction that acts, so two
//! replicas never end the same thing twice.

use crate::config::Config;
use crate::job::Job;
use caracal_mandate::id::{AgentSessionId, DelegationEdgeId, ZoneId};
use caracal_store::model::{AgentSession, DelegationEdge, EdgeStatus, SessionStatus};
use caracal_store::revoke::{self, Cause, Ending};
use caracal_store::{StoreError, WriteTx, ids};
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Ends every task whose time is up, with all below it. Answers how many sessions ended.
pub async fn expire_sessions(config: &Config) -> Result<usize, StoreError> {
    Job::Ttl.run(config).await
}

/// Suspends every service whose lease ran out, with all below it. Answers how many sessions were suspended.
pub async fn suspend_lost_services(config: &Config) -> Result<usize, StoreError> {
    Job::Lease.run(config).await
}

/// Marks every delegation whose time is up. Answers how many there were.
pub async fn expire_edges(config: &Config) -> Result<usize, StoreError> {
    Job::Edges.run(config).await
}

/// Ends every attempt of a call that is past its deadline: canceled where that was asked for, failed where another may
/// follow, else timed out (contract coordinator §12). Answers how many there were.
pub async fn end_late_attempts(config: &Config) -> Result<usize, StoreError> {
    Job::Deadlines.run(config).await
}

/// Removes sessions and delegations that ended longer ago than they are kept. Answers how many rows there were.
pub async fn remove_old_rows(config: &Config) -> Result<usize, StoreError> {
    Job::Retention.run(config).await
}

/// What is past its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Tasks.
    Tasks,
    /// Services that are not heard.
    Services,
    /// Delegations.
    Edges,
}

impl Due {
    fn actor(self) -> &'static str {
        match self {
            Self::Tasks => "coordinator-ttl-sweeper",
            Self::Services => "coordinator-lease-sweeper",
            Self::Edges => "coordinator-edge-sweeper",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Tasks => "ttl",
            Self::Services => "service_heartbeat_lost",
            Self::Edges => "expired",
        }
    }

    /// Zone and id of what is due; `$1` is now, `$2` how many at most.
    fn rows(self) -> &'static str {
        match self {
            Self::Tasks => {
                "SELECT zone_id, id FROM sessions WHERE lifecycle = 'task' AND status IN ('active', 'suspended') \
                 AND started_at + ttl_seconds * 1000 <= $1 ORDER BY depth, id LIMIT $2"
            }
            Self::Services => {
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

/// Ends all that is due, batch by batch.
pub(crate) async fn sweep(config: &Config, what: Due) -> Result<usize, StoreError> {
    let batch = config.limits.sweep_batch.max(1);
    let mut total = 0;
    loop {
        let due: Vec<(String, String)> = {
            let mut connection = config.store.read().await?;
            sqlx::query_as(what.rows())
                .bind(config.store.now())
                .bind(batch)
                .fetch_all(&mut *connection)
                .await?
        };
        let found = due.len();
        if found == 0 {
            return Ok(total);
        }
        let ended =
            config.store.write(move |tx| Box::pin(async move { end_all(tx, what, due).await })).await?;
        total += ended;
        // Where another replica was first, and where fewer were due than fit: done.
        if ended == 0 || i64::try_from(found).is_ok_and(|found| found < batch) {
            return Ok(total);
        }
    }
}

async fn end_all(tx: &mut WriteTx<'_>, what: Due, due: Vec<(String, String)>) -> Result<usize, StoreError> {
    let now = tx.now();
    let request_id = ids::new_id();
    let mut ended = 0;
    for (zone, id) in due {
        let corrupt = |error: caracal_mandate::id::IdError| StoreError::corrupt(format!("an id: {error}"));
        let zone = ZoneId::new(zone).map_err(corrupt)?;
        let cause = Cause {
            zone: zone.clone(),
            request_id: request_id.clone(),
            actor: what.actor().to_owned(),
            reason: what.reason().to_owned(),
        };
        if what == Due::Edges {
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
        ended += match (what, session.status) {
            (Due::Tasks, SessionStatus::Active | SessionStatus::Suspended) => {
                revoke::end_session(tx, &cause, &id, Ending::Expired).await?
            }
            (Due::Services, SessionStatus::Active) => revoke::suspend_session(tx, &cause, &id).await?,
            _ => 0,
        };
    }
    Ok(ended)
}

/// Ends one batch of attempts that are past their deadline.
pub(crate) async fn end_late(config: &Config) -> Result<usize, StoreError> {
    let batch = config.limits.sweep_batch.max(1);
    config.store.write(move |tx| Box::pin(async move { end_late_batch(tx, batch).await })).await
}

async fn end_late_batch(tx: &mut WriteTx<'_>, batch: i64) -> Result<usize, StoreError> {
    let now = tx.now();
    let late: Vec<(String, String, String)> = sqlx::query_as(
        "UPDATE agent_invocations SET status = CASE WHEN status = 'cancel_requested' THEN 'canceled' \
           WHEN attempts < max_attempts THEN 'failed' ELSE 'timed_out' END, \
         error_json = '{\"reason\":\"deadline_exceeded\"}', completed_at = $1, updated_at = $1 \
         WHERE id IN (SELECT id FROM agent_invocations WHERE status IN ('running', 'cancel_requested') AND deadline_at <= $1 \
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

/// Runs all jobs until `stop` resolves, each on its own clock, and lets what is under way finish. A job that failed is
/// logged and tried again at its next turn; one that is gone ends all of them.
pub async fn run_jobs(config: Config, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let mut jobs = JoinSet::new();
    for job in Job::ALL {
        jobs.spawn(repeat(config.clone(), job, stopped.clone()));
    }
    tokio::select! {
        () = stop => {}
        ended = jobs.join_next() => tracing::error!(?ended, "a job is gone"),
    }
    stopping.send_replace(true);
    while jobs.join_next().await.is_some() {}
}

async fn repeat(config: Config, job: Job, mut stopped: watch::Receiver<bool>) {
    let mut ticker = tokio::time::interval(job.interval(&config.limits).max(Duration::from_millis(1)));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            _ = ticker.tick() => {}
        }
        match job.run(&config).await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(job = job.name(), ended, "a job ended what was due"),
            Err(error) => tracing::error!(job = job.name(), %error, "a job failed"),
        }
    }
}
