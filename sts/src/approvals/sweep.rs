//! Holds that nobody used in time: written down once, and forgotten a day later (contract sts §16.9).

use super::hold::{COLUMNS, Hold};
use crate::Sts;
use caracal_store::audit::AuditEvent;
use caracal_store::{StoreError, WriteTx};
use std::time::Duration;

/// How often the holds are looked through.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long a settled hold is kept, in milliseconds.
const RETENTION: i64 = 86_400_000;
/// How many holds one transaction takes, so that nobody waits long for it.
const BATCH: i64 = 200;

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Holds that had lapsed.
    pub lapsed: u64,
    /// Settled holds that were forgotten.
    pub forgotten: u64,
}

impl Sts {
    /// Does what has to be done now and then, until `stop` resolves. Any number of processes may do it beside each other.
    pub async fn run_jobs(&self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            match self.sweep_approvals().await {
                Ok(swept) => tracing::debug!(?swept, "approvals were looked through"),
                Err(error) => tracing::error!(%error, "approvals could not be looked through"),
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Looks through the holds once.
    pub async fn sweep_approvals(&self) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        loop {
            let lapsed = self.store().write(|tx| Box::pin(lapse_some(tx))).await?;
            let forgotten = self.store().write(|tx| Box::pin(forget_some(tx))).await?;
            swept.lapsed += lapsed;
            swept.forgotten += forgotten;
            if lapsed == 0 && forgotten == 0 {
                return Ok(swept);
            }
        }
    }
}

async fn lapse_some(tx: &mut WriteTx<'_>) -> Result<u64, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM approvals WHERE consumed_at IS NULL AND rejected_at IS NULL AND lapsed_at IS NULL \
         AND expires_at <= $1 ORDER BY expires_at LIMIT $2"
    );
    let now = tx.now();
    let rows =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(now).bind(BATCH).fetch_all(&mut *tx.connection()).await?;
    let mut lapsed = 0;
    for row in rows {
        lapsed += u64::from(lapse(tx, &Hold::from_row(&row)?).await?);
    }
    Ok(lapsed)
}

/// Writes down that a hold's time is up, unless that was done, or it was settled before. The caller has seen that it is.
pub(super) async fn lapse(tx: &mut WriteTx<'_>, hold: &Hold) -> Result<bool, StoreError> {
    let now = tx.now();
    let result = sqlx::query(
        "UPDATE approvals SET lapsed_at = $1 WHERE id = $2 AND consumed_at IS NULL AND rejected_at IS NULL \
         AND lapsed_at IS NULL AND expires_at <= $1",
    )
    .bind(now)
    .bind(hold.id.as_str())
    .execute(&mut *tx.connection())
    .await?;
    if result.rows_affected() != 1 {
        return Ok(false);
    }
    let mut fields = hold.to_event_fields();
    if let Some(object) = fields.as_object_mut() {
        // Whether anyone had approved what nobody then used.
        object.insert("approved".into(), hold.satisfied_at.is_some().into());
        if hold.privacy_mode != "identified" {
            object.remove("subject_anchor");
        }
    }
    let event = AuditEvent::new(&hold.zone_id, "step_up_expired", &hold.id, "expired", now);
    tx.audit(&event.with_metadata(fields)).await?;
    tx.announce_decision();
    Ok(true)
}

async fn forget_some(tx: &mut WriteTx<'_>) -> Result<u64, StoreError> {
    let before = tx.now().saturating_sub(RETENTION);
    let result = sqlx::query(
        "DELETE FROM approvals WHERE id IN (SELECT id FROM approvals WHERE expires_at < $1 \
         AND COALESCE(consumed_at, rejected_at, lapsed_at) IS NOT NULL \
         AND COALESCE(consumed_at, 0) < $1 AND COALESCE(rejected_at, 0) < $1 LIMIT $2)",
    )
    .bind(before)
    .bind(BATCH)
    .execute(&mut *tx.connection())
    .await?;
    Ok(result.rows_affected())
}
