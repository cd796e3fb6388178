//! The record of changes as a chain: what the hash of a row covers (contract admin-audit §13.3).

use crate::chain::Link;
use caracal_store::StoreError;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// The chain of what belongs to no zone.
pub const GLOBAL: &str = "global";

/// Every column.
pub const COLUMNS: &str = "id, chain_key, chain_seq, zone_id, request_id, actor_id, actor_name, actor_scope, action, \
     method, path, entity_type, entity_id, status_code, payload_json, occurred_at, content_sha256, \
     prev_content_sha256, chain_hmac";

/// One change. Its JSON is what the chain hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedChange {
    /// UUIDv7.
    pub id: String,
    /// The zone that it belongs to.
    pub zone_id: Option<String>,
    /// The request that asked for it.
    pub request_id: String,
    /// Whose token it was.
    pub actor_id: String,
    /// The token's name.
    pub actor_name: String,
    /// `zone` or `global`.
    pub actor_scope: String,
    /// Method and path.
    pub action: String,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The kind of what was changed.
    pub entity_type: Option<String>,
    /// Its id.
    pub entity_id: Option<String>,
    /// The status of the answer.
    pub status_code: i64,
    /// Names of what was changed, never values: canonical JSON.
    pub payload_json: Option<String>,
    /// When, unix milliseconds.
    pub occurred_at: i64,
}

impl RecordedChange {
    /// A row as it is stored, and how it is linked.
    pub(crate) fn from_row(row: &AnyRow) -> Result<(Self, Link), StoreError> {
        let change = Self {
            id: row.try_get("id")?,
            zone_id: row.try_get("zone_id")?,
            request_id: row.try_get("request_id")?,
            actor_id: row.try_get("actor_id")?,
            actor_name: row.try_get("actor_name")?,
            actor_scope: row.try_get("actor_scope")?,
            action: row.try_get("action")?,
            method: row.try_get("method")?,
            path: row.try_get("path")?,
            entity_type: row.try_get("entity_type")?,
            entity_id: row.try_get("entity_id")?,
            status_code: row.try_get("status_code")?,
            payload_json: row.try_get("payload_json")?,
            occurred_at: row.try_get("occurred_at")?,
        };
        Ok((change, Link::from_row(row)?))
    }
}
