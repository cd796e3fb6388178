//! Settings of the whole installation, which every process reads (contract admin-audit §5.17).

use crate::SqlConnection;
use crate::{StoreError, WriteTx};

/// A setting. Each is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// For how many days events are kept.
    AuditRetentionDays,
    /// How many mandates a minute an application may mint for one resource.
    MintLimitPerMinute,
}

impl Setting {
    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AuditRetentionDays => "audit_retention_days",
            Self::MintLimitPerMinute => "mint_limit_per_minute",
        }
    }

    /// What it is set to; `None` where it is not set.
    pub async fn read(self, connection: &mut SqlConnection) -> Result<Option<i64>, StoreError> {
        let value = sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
            .bind(self.name())
            .fetch_optional(connection)
            .await?;
        Ok(value)
    }
}

/// Sets it.
pub async fn set(tx: &mut WriteTx<'_>, setting: Setting, value: i64, author: &str) -> Result<(), StoreError> {
    let now = tx.now();
    sqlx::query(
        "INSERT INTO settings (name, value, updated_by, updated_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_by = excluded.updated_by, \
         updated_at = excluded.updated_at",
    )
    .bind(setting.name())
    .bind(value)
    .bind(author)
    .bind(now)
    .execute(&mut *tx.connection())
    .await?;
    Ok(())
}
