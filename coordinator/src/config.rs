//! What the Coordinator is given, and the bounds it keeps (contract coordinator §15).

use crate::counters::Counters;
use crate::together::Groups;
use caracal_store::Store;
use caracal_store::keys::ZoneKeys;
use std::fmt;
use std::time::Duration;

/// What the Coordinator is given. Cheap to clone.
#[derive(Clone)]
pub struct Config {
    /// Where its state is.
    pub store: Store,
    /// The keys that mandates are verified with.
    pub keys: ZoneKeys,
    /// The STS's issuer URL, verbatim as in `iss`.
    pub issuer: String,
    /// The operator's static token, accepted on the routes of contract §3.2 only. `None`: no operator.
    pub operator_token: Option<String>,
    /// The bounds.
    pub limits: Limits,
    /// What happens is counted here. Routes and jobs of one process have the same.
    pub counters: Counters,
    /// Plain starts and ends wait here to be written together.
    pub groups: Groups,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("issuer", &self.issuer)
            .field("operator_token", &self.operator_token.as_ref().map(|_| "…"))
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The bounds. `Default` has the contract's numbers, except the zone's, which must not undercut the application's
/// (contract coordinator §24 row 10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Live sessions in one zone.
    pub sessions_per_zone: i64,
    /// Live sessions of one application.
    pub sessions_per_application: i64,
    /// Live children of one session.
    pub children: i64,
    /// Sessions above a session.
    pub depth: i64,
    /// How long a service lives without a heartbeat.
    pub lease: Duration,
    /// How long an idempotency receipt is kept.
    pub receipt_retention: Duration,
    /// How long a receipt of a generated key is kept.
    pub generated_receipt_retention: Duration,
    /// Live receipts of one operation of one application.
    pub receipts: i64,
    /// Calls that one application may make, start, cancel or complete a minute, in all processes together. 0 is no limit.
    pub invocations_per_minute: i64,
    /// The largest body, bytes.
    pub body_bytes: usize,
    /// How often tasks past their time are looked for.
    pub ttl_sweep: Duration,
    /// How often services that were not heard are looked for.
    pub lease_sweep: Duration,
    /// How often delegations past their end are looked for.
    pub edge_sweep: Duration,
    /// How often calls past their deadline are looked for.
    pub deadline_sweep: Duration,
    /// How often open revocations are compared with what gateways acknowledged.
    pub closure_sweep: Duration,
    /// How often old rows are looked for.
    pub retention_sweep: Duration,
    /// How many of them one transaction ends, or removes.
    pub sweep_batch: i64,
    /// How long a session is kept after its end.
    pub session_retention: Duration,
    /// How long a delegation is kept after its end.
    pub delegation_retention: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions_per_zone: 10_000,
            sessions_per_application: 200,
            children: 10,
            depth: 10,
            lease: Duration::from_secs(120),
            receipt_retention: Duration::from_secs(604_800),
            generated_receipt_retention: Duration::from_secs(86_400),
            receipts: 10_000,
            invocations_per_minute: 120,
            body_bytes: 262_144,
            ttl_sweep: Duration::from_secs(10),
            lease_sweep: Duration::from_secs(10),
            edge_sweep: Duration::from_secs(30),
            deadline_sweep: Duration::from_secs(5),
            closure_sweep: Duration::from_secs(1),
            retention_sweep: Duration::from_secs(900),
            sweep_batch: 100,
            session_retention: Duration::from_secs(90 * 86_400),
            delegation_retention: Duration::from_secs(90 * 86_400),
        }
    }
}

/// A duration in the unit of all times, milliseconds.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
