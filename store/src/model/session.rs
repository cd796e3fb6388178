//! Agent sessions.

use super::{json, parsed, parsed_opt, stored_enum};
use crate::SqlConnection;
use crate::StoreError;
use caracal_mandate::id::{AgentSessionId, ApplicationId, AuthorityRecordId, ZoneId};
use sqlx::Row as _;

stored_enum!(
    /// Where a session stands.
    SessionStatus {
        /// It acts.
        Active = "active",
        /// It may act again.
        Suspended = "suspended",
        /// It was ended.
        Terminated = "terminated",
        /// Its time ran out.
        Expired = "expired",
    }
);

stored_enum!(
    /// How a session lives.
    Lifecycle {
        /// For a limited time.
        Task = "task",
        /// For as long as it renews its lease.
        Service = "service",
    }
);

/// An agent session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSession {
    /// Its id.
    pub id: AgentSessionId,
    /// Its zone.
    pub zone_id: ZoneId,
    /// The application that acts.
    pub application_id: ApplicationId,
    /// The session that started it.
    pub parent_id: Option<AgentSessionId>,
    /// The record that it was started on.
    pub subject_authority_record_id: AuthorityRecordId,
    /// How it lives.
    pub lifecycle: Lifecycle,
    /// What it says it is; roles of policy.
    pub labels: Vec<String>,
    /// What its starter wrote down.
    pub metadata: serde_json::Value,
    /// Where it stands.
    pub status: SessionStatus,
    /// How many sessions are above it.
    pub depth: i64,
    /// How many children it may have.
    pub max_children: i64,
    /// How many live children it has.
    pub child_count: i64,
    /// How long a task lives, seconds.
    pub ttl_seconds: Option<i64>,
    /// When it began, unix milliseconds.
    pub started_at: i64,
    /// When it acted last, unix milliseconds.
    pub last_active_at: i64,
    /// When its row changed last, unix milliseconds.
    pub updated_at: i64,
    /// When a service was heard last, unix milliseconds.
    pub last_heartbeat_at: Option<i64>,
    /// Until when a service has to be heard again, unix milliseconds.
    pub heartbeat_deadline_at: Option<i64>,
    /// Who holds the lease: 0 for a task.
    pub lease_generation: i64,
    /// When it ended, unix milliseconds.
    pub terminated_at: Option<i64>,
    /// Why it ended.
    pub termination_reason: Option<String>,
}

/// All columns, in no particular order, for [`AgentSession::from_row`].
const COLUMNS: &str = "id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, labels_json, \
     metadata_json, status, depth, max_children, child_count, ttl_seconds, started_at, last_active_at, updated_at, \
     last_heartbeat_at, heartbeat_deadline_at, lease_generation, terminated_at, termination_reason";

impl AgentSession {
    /// The columns that [`AgentSession::from_row`] reads.
    pub const COLUMNS: &'static str = COLUMNS;

    /// The session with this id in this zone, whatever its status.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &AgentSessionId,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM sessions WHERE id = $1 AND zone_id = $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_str()).bind(zone.as_str());
        query.fetch_optional(connection).await?.as_ref().map(Self::from_row).transpose()
    }

    /// Is it within its time at `now` (unix milliseconds): a task within its time to live, a service within its lease?
    #[must_use]
    pub fn is_within_time(&self, now: i64) -> bool {
        self.ends_at().is_some_and(|end| end > now)
    }

    /// May it act at `now`? Whether its subject's record stands has to be checked besides.
    #[must_use]
    pub fn is_active(&self, now: i64) -> bool {
        self.status == SessionStatus::Active && self.is_within_time(now)
    }

    /// When a task's time is up, or a service's lease.
    #[must_use]
    pub fn ends_at(&self) -> Option<i64> {
        match self.lifecycle {
            Lifecycle::Task => {
                let ttl = self.ttl_seconds.filter(|ttl| *ttl > 0)?;
                Some(self.started_at.saturating_add(ttl.saturating_mul(1000)))
            }
            Lifecycle::Service => self.heartbeat_deadline_at,
        }
    }

    /// Reads a row that has [`AgentSession::COLUMNS`].
    pub fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed(row, "id")?,
            zone_id: parsed(row, "zone_id")?,
            application_id: parsed(row, "application_id")?,
            parent_id: parsed_opt(row, "parent_id")?,
            subject_authority_record_id: parsed(row, "subject_authority_record_id")?,
            lifecycle: parsed(row, "lifecycle")?,
            labels: json(row, "labels_json")?,
            metadata: json(row, "metadata_json")?,
            status: parsed(row, "status")?,
            depth: row.try_get("depth")?,
            max_children: row.try_get("max_children")?,
            child_count: row.try_get("child_count")?,
            ttl_seconds: row.try_get("ttl_seconds")?,
            started_at: row.try_get("started_at")?,
            last_active_at: row.try_get("last_active_at")?,
            updated_at: row.try_get("updated_at")?,
            last_heartbeat_at: row.try_get("last_heartbeat_at")?,
            heartbeat_deadline_at: row.try_get("heartbeat_deadline_at")?,
            lease_generation: row.try_get("lease_generation")?,
            terminated_at: row.try_get("terminated_at")?,
            termination_reason: row.try_get("termination_reason")?,
        })
    }
}
