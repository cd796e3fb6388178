//! Users that an external issuer vouched for (contract sts §21).

use crate::SqlConnection;
use crate::{StoreError, WriteTx};
use caracal_mandate::id::ZoneId;

/// What is known of a user of a zone, apart from the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedSubject {
    /// The issuer that vouched for the user; empty where none did yet.
    pub issuer: String,
    /// Tokens that were issued up to then do not count, unix milliseconds.
    pub not_before: i64,
}

impl FederatedSubject {
    /// What is known of this user.
    pub async fn find(
        connection: &mut SqlConnection,
        zone: &ZoneId,
        subject: &str,
    ) -> Result<Option<Self>, StoreError> {
        let row: Option<(String, i64)> = sqlx::query_as(
            "SELECT issuer, not_before FROM federated_subjects WHERE zone_id = $1 AND subject_id = $2",
        )
        .bind(zone.as_str())
        .bind(subject)
        .fetch_optional(connection)
        .await?;
        Ok(row.map(|(issuer, not_before)| Self { issuer, not_before }))
    }

    /// From now on this issuer vouches for the user.
    pub async fn vouch(
        tx: &mut WriteTx<'_>,
        zone: &ZoneId,
        subject: &str,
        issuer: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO federated_subjects (zone_id, subject_id, issuer) VALUES ($1, $2, $3) \
             ON CONFLICT (zone_id, subject_id) DO UPDATE SET issuer = excluded.issuer",
        )
        .bind(zone.as_str())
        .bind(subject)
        .bind(issuer)
        .execute(&mut *tx.connection())
        .await?;
        Ok(())
    }

    /// From now on no token counts that was issued before: whoever was revoked has to sign in again.
    pub async fn bar(tx: &mut WriteTx<'_>, zone: &ZoneId, subject: &str) -> Result<(), StoreError> {
        let now = tx.now();
        sqlx::query(
            "INSERT INTO federated_subjects (zone_id, subject_id, issuer, not_before) VALUES ($1, $2, '', $3) \
             ON CONFLICT (zone_id, subject_id) DO UPDATE SET not_before = excluded.not_before",
        )
        .bind(zone.as_str())
        .bind(subject)
        .bind(now)
        .execute(&mut *tx.connection())
        .await?;
        Ok(())
    }
}
