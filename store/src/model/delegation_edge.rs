//! Delegation edges: who handed which authority to whom.

use super::{flag, json, parsed, parsed_opt, stored_enum};
use crate::SqlConnection;
use crate::{StoreError, clock};
use caracal_mandate::id::{AgentSessionId, ApplicationId, DelegationEdgeId, ResourceId, ZoneId};
use caracal_mandate::narrow::MAX_HOPS;
use caracal_mandate::scope::ScopeSet;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

stored_enum!(
    /// Whether an edge still stands.
    EdgeStatus {
        /// It stands, until it expires.
        Active = "active",
        /// It was taken back.
        Revoked = "revoked",
        /// It was found expired.
        Expired = "expired",
    }
);

/// The constraints of an edge. Keys that are not known refuse the edge (contract sts §11).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraints {
    /// Identifiers of the resources that it reaches; empty for no bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// The longest mandate, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
    /// The old name of `max_hops`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
    /// How many edges a path that begins with this one may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hops: Option<u32>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_approved: Option<bool>,
    /// RFC 3339; mandates end by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// A remark: why an edge without resources was allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broad_reason: Option<String>,
}

/// Why constraints deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintsError {
    /// `max_depth` and `max_hops` are both there and differ.
    #[error("max_depth and max_hops differ")]
    Conflict,
    /// `expires_at` is no time.
    #[error("expires_at is not a time in RFC 3339")]
    ExpiresAt,
    /// More hops than any path may have.
    #[error("max_hops is above {MAX_HOPS}")]
    Hops,
}

impl Constraints {
    /// How many edges a path that begins with this edge may have: 1 unless it says more.
    pub fn hops(&self) -> Result<u32, ConstraintsError> {
        let positive = |hops: Option<u32>| hops.filter(|hops| *hops > 0);
        let hops = match (positive(self.max_depth), positive(self.max_hops)) {
            (Some(depth), Some(hops)) if depth != hops => return Err(ConstraintsError::Conflict),
            (Some(hops), _) | (None, Some(hops)) => hops,
            (None, None) => 1,
        };
        if hops > MAX_HOPS { Err(ConstraintsError::Hops) } else { Ok(hops) }
    }

    /// When mandates end at the latest, unix milliseconds.
    pub fn end(&self) -> Result<Option<i64>, ConstraintsError> {
        let Some(text) = &self.expires_at else { return Ok(None) };
        clock::parse_iso(text).map(Some).ok_or(ConstraintsError::ExpiresAt)
    }
}

/// An edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegationEdge {
    /// Its id.
    pub id: DelegationEdgeId,
    /// Its zone.
    pub zone_id: ZoneId,
    /// Whose authority it is.
    pub source_session_id: AgentSessionId,
    /// Who receives it.
    pub target_session_id: AgentSessionId,
    /// The application of the source.
    pub issuer_application_id: ApplicationId,
    /// The application of the target.
    pub receiver_application_id: ApplicationId,
    /// The edge that gave the source its authority.
    pub parent_edge_id: Option<DelegationEdgeId>,
    /// Was it made by inheritance at a session's start?
    pub inherited: bool,
    /// The one resource that it reaches.
    pub resource_id: Option<ResourceId>,
    /// The scopes.
    pub scopes: ScopeSet,
    /// Further constraints.
    pub constraints: Constraints,
    /// Whether it stands.
    pub status: EdgeStatus,
    /// When it ends, unix milliseconds.
    pub expires_at: i64,
    /// How often it changed.
    pub edge_version: i64,
    /// When it was taken back, unix milliseconds.
    pub revoked_at: Option<i64>,
    /// When it was made, unix milliseconds.
    pub created_at: i64,
}

impl DelegationEdge {
    /// The columns that [`DelegationEdge::from_row`] reads.
    pub const COLUMNS: &'static str = "id, zone_id, source_session_id, target_session_id, issuer_application_id, \
         receiver_application_id, parent_edge_id, inherited, resource_id, scopes_json, constraints_json, status, \
         expires_at, edge_version, revoked_at, created_at";

    /// The edge with this id in this zone, whatever its status.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &DelegationEdgeId,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {} FROM delegation_edges WHERE id = $1 AND zone_id = $2", Self::COLUMNS);
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_str()).bind(zone.as_str());
        query.fetch_optional(connection).await?.as_ref().map(Self::from_row).transpose()
    }

    /// The path from the root edge to this one, root first. `None` where it is longer than any path may be, or broken.
    pub async fn lineage(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &DelegationEdgeId,
    ) -> Result<Option<Vec<Self>>, StoreError> {
        // One more than a path may have, so that one that is too long is told from one that fits.
        let sql = format!(
            "WITH RECURSIVE up (edge_id, above, place) AS ( \
               SELECT id, parent_edge_id, 0 FROM delegation_edges WHERE id = $1 AND zone_id = $2 \
               UNION ALL \
               SELECT e.id, e.parent_edge_id, up.place + 1 FROM delegation_edges e JOIN up ON e.id = up.above \
               WHERE e.zone_id = $2 AND up.place < $3 \
             ) SELECT {} FROM up JOIN delegation_edges ON id = edge_id ORDER BY place DESC",
            Self::COLUMNS
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.as_str())
            .bind(zone.as_str())
            .bind(i64::from(MAX_HOPS))
            .fetch_all(connection)
            .await?;
        let path = rows.iter().map(Self::from_row).collect::<Result<Vec<_>, _>>()?;
        let begins = path.first().is_some_and(|root| root.parent_edge_id.is_none());
        let fits = u32::try_from(path.len()).is_ok_and(|length| length <= MAX_HOPS);
        Ok((begins && fits).then_some(path))
    }

    /// Does it stand at `now` (unix milliseconds)?
    #[must_use]
    pub fn is_live(&self, now: i64) -> bool {
        self.status == EdgeStatus::Active && self.revoked_at.is_none() && self.expires_at > now
    }

    /// Reads a row that has [`DelegationEdge::COLUMNS`].
    pub fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed(row, "id")?,
            zone_id: parsed(row, "zone_id")?,
            source_session_id: parsed(row, "source_session_id")?,
            target_session_id: parsed(row, "target_session_id")?,
            issuer_application_id: parsed(row, "issuer_application_id")?,
            receiver_application_id: parsed(row, "receiver_application_id")?,
            parent_edge_id: parsed_opt(row, "parent_edge_id")?,
            inherited: flag(row, "inherited")?,
            resource_id: parsed_opt(row, "resource_id")?,
            scopes: json(row, "scopes_json")?,
            constraints: json(row, "constraints_json")?,
            status: parsed(row, "status")?,
            expires_at: row.try_get("expires_at")?,
            edge_version: row.try_get("edge_version")?,
            revoked_at: row.try_get("revoked_at")?,
            created_at: row.try_get("created_at")?,
        })
    }
}
