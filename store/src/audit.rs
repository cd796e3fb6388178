//! Audit events, written in the transaction of what they tell (contract sts §25.2).
//!
//! The event waits in an outbox until the ledger has taken it; it is there or the change is not.

use crate::{StoreError, WriteTx, ids};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One event. Its JSON is what the ledger hashes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// UUIDv7.
    pub id: String,
    /// The zone, or `unknown` where none was proved.
    pub zone_id: String,
    /// Such as `token_exchange`.
    pub event_type: String,
    /// The request that caused it.
    pub request_id: String,
    /// `allow`, `deny`, `pending`, `approved`, `rejected` or `consumed`.
    pub decision: String,
    /// The policy set version that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_set_version_id: Option<String>,
    /// The manifest of that version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha: Option<String>,
    /// `complete`, or the reason why no decision was reached.
    pub evaluation_status: String,
    /// What decided, as `[{"policy": name}]`.
    pub determining_policies_json: Value,
    /// Why.
    pub diagnostics_json: Value,
    /// Facts of the request. Never a secret, never a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_json: Option<Value>,
    /// When, unix milliseconds.
    pub occurred_at: i64,
}

impl AuditEvent {
    /// An event without a policy result.
    pub fn new(zone: &str, event_type: &str, request_id: &str, decision: &str, now: i64) -> Self {
        Self {
            id: ids::new_id(),
            zone_id: zone.to_owned(),
            event_type: event_type.to_owned(),
            request_id: request_id.to_owned(),
            decision: decision.to_owned(),
            policy_set_version_id: None,
            manifest_sha: None,
            evaluation_status: "complete".to_owned(),
            determining_policies_json: Value::Array(Vec::new()),
            diagnostics_json: Value::Array(Vec::new()),
            metadata_json: None,
            occurred_at: now,
        }
    }

    /// The event with its metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Value) -> Self {
        self.metadata_json = Some(metadata);
        self
    }

    /// The event with another evaluation status.
    #[must_use]
    pub fn with_status(mut self, status: &str) -> Self {
        status.clone_into(&mut self.evaluation_status);
        self
    }
}

impl WriteTx<'_> {
    /// Puts an event into the outbox. An id that is there already is taken as the same event.
    pub async fn audit(&mut self, event: &AuditEvent) -> Result<(), StoreError> {
        let json = serde_json::to_string(event).map_err(|error| StoreError::corrupt(error.to_string()))?;
        let now = self.now();
        sqlx::query(
            "INSERT INTO audit_outbox (id, event_json, created_at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
        )
        .bind(event.id.as_str())
        .bind(json)
        .bind(now)
        .execute(&mut *self.connection())
        .await?;
        self.announce_audit();
        Ok(())
    }
}
