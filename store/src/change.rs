//! The change log: every change that a gateway has to know, with the epoch it leads to.
//!
//! One call inside the transaction of the change does all of it: the zone's epoch, the log row, and the revoked anchors
//! with the time until which they matter. Readers are woken after the commit.

use crate::SqlConnection;
use crate::many::{pieces, placeholders};
use crate::{StoreError, WriteTx};
use caracal_mandate::anchor::{Anchor, RevokedAnchor};
use caracal_mandate::epoch::{AuthorityEpoch, Generation};
use caracal_mandate::id::ZoneId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The longest life of a mandate (contract sts §17), in milliseconds.
pub const MAX_MANDATE_LIFE: i64 = 3_600_000;
/// How long a revoked anchor is remembered: the longest life of a mandate and a minute for clocks, in milliseconds.
pub const ANCHOR_RETENTION: i64 = MAX_MANDATE_LIFE + 60_000;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Change {
    /// Authority was taken away.
    Revoked {
        /// From whom.
        anchors: Vec<Anchor>,
    },
    /// A suspension was taken back.
    Restored {
        /// For whom.
        anchors: Vec<Anchor>,
    },
    /// An application has another secret or other traits: what was judged by the old ones does not count any more.
    Application {
        /// Its id.
        id: String,
    },
    /// The zone has other verification keys.
    Keys,
    /// Another policy is active.
    Policy,
    /// A resource is new or other than it was.
    Resource {
        /// Its row id.
        id: String,
    },
    /// A resource is gone.
    ResourceGone {
        /// Its identifier.
        identifier: String,
    },
    /// The zone is new.
    Zone,
    /// The zone is gone.
    ZoneGone,
}

impl WriteTx<'_> {
    /// Records a change of a zone and answers the epoch it leads to. The zone must exist.
    pub async fn record_change(
        &mut self,
        zone: &ZoneId,
        change: &Change,
    ) -> Result<AuthorityEpoch, StoreError> {
        let now = self.now();
        let seq: i64 = sqlx::query_scalar(
            "UPDATE sequences SET value = value + 1 WHERE name = 'change_log' RETURNING value",
        )
        .fetch_one(&mut *self.connection())
        .await?;
        let mark = match change {
            Change::Policy => ", policy_epoch = authority_epoch + 1",
            Change::Keys => ", keys_epoch = authority_epoch + 1",
            _ => "",
        };
        let sql = format!(
            "UPDATE zones SET authority_epoch = authority_epoch + 1{mark} WHERE id = $1 RETURNING authority_epoch"
        );
        let epoch: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(zone.as_str())
            .fetch_one(&mut *self.connection())
            .await?;
        let json = serde_json::to_string(change).map_err(|error| StoreError::corrupt(error.to_string()))?;
        sqlx::query(
            "INSERT INTO change_log (seq, zone_id, authority_epoch, change_json, created_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(seq)
        .bind(zone.as_str())
        .bind(epoch)
        .bind(json)
        .bind(now)
        .execute(&mut *self.connection())
        .await?;
        match change {
            Change::Revoked { anchors } => self.remember_anchors(zone, anchors, now).await?,
            Change::Restored { anchors } => self.forget_anchors(zone, anchors).await?,
            _ => {}
        }
        self.announce_change(u64::try_from(seq).unwrap_or(0));
        Ok(AuthorityEpoch(u64::try_from(epoch).unwrap_or(0)))
    }

    async fn remember_anchors(
        &mut self,
        zone: &ZoneId,
        anchors: &[Anchor],
        now: i64,
    ) -> Result<(), StoreError> {
        // One statement may name a row once.
        let rows: BTreeSet<(String, String)> = anchors.iter().map(kind_and_id).collect::<Result<_, _>>()?;
        let rows: Vec<(String, String)> = rows.into_iter().collect();
        for piece in pieces(&rows) {
            let sql = format!(
                "INSERT INTO revoked_anchors (zone_id, kind, id, until) VALUES {} \
                 ON CONFLICT (zone_id, kind, id) DO UPDATE SET until = excluded.until",
                placeholders(piece.len(), 4)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (kind, id) in piece {
                query = query
                    .bind(zone.as_str())
                    .bind(kind.as_str())
                    .bind(id.as_str())
                    .bind(now + ANCHOR_RETENTION);
            }
            query.execute(&mut *self.connection()).await?;
        }
        Ok(())
    }

    async fn forget_anchors(&mut self, zone: &ZoneId, anchors: &[Anchor]) -> Result<(), StoreError> {
        let rows: Vec<(String, String)> = anchors.iter().map(kind_and_id).collect::<Result<_, _>>()?;
        for (kind, id) in rows {
            sqlx::query("DELETE FROM revoked_anchors WHERE zone_id = $1 AND kind = $2 AND id = $3")
                .bind(zone.as_str())
                .bind(kind)
                .bind(id)
                .execute(&mut *self.connection())
                .await?;
        }
        Ok(())
    }
}

/// The revoked anchors of a zone that still matter.
pub async fn revoked_anchors(
    connection: &mut SqlConnection,
    zone: &ZoneId,
    now: i64,
) -> Result<Vec<RevokedAnchor>, StoreError> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT kind, id, until FROM revoked_anchors WHERE zone_id = $1 AND until > $2")
            .bind(zone.as_str())
            .bind(now)
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|(kind, id, until)| {
            let value = serde_json::json!({ "kind": kind, "id": id, "until": until });
            serde_json::from_value(value)
                .map_err(|error| StoreError::corrupt(format!("revoked_anchors: {error}")))
        })
        .collect()
}

/// The changes after a generation, in order.
pub async fn changes_after(
    connection: &mut SqlConnection,
    after: Generation,
) -> Result<Vec<(Generation, ZoneId, i64, Change)>, StoreError> {
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows: Vec<(i64, String, i64, String)> = sqlx::query_as(
        "SELECT seq, zone_id, created_at, change_json FROM change_log WHERE seq > $1 ORDER BY seq",
    )
    .bind(after)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(seq, zone, at, json)| {
            let corrupt = |why: String| StoreError::corrupt(format!("change_log {seq}: {why}"));
            let zone = ZoneId::new(zone).map_err(|error| corrupt(error.to_string()))?;
            let change = serde_json::from_str(&json).map_err(|error| corrupt(error.to_string()))?;
            Ok((Generation(u64::try_from(seq).unwrap_or(0)), zone, at, change))
        })
        .collect()
}

/// Whether zones or resources may have changed after a generation, and up to which one that is known. Cheap where nothing
/// of the kind happened, however much else did.
pub async fn resources_changed_after(
    connection: &mut SqlConnection,
    after: Generation,
) -> Result<(Generation, bool), StoreError> {
    let current: i64 = sqlx::query_scalar("SELECT value FROM sequences WHERE name = 'change_log'")
        .fetch_one(&mut *connection)
        .await?;
    let current = Generation(u64::try_from(current).unwrap_or(0));
    if current <= after {
        // A log that is shorter than it was belongs to another database.
        return Ok((current, current < after));
    }
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let (all, of_resources): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), COUNT(CASE WHEN change_json LIKE '{\"kind\":\"resource%' \
         OR change_json LIKE '{\"kind\":\"zone%' THEN 1 END) FROM change_log WHERE seq > $1 AND seq <= $2",
    )
    .bind(after)
    .bind(i64::try_from(current.0).unwrap_or(i64::MAX))
    .fetch_one(connection)
    .await?;
    // Generations have no gaps, so where one is missing the log was cut.
    let cut = u64::try_from(all).unwrap_or(0) != current.0.saturating_sub(u64::try_from(after).unwrap_or(0));
    Ok((current, cut || of_resources > 0))
}

fn kind_and_id(anchor: &Anchor) -> Result<(String, String), StoreError> {
    let text = anchor.to_string();
    match text.split_once(':') {
        Some((kind, id)) => Ok((kind.to_owned(), id.to_owned())),
        None => Err(StoreError::corrupt("an anchor without a kind")),
    }
}
