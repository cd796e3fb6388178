//! The issuers whose users a zone trusts (contract sts §21).

use super::parsed;
use crate::SqlConnection;
use crate::StoreError;
use caracal_mandate::id::ZoneId;
use sqlx::Row as _;
use sqlx::any::AnyRow;

/// An issuer that is not archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectIssuer {
    /// Its row id.
    pub id: String,
    /// The zone that trusts it.
    pub zone_id: ZoneId,
    /// What `iss` has to be, exactly.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// What `aud` has to contain.
    pub audience: String,
}

impl SubjectIssuer {
    /// The issuer of this name in this zone.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        issuer: &str,
    ) -> Result<Option<Self>, StoreError> {
        let row = sqlx::query(
            "SELECT id, zone_id, issuer, jwks_url, audience FROM subject_issuers \
             WHERE zone_id = $1 AND issuer = $2 AND archived_at IS NULL",
        )
        .bind(zone.as_str())
        .bind(issuer)
        .fetch_optional(connection)
        .await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("id")?,
            zone_id: parsed(row, "zone_id")?,
            issuer: row.try_get("issuer")?,
            jwks_url: row.try_get("jwks_url")?,
            audience: row.try_get("audience")?,
        })
    }
}
