//! All metrics of the process: their names, who shows them, and the counters behind the hooks.

use super::Service;
use super::gateways::Xds;
use super::traces::Spans;
use super::words::Words;
use prometheus::{
    Counter, Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, core::Collector,
};
use std::sync::LazyLock;

/// Every service shows it.
pub(super) const EVERY: &[Service] = &Service::ALL;
pub(super) const ADMIN: &[Service] = &[Service::Admin];
pub(super) const AUDIT: &[Service] = &[Service::Audit];
pub(super) const COORDINATOR: &[Service] = &[Service::Coordinator];
pub(super) const STS: &[Service] = &[Service::Sts];

/// Answers, seconds: from a tenth of a millisecond to a long poll.
const ANSWERS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0, 30.0];
/// Commits, seconds.
const COMMITS: [f64; 11] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5];
/// Requests in one commit.
const GROUPS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Policy evaluations, seconds.
const EVALUATIONS: [f64; 10] =
    [0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025];

/// What is known of a metric before it has a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) shown_by: &'static [Service],
}

/// Registers metrics and remembers who shows them.
#[derive(Default)]
pub(super) struct Builder {
    pub(super) registry: Registry,
    pub(super) entries: Vec<Entry>,
}

impl Builder {
    fn register<M: Collector + Clone + 'static>(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        metric: Result<M, Error>,
    ) -> Result<M, Error> {
        let metric = metric?;
        self.registry.register(Box::new(metric.clone()))?;
        self.entries.push(Entry { name, shown_by });
        Ok(metric)
    }

    pub(super) fn counter(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        help: &str,
    ) -> Result<IntCounter, Error> {
        self.register(shown_by, name, IntCounter::new(name, help))
    }

    fn seconds(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        help: &str,
    ) -> Result<Counter, Error> {
        self.register(shown_by, name, Counter::new(name, help))
    }

    fn histogram(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.register(shown_by, name, Histogram::with_opts(options))
    }

    fn counters(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, Error> {
        self.register(shown_by, name, IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn words(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        help: &str,
        labels: &[&str],
    ) -> Result<Words, Error> {
        Ok(Words::new(self.counters(shown_by, name, help, labels)?))
    }

    pub(super) fn gauges(
        &mut self,
        shown_by: &'static [Service],
        name: &'static str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, Error> {
        self.register(shown_by, name, IntGaugeVec::new(Opts::new(name, help), labels))
    }
}

/// What the hooks count in.
pub(super) struct Catalogue {
    pub(super) registry: Registry,
    pub(super) entries: Vec<Entry>,
    pub(super) http: Http,
    pub(super) store: Stores,
    pub(super) sts: Sts,
    pub(super) audit: Audits,
    pub(super) coordinator: Coordinators,
    pub(super) xds: Xds,
    pub(super) spans: Spans,
}

/// What every HTTP face counts.
pub(super) struct Http {
    pub(super) requests: IntCounterVec,
    pub(super) durations: HistogramVec,
    pub(super) connections: IntGaugeVec,
    pub(super) connections_ended: Words,
    pub(super) panics: Words,
    pub(super) rate_limited: Words,
}

/// What the store counts.
pub(super) struct Stores {
    pub(super) commit_seconds: Histogram,
    pub(super) commit_groups: Histogram,
    pub(super) commit_errors: IntCounter,
    pub(super) secret_operations: IntCounter,
    pub(super) secret_errors: IntCounter,
    pub(super) secret_reads: IntCounter,
    pub(super) secret_read_errors: IntCounter,
}

/// What the STS counts.
pub(super) struct Sts {
    pub(super) mints: Words,
    pub(super) denials: Words,
    pub(super) traversals: IntCounter,
    pub(super) traversal_errors: IntCounter,
    pub(super) evaluation: Histogram,
    pub(super) evaluations: IntCounter,
    pub(super) evaluation_errors: IntCounter,
    pub(super) evaluation_seconds: Counter,
    pub(super) compilations: IntCounter,
    pub(super) compilation_errors: IntCounter,
    pub(super) compilation_seconds: Counter,
    pub(super) refreshes: Refreshes,
    pub(super) provider_requests: Words,
    pub(super) circuits_opened: IntCounter,
}

/// What became of connections of persons that had to be renewed.
pub(super) struct Refreshes {
    pub(super) leased: IntCounter,
    pub(super) waited: IntCounter,
    pub(super) shared: IntCounter,
    pub(super) errors: IntCounter,
}

/// What the audit service counts.
pub(super) struct Audits {
    pub(super) inserts: IntCounter,
    pub(super) parse_errors: IntCounter,
    pub(super) retries: IntCounter,
    pub(super) pruned: IntCounter,
    pub(super) prunings: Words,
    pub(super) checked: IntCounter,
    pub(super) mismatches: IntCounter,
    pub(super) breaks: IntCounter,
    pub(super) bad_hmacs: IntCounter,
}

/// What the Coordinator counts.
pub(super) struct Coordinators {
    pub(super) idempotency: Words,
    pub(super) job_runs: Words,
    pub(super) job_items: Words,
    pub(super) ttl_sweeps: IntCounter,
    pub(super) lease_sweeps: IntCounter,
    pub(super) retention_cleanings: IntCounter,
}

impl Catalogue {
    fn build() -> Result<Self, Error> {
        let mut b = Builder::default();
        Ok(Self {
            http: Http::build(&mut b)?,
            store: Stores::build(&mut b)?,
            sts: Sts::build(&mut b)?,
            audit: Audits::build(&mut b)?,
            coordinator: Coordinators::build(&mut b)?,
            xds: Xds::build(&mut b)?,
            spans: Spans::build(&mut b)?,
            registry: b.registry,
            entries: b.entries,
        })
    }
}

impl Http {
    fn build(b: &mut Builder) -> Result<Self, Error> {
        let durations = HistogramOpts::new(
            "caracal_http_request_duration_seconds",
            "Time from a request's head to its answer.",
        )
        .buckets(ANSWERS.to_vec());
        let durations = HistogramVec::new(durations, &["service", "route", "method"]);
        Ok(Self {
            requests: b.counters(
                EVERY,
                "caracal_http_requests_total",
                "Requests by route template, method and class of status.",
                &["service", "route", "method", "status"],
            )?,
            durations: b.register(EVERY, "caracal_http_request_duration_seconds", durations)?,
            connections: b.gauges(EVERY, "caracal_http_connections", "Open connections.", &["service"])?,
            connections_ended: b.words(
                EVERY,
                "caracal_http_connections_ended_total",
                "Connections that a limit ended, by limit.",
                &["service", "limit"],
            )?,
            panics: b.words(EVERY, "caracal_http_panics_total", "Handlers that panicked.", &["service"])?,
            rate_limited: b.words(
                EVERY,
                "caracal_http_rate_limited_total",
                "Requests that were too many, by limit.",
                &["service", "limit"],
            )?,
        })
    }
}

impl Stores {
    fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            commit_seconds: b.histogram(
                EVERY,
                "caracal_store_commit_duration_seconds",
                "Time of one group of writes, from its begin to its commit.",
                &COMMITS,
            )?,
            commit_groups: b.histogram(
                EVERY,
                "caracal_store_commit_group_size",
                "Pieces of work in one commit.",
                &GROUPS,
            )?,
            commit_errors: b.counter(
                EVERY,
                "caracal_store_commit_errors_total",
                "Groups of writes that were not committed.",
            )?,
            secret_operations: b.counter(
                ADMIN,
                "caracal_secret_backend_operations_total",
                "Secrets that were sealed or opened.",
            )?,
            secret_errors: b.counter(
                ADMIN,
                "caracal_secret_backend_errors_total",
                "Secrets that could not be sealed or opened.",
            )?,
            secret_reads: b.counter(
                STS,
                "caracal_sts_secret_backend_reads_total",
                "Secrets that were opened.",
            )?,
            secret_read_errors: b.counter(
                STS,
                "caracal_sts_secret_backend_errors_total",
                "Secrets that could not be opened.",
            )?,
        })
    }
}

impl Sts {
    fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            mints: b.words(STS, "caracal_sts_mints_total", "Mandates that were minted, by use.", &["use"])?,
            denials: b.words(
                STS,
                "caracal_sts_denials_total",
                "Refusals, by error and by the reason that is recorded.",
                &["error", "reason"],
            )?,
            traversals: b.counter(
                STS,
                "caracal_sts_graph_traversals_total",
                "Delegation lineages that were read.",
            )?,
            traversal_errors: b.counter(
                STS,
                "caracal_sts_graph_traversal_errors_total",
                "Delegation lineages that could not be read.",
            )?,
            evaluation: b.histogram(
                STS,
                "caracal_sts_policy_evaluation_seconds",
                "Time of one policy evaluation.",
                &EVALUATIONS,
            )?,
            evaluations: b.counter(STS, "caracal_sts_opa_eval_total", "Policy evaluations.")?,
            evaluation_errors: b.counter(
                STS,
                "caracal_sts_opa_eval_errors_total",
                "Policy evaluations without a result.",
            )?,
            evaluation_seconds: b.seconds(
                STS,
                "caracal_sts_opa_eval_duration_seconds_total",
                "Time of all policy evaluations.",
            )?,
            compilations: b.counter(
                STS,
                "caracal_sts_opa_compile_total",
                "Policy bundles that were compiled.",
            )?,
            compilation_errors: b.counter(
                STS,
                "caracal_sts_opa_compile_errors_total",
                "Policy bundles that did not compile.",
            )?,
            compilation_seconds: b.seconds(
                STS,
                "caracal_sts_opa_compile_duration_seconds_total",
                "Time of all compilations of policy bundles.",
            )?,
            refreshes: Refreshes::build(b)?,
            provider_requests: b.words(
                STS,
                "caracal_sts_provider_requests_total",
                "Requests to the token endpoints of providers, by outcome.",
                &["outcome"],
            )?,
            circuits_opened: b.counter(
                STS,
                "caracal_sts_provider_circuit_open_total",
                "Times that the circuit of a provider opened.",
            )?,
        })
    }
}

impl Refreshes {
    fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            leased: b.counter(
                STS,
                "caracal_sts_provider_refresh_leased_total",
                "Renewals of connections that this process undertook.",
            )?,
            waited: b.counter(
                STS,
                "caracal_sts_provider_refresh_waited_total",
                "Renewals that waited for another process.",
            )?,
            shared: b.counter(
                STS,
                "caracal_sts_provider_refresh_shared_total",
                "Renewals that another had done meanwhile.",
            )?,
            errors: b.counter(STS, "caracal_sts_provider_refresh_errors_total", "Renewals that failed.")?,
        })
    }
}

impl Audits {
    fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            inserts: b.counter(AUDIT, "caracal_audit_inserts_total", "Events that the ledger took.")?,
            parse_errors: b.counter(
                AUDIT,
                "caracal_audit_parse_errors_total",
                "Events that could not be read; each is in the ledger as such.",
            )?,
            retries: b.counter(
                AUDIT,
                "caracal_audit_retries_total",
                "Times that waiting events could not be taken and stayed where they were.",
            )?,
            pruned: b.counter(
                AUDIT,
                "caracal_audit_retention_pruned_total",
                "Events that were pruned because they were older than they are kept.",
            )?,
            prunings: b.words(
                AUDIT,
                "caracal_audit_retention_runs_total",
                "Runs of the job that prunes, by outcome.",
                &["outcome"],
            )?,
            checked: b.counter(
                AUDIT,
                "caracal_audit_tamper_checked_total",
                "Rows of the chains that were checked.",
            )?,
            mismatches: b.counter(
                AUDIT,
                "caracal_audit_tamper_mismatch_total",
                "Rows whose content was found changed.",
            )?,
            breaks: b.counter(
                AUDIT,
                "caracal_audit_tamper_chain_breaks_total",
                "Places where rows were found missing or out of their order.",
            )?,
            bad_hmacs: b.counter(
                AUDIT,
                "caracal_audit_tamper_hmac_failures_total",
                "Rows and bases that were found under another key.",
            )?,
        })
    }
}

impl Coordinators {
    fn build(b: &mut Builder) -> Result<Self, Error> {
        Ok(Self {
            idempotency: b.words(
                COORDINATOR,
                "caracal_idempotency_requests_total",
                "Requests with an idempotency key, by outcome.",
                &["outcome"],
            )?,
            job_runs: b.words(
                COORDINATOR,
                "caracal_coordinator_job_runs_total",
                "Runs of the jobs, by outcome.",
                &["job", "outcome"],
            )?,
            job_items: b.words(
                COORDINATOR,
                "caracal_coordinator_job_items_total",
                "What the jobs ended, suspended, marked or removed.",
                &["job"],
            )?,
            ttl_sweeps: b.counter(
                COORDINATOR,
                "caracal_ttl_sweeper_runs_total",
                "Runs of the job that ends tasks past their time.",
            )?,
            lease_sweeps: b.counter(
                COORDINATOR,
                "caracal_service_lease_sweeper_runs_total",
                "Runs of the job that suspends services that are not heard.",
            )?,
            retention_cleanings: b.counter(
                COORDINATOR,
                "caracal_retention_cleaner_runs_total",
                "Runs of the job that removes what ended long ago.",
            )?,
        })
    }
}

/// The catalogue, made at first use. It fails only where a name is malformed or stands twice, which a test rules out;
/// then nothing is counted and the exposition says so.
pub(super) fn catalogue() -> Option<&'static Catalogue> {
    static CATALOGUE: LazyLock<Option<Catalogue>> = LazyLock::new(|| match Catalogue::build() {
        Ok(catalogue) => Some(catalogue),
        Err(error) => {
            tracing::error!(%error, "metrics could not be set up");
            None
        }
    });
    CATALOGUE.as_ref()
}
