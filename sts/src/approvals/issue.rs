//! Making a hold or finding it again, and using it up (contract sts §16.3, §16.4, §16.9).

use super::hold::{COLUMNS, Hold};
use super::sweep::lapse;
use super::terms::{Terms, approver_word, privacy_word};
use caracal_mandate::id::{AuthorityRecordId, ZoneId};
use caracal_store::SqlConnection;
use caracal_store::model::AuthorityRecord;
use caracal_store::{StoreError, WriteTx};
use serde_json::Value;

/// How long a used-up hold answers the same request again, should the first answer have been lost, in milliseconds.
const REISSUE_WINDOW: i64 = 120_000;

/// A hold to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewHold {
    pub(crate) zone_id: String,
    pub(crate) principal_id: String,
    pub(crate) principal_federated: bool,
    pub(crate) session_id: String,
    pub(crate) application_id: Option<String>,
    pub(crate) binding: String,
    pub(crate) terms: Terms,
    pub(crate) subject_anchor: Option<String>,
    pub(crate) metadata: Value,
}

/// The hold of this request: the one that waits already, or a new one. The second value tells whether it is new.
pub(crate) async fn converge(tx: &mut WriteTx<'_>, new: &NewHold) -> Result<(Hold, bool), StoreError> {
    let now = tx.now();
    let ttl = new.terms.ttl_seconds.saturating_mul(1000);
    if let Some(old) = find_open(tx, new).await?.filter(|hold| hold.expires_at <= now) {
        lapse(tx, &old).await?;
        sqlx::query("DELETE FROM approvals WHERE id = $1")
            .bind(old.id.as_str())
            .execute(&mut *tx.connection())
            .await?;
    }
    let inserted = sqlx::query(
        "INSERT INTO approvals (id, zone_id, principal_id, principal_federated, session_id, application_id, binding, \
         tier, approver_class, privacy_mode, subject_anchor, metadata_json, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING",
    )
    .bind(uuid::Uuid::new_v4().to_string())
    .bind(new.zone_id.as_str())
    .bind(new.principal_id.as_str())
    .bind(i64::from(new.principal_federated))
    .bind(new.session_id.as_str())
    .bind(new.application_id.clone())
    .bind(new.binding.as_str())
    .bind(new.terms.tier.as_str())
    .bind(approver_word(new.terms.approver))
    .bind(privacy_word(new.terms.privacy))
    .bind(new.subject_anchor.clone())
    .bind(new.metadata.to_string())
    .bind(now)
    .bind(now.saturating_add(ttl))
    .execute(&mut *tx.connection())
    .await?;
    let created = inserted.rows_affected() == 1;
    let hold = find_open(tx, new).await?;
    let hold = hold.ok_or_else(|| StoreError::corrupt("approvals: a new hold is not there"))?;
    Ok((hold, created))
}

/// The hold of this request that is not used up; there is at most one.
async fn find_open(tx: &mut WriteTx<'_>, new: &NewHold) -> Result<Option<Hold>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM approvals WHERE zone_id = $1 AND principal_id = $2 AND session_id = $3 \
         AND binding = $4 AND consumed_at IS NULL"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(new.zone_id.as_str())
        .bind(new.principal_id.as_str())
        .bind(new.session_id.as_str())
        .bind(new.binding.as_str())
        .fetch_optional(&mut *tx.connection())
        .await?;
    row.as_ref().map(Hold::from_row).transpose()
}

/// Uses a granted hold up for this record, in the transaction that makes the record; a workload has none. `false` if it cannot be used (any
/// more): then nothing may be granted.
pub(crate) async fn use_up(
    tx: &mut WriteTx<'_>,
    hold: &Hold,
    record: Option<&AuthorityRecordId>,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let result = sqlx::query(
        "UPDATE approvals SET consumed_at = $1, consumed_authority_record_id = $2 \
         WHERE id = $3 AND zone_id = $4 AND principal_id = $5 AND binding = $6 AND satisfied_at IS NOT NULL \
         AND rejected_at IS NULL AND approver_subject_id IS NOT NULL AND consumed_at IS NULL AND expires_at > $1 \
         AND (session_id = '' OR EXISTS (SELECT 1 FROM authority_records r WHERE r.id = approvals.session_id \
           AND r.zone_id = approvals.zone_id AND r.status = 'active' AND r.expires_at > $1))",
    )
    .bind(now)
    .bind(record.map_or("", AuthorityRecordId::as_str))
    .bind(hold.id.as_str())
    .bind(hold.zone_id.as_str())
    .bind(hold.principal_id.as_str())
    .bind(hold.binding.as_str())
    .execute(&mut *tx.connection())
    .await?;
    Ok(result.rows_affected() == 1)
}

/// The record that a used-up hold made, if its answer may be given again.
pub(crate) async fn may_reissue(
    connection: &mut SqlConnection,
    hold: &Hold,
    now: i64,
) -> Result<Option<AuthorityRecord>, StoreError> {
    let recent = hold.consumed_at.is_some_and(|at| now.saturating_sub(at) <= REISSUE_WINDOW);
    let id = hold.consumed_authority_record_id.as_deref().filter(|_| recent);
    let (Some(Ok(id)), Ok(zone)) = (id.map(AuthorityRecordId::new), ZoneId::new(hold.zone_id.as_str()))
    else {
        return Ok(None);
    };
    let record = AuthorityRecord::find(connection, &zone, &id).await?;
    Ok(record.filter(|record| record.is_live(now)))
}
