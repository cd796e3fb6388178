//! Zones.

use super::parsed;
use crate::SqlConnection;
use crate::StoreError;
use caracal_mandate::epoch::{AuthorityEpoch, PolicyEpoch};
use caracal_mandate::id::ZoneId;
use sqlx::Row as _;

/// A zone's epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epochs {
    /// How many changes it has seen.
    pub authority: AuthorityEpoch,
    /// At which of them policy changed last.
    pub policy: PolicyEpoch,
    /// At which of them the signing keys changed last.
    pub keys: AuthorityEpoch,
    /// The delegation graph's epoch.
    pub graph: u64,
}

/// A zone as services need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    /// Its id.
    pub id: ZoneId,
    /// Its epochs.
    pub epochs: Epochs,
}

impl Zone {
    /// The zone with this id, unless it is archived.
    pub async fn find(connection: &mut SqlConnection, id: &ZoneId) -> Result<Option<Self>, StoreError> {
        let row = sqlx::query(
            "SELECT id, authority_epoch, policy_epoch, keys_epoch, graph_epoch FROM zones WHERE id = $1 AND archived_at IS NULL",
        )
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    /// Every zone that is not archived.
    pub async fn all(connection: &mut SqlConnection) -> Result<Vec<Self>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, authority_epoch, policy_epoch, keys_epoch, graph_epoch FROM zones WHERE archived_at IS NULL ORDER BY id",
        )
        .fetch_all(connection)
        .await?;
        rows.iter().map(Self::from_row).collect()
    }

    fn from_row(row: &sqlx::any::AnyRow) -> Result<Self, StoreError> {
        let number = |column: &str| -> Result<u64, StoreError> {
            let value: i64 = row.try_get(column)?;
            u64::try_from(value).map_err(|_| StoreError::corrupt(format!("zones.{column} is negative")))
        };
        Ok(Self {
            id: parsed(row, "id")?,
            epochs: Epochs {
                authority: AuthorityEpoch(number("authority_epoch")?),
                policy: PolicyEpoch(number("policy_epoch")?),
                keys: AuthorityEpoch(number("keys_epoch")?),
                graph: number("graph_epoch")?,
            },
        })
    }
}
