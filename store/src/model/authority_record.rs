//! Authority records: one per minted mandate, and its first anchor of revocation (contract sts §18).

use super::{parsed, parsed_opt, stored_enum};
use crate::SqlConnection;
use crate::{StoreError, WriteTx};
use caracal_mandate::claims::SubjectType;
use caracal_mandate::id::{ApplicationId, AuthorityRecordId, ZoneId};
use sqlx::Row as _;

stored_enum!(
    /// Whether a record still stands.
    RecordStatus {
        /// It stands, until it expires.
        Active = "active",
        /// It was taken back.
        Revoked = "revoked",
        /// It was found expired.
        Expired = "expired",
    }
);

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRecord {
    /// Its id, the mandate's `sid`.
    pub id: AuthorityRecordId,
    /// Its zone.
    pub zone_id: ZoneId,
    /// Who the subject is.
    pub subject_type: SubjectType,
    /// The subject, verbatim.
    pub subject_id: String,
    /// The application that the mandate was minted for.
    pub application_id: ApplicationId,
    /// The record of the mandate that was exchanged for this one.
    pub parent_id: Option<AuthorityRecordId>,
    /// Whether it stands.
    pub status: RecordStatus,
    /// When it ends, unix milliseconds.
    pub expires_at: i64,
}

/// A record to be inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAuthorityRecord {
    /// The record; its status is ignored, a new one stands.
    pub record: AuthorityRecord,
    /// What else is known of the subject, as `{"iss": …}` for a federated user.
    pub claims_json: String,
}

impl AuthorityRecord {
    /// The columns that [`AuthorityRecord::from_row`] reads.
    pub const COLUMNS: &'static str =
        "id, zone_id, session_type, subject_id, application_id, parent_id, status, expires_at";

    /// The record with this id in this zone, whatever its status.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        id: &AuthorityRecordId,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!("SELECT {} FROM authority_records WHERE id = $1 AND zone_id = $2", Self::COLUMNS);
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.as_str()).bind(zone.as_str());
        let row = query.fetch_optional(connection).await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    /// Does it stand at `now` (unix milliseconds)?
    #[must_use]
    pub fn is_live(&self, now: i64) -> bool {
        self.status == RecordStatus::Active && self.expires_at > now
    }

    /// Reads a row that has [`AuthorityRecord::COLUMNS`].
    pub fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, StoreError> {
        let kind: String = row.try_get("session_type")?;
        Ok(Self {
            id: parsed(row, "id")?,
            zone_id: parsed(row, "zone_id")?,
            subject_type: if kind == "user" { SubjectType::User } else { SubjectType::Application },
            subject_id: row.try_get("subject_id")?,
            application_id: parsed(row, "application_id")?,
            parent_id: parsed_opt(row, "parent_id")?,
            status: parsed(row, "status")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}

impl NewAuthorityRecord {
    /// Inserts it.
    pub async fn insert(&self, tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
        tx.insert_records(std::slice::from_ref(self)).await
    }
}

/// How a kind of subject is stored.
pub(crate) fn session_type(subject: SubjectType) -> &'static str {
    match subject {
        SubjectType::Application => "application",
        SubjectType::User => "user",
    }
}
