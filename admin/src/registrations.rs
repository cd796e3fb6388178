//! Registered applications whose time has long been over are archived (contract admin-audit §10).

use caracal_store::audit::AuditEvent;
use caracal_store::{Store, StoreError, WriteTx, ids};
use serde_json::json;
use std::collections::BTreeMap;

/// How long an application is listed after its time was over, in milliseconds. Nothing is granted to it meanwhile, and no
/// mandate of it lives that long.
const LISTED: i64 = 24 * 60 * 60 * 1000;
/// How many one transaction archives.
const BATCH: i64 = 500;
/// Who did it.
const AUTHOR: &str = "registration-expiry";

/// Archives them, and leaves an event in each zone. Answers how many there were.
pub async fn archive_expired_registrations(store: &Store) -> Result<u64, StoreError> {
    let mut archived = 0;
    // Nothing is written where there is nothing to do.
    while any(store).await? {
        let zones = store.write(|tx| Box::pin(async move { archive(tx).await })).await?;
        archived += zones.values().sum::<u64>();
        if zones.is_empty() {
            break;
        }
    }
    Ok(archived)
}

async fn any(store: &Store) -> Result<bool, StoreError> {
    let one: Option<String> = sqlx::query_scalar(
        "SELECT id FROM applications WHERE registration_method = 'dcr' AND archived_at IS NULL \
         AND expires_at <= $1 LIMIT 1",
    )
    .bind(store.now() - LISTED)
    .fetch_optional(&mut *store.read().await?)
    .await?;
    Ok(one.is_some())
}

/// Archives one batch; answers how many of which zone.
async fn archive(tx: &mut WriteTx<'_>) -> Result<BTreeMap<String, u64>, StoreError> {
    let now = tx.now();
    let archived: Vec<String> = sqlx::query_scalar(
        "UPDATE applications SET archived_at = $1, updated_at = $1, updated_by = $2 WHERE id IN \
         (SELECT id FROM applications WHERE registration_method = 'dcr' AND archived_at IS NULL \
          AND expires_at <= $3 ORDER BY expires_at LIMIT $4) RETURNING zone_id",
    )
    .bind(now)
    .bind(AUTHOR)
    .bind(now - LISTED)
    .bind(BATCH)
    .fetch_all(&mut *tx.connection())
    .await?;
    let mut zones = BTreeMap::new();
    for zone in archived {
        *zones.entry(zone).or_insert(0) += 1;
    }
    for (zone, count) in &zones {
        let event = AuditEvent::new(zone, "registrations_archived", &ids::new_id(), "allow", now)
            .with_metadata(json!({ "applications": count, "actor": AUTHOR, "reason": "expired" }));
        tx.audit(&event).await?;
    }
    Ok(zones)
}
