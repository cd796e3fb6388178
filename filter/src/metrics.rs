//! Names of all metrics.
//!
//! One deny reason is one counter. The reason stands at the end of its name, after [`REASON_TAG`], from where Envoy's
//! `stats_tags` make a label of it: `caracal_gateway_denials_total{reason="expiring"}`.

use caracal_mandate::verdict::DenyReason;

/// Requests seen.
pub const REQUESTS: &str = "caracal_gateway_requests_total";
/// Requests whose upstream answered, or would have.
pub const ALLOWED: &str = "caracal_gateway_requests_allowed_total";
/// Requests refused.
pub const DENIED: &str = "caracal_gateway_requests_denied_total";
/// Exchanges that failed.
pub const STS_ERRORS: &str = "caracal_gateway_sts_exchange_errors_total";
/// Milliseconds that the last exchange took.
pub const STS_LATENCY: &str = "caracal_gateway_sts_exchange_latency_ms";
/// Times that the circuit opened.
pub const CIRCUIT_OPENED: &str = "caracal_gateway_sts_circuit_opened_total";
/// Streams cut off because an anchor was revoked.
pub const STREAMS_CUT: &str = "caracal_gateway_streams_revoked_total";
/// Streams of another protocol cut off because their mandate had expired.
pub const STREAMS_EXPIRED: &str = "caracal_gateway_streams_expired_total";
/// Successful polls of the feed.
pub const FEED_POLLS: &str = "caracal_gateway_feed_polls_total";
/// Failed polls of the feed.
pub const FEED_ERRORS: &str = "caracal_gateway_feed_errors_total";
/// The generation that is applied.
pub const FEED_GENERATION: &str = "caracal_gateway_feed_generation";
/// Another number with every status that the singleton shares; no more than that. See [`crate::snapshot`].
pub const FEED_MARK: &str = "caracal_gateway_feed_mark";
/// Revoked anchors that are remembered.
pub const REVOCATIONS_ACTIVE: &str = "caracal_gateway_revocations_active";
/// 1 when Envoy verifies signatures, 0 when Rust inside the VM does.
pub const SIGNATURES_BY_HOST: &str = "caracal_gateway_signatures_by_host";
/// Events that Audit acknowledged.
pub const EVIDENCE_ACKNOWLEDGED: &str = "caracal_gateway_audit_persisted_total";
/// Events that were lost because the buffer was full.
pub const EVIDENCE_DROPPED: &str = "caracal_gateway_audit_dropped_total";
/// Deliveries to Audit that failed.
pub const EVIDENCE_ERRORS: &str = "caracal_gateway_audit_sink_errors_total";

/// Linear memory of a worker's VM, in bytes. It never shrinks.
pub const WORKER_MEMORY: &str = "caracal_gateway_worker_memory_bytes";

/// Requests for the metadata of a protected resource.
pub const DISCOVERIES: &str = "caracal_gateway_resource_metadata_total";

/// The counter of streams that were cut off for this reason.
#[must_use]
pub fn interruptions(reason: DenyReason) -> &'static str {
    if reason == DenyReason::Expiring { STREAMS_EXPIRED } else { STREAMS_CUT }
}

/// What stands between a counter's name and the reason.
pub const REASON_TAG: &str = ".reason.";

/// The counter of a reason.
#[must_use]
pub fn denials(reason: DenyReason) -> String {
    ["caracal_gateway_denials_total", REASON_TAG, reason.label()].concat()
}

/// The counter of what would be refused for this reason.
#[must_use]
pub fn dry_run_denials(reason: DenyReason) -> String {
    ["caracal_gateway_dry_run_denials_total", REASON_TAG, reason.label()].concat()
}
