//! Metrics (contract sts §26.2, coordinator §9, admin-audit §1.2 and §11.10; the table of all is `docs/metrics.md`).
//!
//! A hook is one line where something happens. It counts in atomics that a thread looks up once, so it takes no lock
//! and allocates nothing. Labels are words of the program, route templates and methods: never an id, a name or a
//! secret, and so bounded. What is state and no event, such as how much waits, is read from the store when asked.

mod catalogue;
mod exposition;
mod gateways;
mod http;
mod sampled;
mod traces;
mod words;

pub use exposition::{Access, Exposition, names};
pub(crate) use http::{Measure, connection_ended, connections};

use catalogue::{Catalogue, catalogue};
use std::time::Duration;

/// Whose metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// The Admin API.
    Admin,
    /// The audit service.
    Audit,
    /// The Coordinator.
    Coordinator,
    /// The STS.
    Sts,
}

impl Service {
    pub(crate) const ALL: [Self; 4] = [Self::Admin, Self::Audit, Self::Coordinator, Self::Sts];

    /// The value of the label `service`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "api",
            Self::Audit => "audit",
            Self::Coordinator => "coordinator",
            Self::Sts => "sts",
        }
    }
}

fn with(count: impl FnOnce(&'static Catalogue)) {
    if let Some(catalogue) = catalogue() {
        count(catalogue);
    }
}

/// A mandate was minted; `usage` is its `use` claim.
pub fn minted(usage: &'static str) {
    with(|all| all.sts.mints.count(usage));
}

/// The STS refused with `error`; `reason` is what the record of it says, `unrecorded` where there is none.
pub fn denied(error: &'static str, reason: &'static str) {
    with(|all| all.sts.denials.add(&[error, reason], 1));
}

/// The lineage of a delegation was read, or could not be.
pub fn lineage_read(done: bool) {
    with(|all| {
        let sts = &all.sts;
        if done { &sts.traversals } else { &sts.traversal_errors }.inc();
    });
}

/// Policy was evaluated; `done` says whether there was a result.
pub fn policy_evaluated(took: Duration, done: bool) {
    with(|all| {
        let sts = &all.sts;
        let took = took.as_secs_f64();
        sts.evaluation.observe(took);
        sts.evaluations.inc();
        sts.evaluation_seconds.inc_by(took);
        if !done {
            sts.evaluation_errors.inc();
        }
    });
}

/// A policy bundle was compiled; `done` says whether it could be.
pub fn policy_compiled(took: Duration, done: bool) {
    with(|all| {
        let sts = &all.sts;
        sts.compilations.inc();
        sts.compilation_seconds.inc_by(took.as_secs_f64());
        if !done {
            sts.compilation_errors.inc();
        }
    });
}

/// A connection had to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// It could not be.
    Failed,
    /// This process undertakes it.
    Leased,
    /// Another did it meanwhile.
    Shared,
    /// Another does it now.
    Waited,
}

/// What becomes of a connection that has to be renewed.
pub fn provider_refresh(what: Refresh) {
    with(|all| {
        let refreshes = &all.sts.refreshes;
        match what {
            Refresh::Failed => refreshes.errors.inc(),
            Refresh::Leased => refreshes.leased.inc(),
            Refresh::Shared => refreshes.shared.inc(),
            Refresh::Waited => refreshes.waited.inc(),
        }
    });
}

/// A token endpoint was asked: `done`, `failed`, or not asked because of its `circuit_open`.
pub fn provider_asked(outcome: &'static str) {
    with(|all| all.sts.provider_requests.count(outcome));
}

/// The circuit of a provider opened.
pub fn provider_circuit_opened() {
    with(|all| all.sts.circuits_opened.inc());
}

/// A secret was sealed, or could not be.
pub(crate) fn secret_sealed(done: bool) {
    with(|all| {
        all.store.secret_operations.inc();
        if !done {
            all.store.secret_errors.inc();
        }
    });
}

/// A secret was opened, or could not be.
pub(crate) fn secret_opened(done: bool) {
    secret_sealed(done);
    with(|all| {
        all.store.secret_reads.inc();
        if !done {
            all.store.secret_read_errors.inc();
        }
    });
}

/// A group of `pieces` writes was committed, or was not.
pub(crate) fn group_committed(pieces: usize, took: Duration, done: bool) {
    with(|all| {
        let store = &all.store;
        if done {
            store.commit_seconds.observe(took.as_secs_f64());
            store.commit_groups.observe(u32::try_from(pieces).map_or(f64::MAX, f64::from));
        } else {
            store.commit_errors.inc();
        }
    });
}

/// The ledger took so many events.
pub fn events_taken(count: usize) {
    with(|all| all.audit.inserts.inc_by(u64::try_from(count).unwrap_or(u64::MAX)));
}

/// An event could not be read; the ledger takes it as such.
pub fn event_unreadable() {
    with(|all| all.audit.parse_errors.inc());
}

/// Waiting events could not be taken into the ledger; they are tried again.
pub fn events_not_taken() {
    with(|all| all.audit.retries.inc());
}

/// Evidence was pruned: so many events.
pub fn evidence_pruned(events: u64) {
    with(|all| all.audit.pruned.inc_by(events));
}

/// The job that prunes ran.
pub fn retention_ran(done: bool) {
    with(|all| all.audit.prunings.count(if done { "done" } else { "failed" }));
}

/// So many rows of a chain were checked; `faults` are the words of what was found for the first time.
pub fn chain_checked(rows: u64, faults: impl Iterator<Item = &'static str>) {
    with(|all| {
        let audit = &all.audit;
        audit.checked.inc_by(rows);
        for fault in faults {
            match fault {
                "content" => audit.mismatches.inc(),
                "base" | "hmac" => audit.bad_hmacs.inc(),
                _ => audit.breaks.inc(),
            }
        }
    });
}

/// A request with an idempotency key was `created`, `replayed`, a `conflict`, `invalid` or `expired`.
pub fn idempotency(outcome: &'static str) {
    with(|all| all.coordinator.idempotency.count(outcome));
}

/// A job of the Coordinator ran: how many things it acted on, `None` if it failed.
pub fn job_ran(job: &'static str, acted: Option<usize>) {
    with(|all| {
        let coordinator = &all.coordinator;
        let outcome = if acted.is_some() { "done" } else { "failed" };
        coordinator.job_runs.add(&[job, outcome], 1);
        coordinator.job_items.add(&[job], acted.and_then(|acted| u64::try_from(acted).ok()).unwrap_or(0));
        match job {
            "ttl_sweeper" => coordinator.ttl_sweeps.inc(),
            "service_lease_sweeper" => coordinator.lease_sweeps.inc(),
            "retention_cleaner" => coordinator.retention_cleanings.inc(),
            _ => {}
        }
    });
}

/// A gateway was told of something of this type.
pub fn configuration_pushed(kind: &'static str) {
    with(|all| all.xds.pushes.count(kind));
}

/// A gateway did not take what it was told.
pub fn configuration_rejected(kind: &'static str) {
    with(|all| all.xds.rejections.count(kind));
}

/// A stream for the configuration of a gateway was refused.
pub fn configuration_stream_refused(reason: &'static str) {
    with(|all| all.xds.refused.count(reason));
}

/// The certificates for gateways on other machines changed, and were taken, or could not be.
pub fn configuration_certificates_loaded(done: bool) {
    with(|all| all.xds.certificate_loads.count(if done { "done" } else { "failed" }));
}

/// A gateway began to follow its configuration (1), or stopped (-1).
pub fn configuration_streams(by: i64) {
    with(|all| all.xds.streams.with_label_values::<&str>(&[]).add(by));
}

/// So many resources have a cluster now.
pub fn resources_served(count: usize) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    with(|all| all.xds.resources.with_label_values::<&str>(&[]).set(count));
}

/// So many are left out for this reason now.
pub fn resources_left_out(reason: &'static str, count: usize) {
    with(|all| all.xds.left_out.with_label_values(&[reason]).set(i64::try_from(count).unwrap_or(i64::MAX)));
}

/// The name of an upstream was looked up, or could not be.
pub fn name_looked_up(done: bool) {
    with(|all| all.xds.lookups.count(if done { "done" } else { "failed" }));
}

/// A collector took so many spans.
pub fn spans_exported(count: u64) {
    with(|all| all.spans.exported.inc_by(count));
}

/// So many spans did not get to a collector.
pub fn spans_dropped(reason: &'static str, count: u64) {
    with(|all| all.spans.dropped.add(&[reason], count));
}

/// How many spans did not get to a collector for this reason.
#[cfg(test)]
pub(crate) fn spans_dropped_so_far(reason: &'static str) -> u64 {
    catalogue().map_or(0, |all| all.spans.dropped.value(&[reason]))
}

/// A request was too many for `limit`.
pub fn rate_limited(service: Service, limit: &'static str) {
    with(|all| all.http.rate_limited.add(&[service.as_str(), limit], 1));
}

/// A handler panicked.
pub(crate) fn panicked(service: Service) {
    with(|all| all.http.panics.count(service.as_str()));
}
