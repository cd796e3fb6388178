//! Applications: who authenticates to the STS.

use super::{json, parsed, stored_enum};
use crate::SqlConnection;
use crate::StoreError;
use caracal_mandate::id::{ApplicationId, ZoneId};
use sqlx::Row as _;

stored_enum!(
    /// How an application came to be.
    RegistrationMethod {
        /// By an operator.
        Managed = "managed",
        /// By dynamic registration, for a short time.
        Dcr = "dcr",
    }
);

/// An application as services need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// Its zone.
    pub zone_id: ZoneId,
    /// Its name.
    pub name: String,
    /// How it came to be.
    pub registration_method: RegistrationMethod,
    /// The keyed hash of its client secret.
    pub client_secret_hash: Option<String>,
    /// What it may do besides.
    pub traits: Vec<String>,
    /// When it ends, unix milliseconds.
    pub expires_at: Option<i64>,
}

const COLUMNS: &str = "id, zone_id, name, registration_method, client_secret_hash, traits_json, expires_at";

impl Application {
    /// The application with this id in whatever zone, if it is neither archived nor expired at `now`.
    pub async fn find_active(
        connection: &mut SqlConnection,
        id: &ApplicationId,
        now: i64,
    ) -> Result<Option<Self>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM applications WHERE id = $1 AND archived_at IS NULL \
             AND (expires_at IS NULL OR expires_at > $2)"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(id.as_str())
            .bind(now)
            .fetch_optional(connection)
            .await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parsed(row, "id")?,
            zone_id: parsed(row, "zone_id")?,
            name: row.try_get("name")?,
            registration_method: parsed(row, "registration_method")?,
            client_secret_hash: row.try_get("client_secret_hash")?,
            traits: json(row, "traits_json")?,
            expires_at: row.try_get("expires_at")?,
        })
    }
}
