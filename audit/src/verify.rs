//! Does the ledger still say what was written into it?
//!
//! Every row of a zone's chain is hashed again and held against the row before. What a chain alone cannot show is that
//! its newest rows were cut off: for that, the [`Head`] of an earlier report has to be kept somewhere else.

use crate::chain::{ChainKey, Fault, Head};
use crate::query::{COLUMNS, StoredEvent, content_of};
use caracal_store::{Store, StoreError};
use sqlx::Row as _;

/// How many rows are read at once.
const CHUNK: i64 = 1_000;

/// One row that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its place.
    pub chain_seq: i64,
    /// Its id.
    pub id: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many rows were checked.
    pub checked: u64,
    /// The last row.
    pub head: Option<Head>,
    /// What is wrong, in the order of the chain.
    pub findings: Vec<Finding>,
}

/// Checks a zone's chain from its beginning.
pub async fn verify_zone(store: &Store, key: &ChainKey, zone: &str) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let mut connection = store.read().await?;
    let sql = format!(
        "SELECT {COLUMNS} FROM audit_events WHERE zone_id = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT {CHUNK}"
    );
    let mut after = i64::MIN;
    loop {
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
            .bind(zone)
            .bind(after)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            let chain_seq: i64 = row.try_get("chain_seq")?;
            let id: String = row.try_get("id")?;
            let content_sha256: String = row.try_get("content_sha256")?;
            match StoredEvent::from_row(row) {
                Ok(stored) => {
                    let content = content_of(&stored.event, stored.ingested_at);
                    for fault in key.check(report.head.as_ref(), &content, &stored.link) {
                        report.findings.push(Finding { chain_seq, id: id.clone(), fault });
                    }
                }
                // What no longer reads as JSON was changed.
                Err(StoreError::Corrupt { .. }) => {
                    report.findings.push(Finding { chain_seq, id, fault: Fault::Content });
                }
                Err(other) => return Err(other),
            }
            report.checked += 1;
            after = chain_seq;
            report.head = Some(Head { seq: chain_seq, content_sha256 });
        }
        if rows.is_empty() {
            return Ok(report);
        }
    }
}
