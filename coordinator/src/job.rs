//! The jobs: what each is called, how often it runs, and what it is counted as.

use crate::config::{Config, Limits};
use crate::jobs::{Due, end_late, sweep};
use crate::retention::remove_old;
use caracal_store::{StoreError, revoke};
use std::time::Duration;

/// A job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    /// Ends tasks past their time.
    Ttl,
    /// Suspends services that are not heard.
    Lease,
    /// Marks delegations past their end.
    Edges,
    /// Ends attempts of calls past their deadline.
    Deadlines,
    /// Writes down which revocations every gateway has taken.
    Closures,
    /// Removes what ended long ago.
    Retention,
}

impl Job {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Ttl, Self::Lease, Self::Edges, Self::Deadlines, Self::Closures, Self::Retention];

    /// Its name in `GET /stats` (contract coordinator §9).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ttl => "ttl_sweeper",
            Self::Lease => "service_lease_sweeper",
            Self::Edges => "edge_sweeper",
            Self::Deadlines => "deadline_enforcer",
            Self::Closures => "closure_settler",
            Self::Retention => "retention_cleaner",
        }
    }

    /// What it does to what it finds, as `GET /stats` calls it.
    pub(crate) fn effect(self) -> &'static str {
        match self {
            Self::Ttl => "terminated",
            Self::Lease => "suspended",
            Self::Edges => "expired_edges",
            Self::Deadlines => "ended",
            Self::Closures => "closed",
            Self::Retention => "deleted",
        }
    }

    /// How often it runs.
    pub(crate) fn interval(self, limits: &Limits) -> Duration {
        match self {
            Self::Ttl => limits.ttl_sweep,
            Self::Lease => limits.lease_sweep,
            Self::Edges => limits.edge_sweep,
            Self::Deadlines => limits.deadline_sweep,
            Self::Closures => limits.closure_sweep,
            Self::Retention => limits.retention_sweep,
        }
    }

    /// Does it once, and counts it. Answers how many rows it changed.
    pub(crate) async fn run(self, config: &Config) -> Result<usize, StoreError> {
        let result = match self {
            Self::Ttl => sweep(config, Due::Tasks).await,
            Self::Lease => sweep(config, Due::Services).await,
            Self::Edges => sweep(config, Due::Edges).await,
            Self::Deadlines => end_late(config).await,
            Self::Closures => revoke::settle(&config.store).await,
            Self::Retention => remove_old(config).await,
        };
        config.counters.ran(self, result.as_ref().ok().copied());
        result
    }
}
