//! Resources and the providers of their credentials.

use super::{json, json_opt, parsed, parsed_opt};
use crate::SqlConnection;
use crate::StoreError;
use caracal_mandate::feed::ResourceEntry;
use caracal_mandate::id::{ResourceId, ResourceIdentifier, ZoneId};
use caracal_mandate::mcp::McpEntry;
use caracal_mandate::operation::{Operation, OperationEnforcement};
use caracal_mandate::scope::{LIFECYCLE, ScopeSet};
use sqlx::Row as _;

/// A resource as services need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its row id.
    pub id: ResourceId,
    /// Its zone.
    pub zone_id: ZoneId,
    /// What callers name.
    pub identifier: ResourceIdentifier,
    /// Where it is.
    pub upstream_url: Option<String>,
    /// The scopes that it declares.
    pub scopes: ScopeSet,
    /// Which provider has its credential.
    pub credential_provider_id: Option<String>,
    /// Its operations.
    pub operations: Vec<Operation>,
    /// Whether they are enforced.
    pub enforcement: OperationEnforcement,
    /// May a mandate for it be used more than once?
    pub multi_use: bool,
    /// What of MCP it declares, if it speaks MCP.
    pub mcp: Option<McpEntry>,
}

/// Where gateways send the requests of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceUpstream {
    /// The zone.
    pub zone: ZoneId,
    /// The resource.
    pub resource: ResourceIdentifier,
    /// Its address.
    pub url: String,
}

impl ResourceUpstream {
    /// Those of every resource that gateways may reach, of one zone or of all, `limit` at most. A resource whose provider
    /// is gone is not among them (contract sts §12.8).
    pub async fn all(
        connection: &mut SqlConnection,
        zone: Option<&ZoneId>,
        limit: i64,
    ) -> Result<Vec<Self>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.zone_id, r.identifier, r.upstream_url FROM resources r \
             JOIN zones z ON z.id = r.zone_id AND z.archived_at IS NULL \
             LEFT JOIN providers p ON p.zone_id = r.zone_id AND p.id = r.credential_provider_id \
               AND p.archived_at IS NULL \
             WHERE r.archived_at IS NULL AND r.upstream_url IS NOT NULL \
               AND (r.credential_provider_id IS NULL OR p.id IS NOT NULL) \
               AND ($1 = '' OR r.zone_id = $1) \
             ORDER BY r.zone_id, r.identifier LIMIT $2",
        )
        .bind(zone.map_or("", ZoneId::as_str))
        .bind(limit)
        .fetch_all(connection)
        .await?;
        let read = |row: &sqlx::any::AnyRow| {
            Ok(Self {
                zone: parsed(row, "zone_id")?,
                resource: parsed(row, "identifier")?,
                url: row.try_get("upstream_url")?,
            })
        };
        rows.iter().map(read).collect()
    }
}

/// A provider of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Its row id.
    pub id: String,
    /// Its kind, as `caracal_mandate`.
    pub kind: String,
    /// Its public configuration.
    pub config: serde_json::Value,
}

const COLUMNS: &str = "id, zone_id, identifier, upstream_url, scopes_json, credential_provider_id, operations_json, \
                       operation_enforcement, mandate_use, mcp_json";

impl Resource {
    /// The resource with this identifier or row id, unless it is archived (contract sts §12.1).
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        name: &str,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM resources WHERE zone_id = $1 AND (identifier = $2 OR id = $2) \
             AND archived_at IS NULL ORDER BY CASE WHEN identifier = $2 THEN 0 ELSE 1 END LIMIT 1"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).bind(name);
        query.fetch_optional(connection).await?.as_ref().map(Self::from_row).transpose()
    }

    /// Every resource of the zone that is not archived.
    pub async fn all(connection: &mut SqlConnection, zone: &ZoneId) -> Result<Vec<Self>, StoreError> {
        let sql =
            format!("SELECT {COLUMNS} FROM resources WHERE zone_id = $1 AND archived_at IS NULL ORDER BY id");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(zone.as_str()).fetch_all(connection).await?;
        rows.iter().map(Self::from_row).collect()
    }

    /// The scopes that may be minted for it: what it declares, and lifecycle work where it has an upstream.
    #[must_use]
    pub fn may_mint(&self, scope: &str) -> bool {
        self.scopes.contains(scope) || (scope == LIFECYCLE && self.upstream_url.is_some())
    }

    /// What filters are told of it.
    #[must_use]
    pub fn to_entry(&self) -> ResourceEntry {
        ResourceEntry {
            identifier: self.identifier.clone(),
            operations: self.operations.clone(),
            enforcement: self.enforcement,
            multi_use: self.multi_use,
            scopes: self.scopes.iter().cloned().collect(),
            upstream: None,
            mcp: self.mcp.clone(),
        }
    }

    fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, StoreError> {
        let enforcement: String = row.try_get("operation_enforcement")?;
        let mandate_use: String = row.try_get("mandate_use")?;
        Ok(Self {
            id: parsed(row, "id")?,
            zone_id: parsed(row, "zone_id")?,
            identifier: parsed(row, "identifier")?,
            upstream_url: row.try_get("upstream_url")?,
            scopes: json(row, "scopes_json")?,
            credential_provider_id: parsed_opt(row, "credential_provider_id")?,
            operations: json(row, "operations_json")?,
            enforcement: if enforcement == "transport_uniform" {
                OperationEnforcement::TransportUniform
            } else {
                OperationEnforcement::Enforced
            },
            multi_use: mandate_use == "multi",
            mcp: json_opt(row, "mcp_json")?,
        })
    }
}

impl Provider {
    /// The provider with this row id, unless it is archived.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &str,
    ) -> Result<Option<Self>, StoreError> {
        let row = sqlx::query(
            "SELECT id, kind, config_json FROM providers WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
        )
        .bind(zone.as_str())
        .bind(id)
        .fetch_optional(connection)
        .await?;
        row.map(|row| {
            Ok(Self {
                id: row.try_get("id")?,
                kind: row.try_get("kind")?,
                config: json(&row, "config_json")?,
            })
        })
        .transpose()
    }
}
