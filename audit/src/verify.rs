//! Do the chains still say what was written into them?
//!
//! Every row is hashed again and held against the row before; a chain whose oldest rows were pruned begins at its base
//! ([`crate::retention`]). What a chain alone cannot show is that its newest rows were cut off: for that, whoever checks
//! says where it ended when it was checked before.

use crate::base::Base;
use crate::chain::{ChainKey, Fault, Head, Link};
use crate::changes::{self, GLOBAL, RecordedChange};
use crate::query::{COLUMNS, StoredEvent, content_of};
use caracal_store::SqlConnection;
use caracal_store::{Store, StoreError};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use std::time::Instant;

/// How many rows are read at once.
const CHUNK: i64 = 500;
/// The most findings of one check: a chain under another key would have one for each row.
const MOST_FINDINGS: usize = 1_000;
/// How often a check begins anew because rows were pruned meanwhile.
const TRIES: usize = 10;

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// The record of changes of a zone, or of what belongs to none ([`GLOBAL`]).
    Changes(String),
    /// The events of a zone.
    Events(String),
}

/// How much of the machine a check takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Someone waits for it.
    Brisk,
    /// A quarter of a processor.
    Gentle,
}

/// One row that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its place.
    pub chain_seq: i64,
    /// Its id; empty where the row is not there.
    pub id: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many rows were checked.
    pub checked: u64,
    /// The last row that was pruned, if any was.
    pub base: Option<Head>,
    /// The last row.
    pub head: Option<Head>,
    /// What is wrong, in the order of the chain; at most a thousand findings.
    pub findings: Vec<Finding>,
}

/// Checks the chain of a zone's events from its beginning.
pub async fn verify_zone(store: &Store, key: &ChainKey, zone: &str) -> Result<Report, StoreError> {
    verify(store, key, &Chain::Events(zone.to_owned()), None, Pace::Brisk).await
}

/// Checks the chain of a zone's changes, or with `None` of what belongs to no zone.
pub async fn verify_changes(store: &Store, key: &ChainKey, zone: Option<&str>) -> Result<Report, StoreError> {
    verify(store, key, &Chain::Changes(zone.unwrap_or(GLOBAL).to_owned()), None, Pace::Brisk).await
}

/// Checks a chain that had this head when it was checked before.
pub(crate) async fn verify(
    store: &Store,
    key: &ChainKey,
    chain: &Chain,
    seen: Option<&Head>,
    pace: Pace,
) -> Result<Report, StoreError> {
    let mut tries = 1;
    loop {
        let report = Walk { key, chain, seen, pace }.run(store).await?;
        // Rows that were pruned under the eyes of the check look as if they were removed.
        let pruned = report.base != chain.base(&mut *store.read().await?, key).await?.map(|base| base.head);
        if report.findings.is_empty() || !pruned || tries == TRIES {
            return Ok(report);
        }
        tries += 1;
    }
}

impl Chain {
    /// The word for what kind of chain it is.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Changes(_) => "changes",
            Self::Events(_) => "events",
        }
    }

    /// The zone, or [`GLOBAL`].
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Changes(key) | Self::Events(key) => key,
        }
    }

    async fn base(&self, connection: &mut SqlConnection, key: &ChainKey) -> Result<Option<Base>, StoreError> {
        match self {
            Self::Changes(_) => Ok(None),
            Self::Events(zone) => Base::read(connection, key, zone).await,
        }
    }

    fn sql(&self) -> String {
        let (columns, table, key) = match self {
            Self::Changes(_) => (changes::COLUMNS, "admin_audit_events", "chain_key"),
            Self::Events(_) => (COLUMNS, "audit_events", "zone_id"),
        };
        format!(
            "SELECT {columns} FROM {table} WHERE {key} = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT {CHUNK}"
        )
    }

    /// What the hash of a row covers, and how it is linked; `None` for what no longer reads, which was changed.
    fn read(&self, row: &AnyRow) -> Result<Option<(Value, Link)>, StoreError> {
        let read = match self {
            Self::Changes(_) => RecordedChange::from_row(row).and_then(|(change, link)| {
                let content = serde_json::to_value(change);
                Ok((content.map_err(|error| StoreError::corrupt(error.to_string()))?, link))
            }),
            Self::Events(_) => StoredEvent::from_row(row)
                .map(|stored| (content_of(&stored.event, stored.ingested_at), stored.link)),
        };
        match read {
            Ok(read) => Ok(Some(read)),
            Err(StoreError::Corrupt { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

struct Walk<'a> {
    key: &'a ChainKey,
    chain: &'a Chain,
    seen: Option<&'a Head>,
    pace: Pace,
}

impl Walk<'_> {
    async fn run(&self, store: &Store) -> Result<Report, StoreError> {
        let mut report = Report::default();
        let base = self.chain.base(&mut *store.read().await?, self.key).await?;
        if let Some(base) = base {
            if base.authentic {
                report.head = Some(base.head.clone());
            } else {
                report.find(base.head.seq, "", Fault::Base);
            }
            report.base = Some(base.head);
        }
        // What was seen at the end before is pruned, or still to be met.
        let pruned_to = report.head.as_ref().map_or(i64::MIN, |head| head.seq);
        let mut to_meet = self.seen.filter(|seen| seen.seq > pruned_to);
        let (sql, mut after) = (self.chain.sql(), i64::MIN);
        loop {
            let begun = Instant::now();
            let rows = sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                .bind(self.chain.key())
                .bind(after)
                .fetch_all(&mut *store.read().await?)
                .await?;
            for row in &rows {
                let head = self.check(&mut report, row)?;
                after = head.seq;
                to_meet = to_meet.filter(|seen| **seen != head);
                report.head = Some(head);
            }
            if rows.is_empty() {
                break;
            }
            if self.pace == Pace::Gentle {
                tokio::time::sleep(begun.elapsed() * 3).await;
            }
        }
        if let Some(seen) = to_meet {
            report.find(seen.seq, "", Fault::Truncated);
        }
        Ok(report)
    }

    fn check(&self, report: &mut Report, row: &AnyRow) -> Result<Head, StoreError> {
        let id: String = row.try_get("id")?;
        let head = Head { seq: row.try_get("chain_seq")?, content_sha256: row.try_get("content_sha256")? };
        match self.chain.read(row)? {
            Some((content, link)) => {
                for fault in self.key.check(report.head.as_ref(), &content, &link) {
                    report.find(head.seq, &id, fault);
                }
            }
            None => report.find(head.seq, &id, Fault::Content),
        }
        report.checked += 1;
        Ok(head)
    }
}

impl Report {
    fn find(&mut self, chain_seq: i64, id: &str, fault: Fault) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(Finding { chain_seq, id: id.to_owned(), fault });
        }
    }
}
