//! What happened since the start, counted: each job's runs, and what became of idempotency keys.

use crate::job::Job;
use caracal_store::metrics;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one process. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counters(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    jobs: [JobCounts; Job::ALL.len()],
    keys: [AtomicU64; KeyUse::ALL.len()],
}

#[derive(Debug, Default)]
struct JobCounts {
    runs: AtomicU64,
    failures: AtomicU64,
    ended: AtomicU64,
}

/// What became of an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyUse {
    Created,
    Replayed,
    Conflicts,
    Invalid,
}

impl KeyUse {
    const ALL: [(Self, &str); 4] = [
        (Self::Created, "created"),
        (Self::Replayed, "replayed"),
        (Self::Conflicts, "conflicts"),
        (Self::Invalid, "invalid"),
    ];

    /// Its label in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Replayed => "replayed",
            Self::Conflicts => "conflict",
            Self::Invalid => "invalid",
        }
    }
}

impl Counters {
    /// A job ran, and ended so many; `None` if it failed.
    pub(crate) fn ran(&self, job: Job, ended: Option<usize>) {
        metrics::job_ran(job.name(), ended);
        let Some(counts) = self.of(job) else { return };
        counts.runs.fetch_add(1, Ordering::Relaxed);
        match ended {
            Some(ended) => counts.ended.fetch_add(u64::try_from(ended).unwrap_or(0), Ordering::Relaxed),
            None => counts.failures.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// A key was used.
    pub(crate) fn key(&self, what: KeyUse) {
        metrics::idempotency(what.label());
        if let Some((_, count)) = self.keys().find(|(known, _)| known.0 == what) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn of(&self, job: Job) -> Option<&JobCounts> {
        Job::ALL.iter().zip(&self.0.jobs).find(|(known, _)| **known == job).map(|(_, counts)| counts)
    }

    fn keys(&self) -> impl Iterator<Item = (&(KeyUse, &'static str), &AtomicU64)> {
        KeyUse::ALL.iter().zip(&self.0.keys)
    }

    /// Each job's counts, under the name that `GET /stats` gives it.
    pub(crate) fn jobs_json(&self) -> Map<String, Value> {
        let counts = |(job, counts): (&Job, &JobCounts)| {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let mut members = Map::new();
            members.insert("runs".to_owned(), read(&counts.runs).into());
            members.insert("failures".to_owned(), read(&counts.failures).into());
            members.insert(job.effect().to_owned(), read(&counts.ended).into());
            (job.name().to_owned(), Value::Object(members))
        };
        Job::ALL.iter().zip(&self.0.jobs).map(counts).collect()
    }

    /// What became of keys.
    pub(crate) fn keys_json(&self) -> Value {
        let members: Map<String, Value> = self
            .keys()
            .map(|((_, name), count)| ((*name).to_owned(), json!(count.load(Ordering::Relaxed))))
            .collect();
        Value::Object(members)
    }
}
