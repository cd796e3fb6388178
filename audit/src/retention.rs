//! Pruning evidence that is older than it is kept (contract admin-audit §5.17, §11.8), so that what is left can still be
//! verified.
//!
//! Only the beginning of a zone's chain goes, and only rows that the ledger took longer ago than they are kept. Each
//! transaction takes a bounded number of them, moves the chain's base to the last one, and leaves an event that names
//! them: what is missing is known, and by whom it was removed. Rows are verified before they go, and a chain with open
//! findings keeps all of its rows. The newest row of a chain always stays.

use crate::base::Base;
use crate::chain::{ChainKey, Head};
use crate::integrity::{Checker, has_findings, zones};
use crate::query::{COLUMNS, StoredEvent, content_of};
use crate::verify::{Chain, Pace};
use caracal_store::audit::AuditEvent;
use caracal_store::settings::Setting;
use caracal_store::{Store, StoreError, WriteTx, clock, ids};
use serde_json::json;

/// The event that tells of pruned rows.
pub const PRUNED: &str = "audit_retention_pruned";
/// How many rows one transaction removes.
const BATCH: usize = 500;
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Removes what is older than it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Pruner {
    pub(crate) store: Store,
    pub(crate) key: ChainKey,
    pub(crate) checker: Checker,
    /// The most days for which events are kept; the setting can only lower it.
    pub(crate) most_days: i64,
}

/// Rows at the beginning of a chain that are to go.
struct Doomed {
    zone: String,
    base: Option<Head>,
    first: i64,
    last: Head,
    count: usize,
    days: i64,
    before: i64,
}

/// What is at the beginning of a chain.
enum Beginning {
    /// Nothing that may go.
    Kept,
    /// Rows that are not as they were written.
    Faulty,
    /// These may go.
    Old(Doomed),
}

impl Pruner {
    /// Prunes every zone's chain. Answers how many rows went.
    pub(crate) async fn prune(&self) -> Result<u64, StoreError> {
        let mut connection = self.store.read().await?;
        let set = Setting::AuditRetentionDays.read(&mut connection).await?;
        let zones = zones(&mut connection).await?;
        drop(connection);
        let days = set.unwrap_or(self.most_days).clamp(1, self.most_days.max(1));
        let mut pruned = 0;
        for zone in zones {
            pruned += self.prune_zone(&zone, days).await?;
        }
        Ok(pruned)
    }

    async fn prune_zone(&self, zone: &str, days: i64) -> Result<u64, StoreError> {
        let mut pruned = 0;
        loop {
            match self.beginning(zone, days).await? {
                Beginning::Kept => return Ok(pruned),
                Beginning::Faulty => {
                    self.checker.check(&Chain::Events(zone.to_owned()), Pace::Gentle).await?;
                    return Ok(pruned);
                }
                Beginning::Old(doomed) => match self.remove(doomed).await? {
                    // Another process is at it.
                    0 => return Ok(pruned),
                    removed => pruned += removed,
                },
            }
        }
    }

    async fn beginning(&self, zone: &str, days: i64) -> Result<Beginning, StoreError> {
        let mut connection = self.store.read().await?;
        if has_findings(&mut connection, &Chain::Events(zone.to_owned())).await? {
            return Ok(Beginning::Kept);
        }
        let base = match Base::read(&mut connection, &self.key, zone).await? {
            Some(base) if !base.authentic => return Ok(Beginning::Faulty),
            base => base.map(|base| base.head),
        };
        let before = self.store.now() - days.saturating_mul(DAY);
        // One more than may go: what follows it stays.
        let sql = format!(
            "SELECT {COLUMNS} FROM audit_events WHERE zone_id = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT {}",
            BATCH + 1
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(zone)
            .bind(base.as_ref().map_or(0, |base| base.seq))
            .fetch_all(&mut *connection)
            .await?;
        drop(connection);
        let mut head = base.clone();
        let (mut first, mut count, mut only_told) = (None, 0, true);
        for row in rows.split_last().map_or(&[][..], |(_, may_go)| may_go) {
            let stored = match StoredEvent::from_row(row) {
                Err(StoreError::Corrupt { .. }) => return Ok(Beginning::Faulty),
                stored => stored?,
            };
            if stored.ingested_at >= before {
                break;
            }
            let content = content_of(&stored.event, stored.ingested_at);
            if !self.key.check(head.as_ref(), &content, &stored.link).is_empty() {
                return Ok(Beginning::Faulty);
            }
            first = first.or(Some(stored.link.seq));
            count += 1;
            // Where nothing happens, what tells of the last pruning stays: it would only be told of again.
            only_told &= stored.event.event_type == PRUNED;
            head = Some(Head { seq: stored.link.seq, content_sha256: stored.link.content_sha256 });
        }
        Ok(match (first, head) {
            (Some(first), Some(last)) if !only_told => {
                Beginning::Old(Doomed { zone: zone.to_owned(), base, first, last, count, days, before })
            }
            _ => Beginning::Kept,
        })
    }

    /// Removes rows, moves the base and tells of it, all or nothing. Answers how many; 0 where the base was moved by
    /// another process meanwhile.
    async fn remove(&self, doomed: Doomed) -> Result<u64, StoreError> {
        let key = self.key.clone();
        let removed = self
            .store
            .write(move |tx| {
                Box::pin(async move {
                    let base = Base::read(tx.connection(), &key, &doomed.zone).await?.map(|base| base.head);
                    if base != doomed.base {
                        return Ok(0);
                    }
                    delete(tx, &doomed).await?;
                    Base::write(tx, &key, &doomed.zone, &doomed.last).await?;
                    tx.audit(&doomed.event(tx.now())).await?;
                    Ok::<_, StoreError>(doomed.count)
                })
            })
            .await?;
        let removed = u64::try_from(removed).unwrap_or(0);
        caracal_store::metrics::evidence_pruned(removed);
        Ok(removed)
    }
}

impl Doomed {
    fn event(&self, now: i64) -> AuditEvent {
        AuditEvent::new(&self.zone, PRUNED, &ids::new_id(), "allow", now).with_metadata(json!({
            "pruned": self.count,
            "first_chain_seq": self.first,
            "last_chain_seq": self.last.seq,
            "last_content_sha256": self.last.content_sha256,
            "ingested_before": clock::iso(self.before),
            "retention_days": self.days,
        }))
    }
}

async fn delete(tx: &mut WriteTx<'_>, doomed: &Doomed) -> Result<(), StoreError> {
    let deleted =
        sqlx::query("DELETE FROM audit_events WHERE zone_id = $1 AND chain_seq >= $2 AND chain_seq <= $3")
            .bind(doomed.zone.as_str())
            .bind(doomed.first)
            .bind(doomed.last.seq)
            .execute(&mut *tx.connection())
            .await?;
    if usize::try_from(deleted.rows_affected()) != Ok(doomed.count) {
        return Err(StoreError::corrupt(format!(
            "audit_events of zone {}: rows {} to {} are {} and not {}",
            doomed.zone,
            doomed.first,
            doomed.last.seq,
            deleted.rows_affected(),
            doomed.count
        )));
    }
    Ok(())
}
