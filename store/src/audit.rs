//! Audit events, written in the transaction of what they tell (contract sts §25.2).
//!
//! The event waits in an outbox until the ledger has taken it; it is there or the change is not.

use crate::SqlConnection;
use crate::{StoreError, WriteTx, ids};
use caracal_mandate::id::ZoneId;
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
    /// Puts an event into the outbox.
    pub async fn audit(&mut self, event: &AuditEvent) -> Result<(), StoreError> {
        self.audit_all(std::slice::from_ref(event)).await
    }
}

/// An event that the ledger has not taken yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The event's id.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// When it was written, unix milliseconds.
    pub created_at: i64,
}

impl Waiting {
    /// The events of a zone, newest first: at most `limit`, and only those before `cursor`, which is an id.
    pub async fn list(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        cursor: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Self>, StoreError> {
        let before = "($2 = '' OR place < (SELECT MIN(place) FROM audit_outbox WHERE id = $2))";
        Self::read(connection, zone, before, cursor.unwrap_or(""), limit).await
    }

    /// One event of a zone, if it waits.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &str,
    ) -> Result<Option<Self>, StoreError> {
        Ok(Self::read(connection, zone, "id = $2", id, 1).await?.pop())
    }

    /// An event's JSON begins with its id and its zone, so the zone is read there and never from what it tells.
    async fn read(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        condition: &str,
        id: &str,
        limit: i64,
    ) -> Result<Vec<Self>, StoreError> {
        let sql = format!(
            "SELECT id, event_json, created_at FROM audit_outbox WHERE {condition} \
             AND substr(event_json, 1, length('{{\"id\":\"' || id || '\",\"zone_id\":\"' || $1 || '\",')) \
               = '{{\"id\":\"' || id || '\",\"zone_id\":\"' || $1 || '\",' \
             ORDER BY place DESC LIMIT $3"
        );
        let rows: Vec<(String, String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(zone.as_str())
            .bind(id)
            .bind(limit)
            .fetch_all(connection)
            .await?;
        rows.into_iter()
            .map(|(id, json, created_at)| {
                let event: AuditEvent = serde_json::from_str(&json)
                    .map_err(|error| StoreError::corrupt(format!("audit_outbox {id}: {error}")))?;
                Ok(Self { id, event_type: event.event_type, created_at })
            })
            .collect()
    }
}

/// How many events of all zones wait for the ledger.
pub async fn count_waiting(connection: &mut SqlConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT COUNT(*) FROM audit_outbox").fetch_one(connection).await?)
}
