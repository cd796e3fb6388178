//! What is wrong with the chains, kept until someone who administers says that it is known.
//!
//! A check ([`crate::verify`]) of a chain records what it finds, and leaves an event of it in the zone. A finding is open
//! until it is acknowledged, also where a later check no longer makes it: whoever can change rows can change them back.

use crate::chain::{ChainKey, Head};
use crate::changes::GLOBAL;
use crate::verify::{Chain, Finding, Pace, Report, verify};
use caracal_store::SqlConnection;
use caracal_store::audit::AuditEvent;
use caracal_store::{Store, StoreError, WriteTx, ids};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::Mutex;

/// The event that tells of findings.
pub const TAMPERED: &str = "audit_tamper_detected";
/// How many findings an event, and a description, names.
const MOST_NAMED: usize = 100;

/// A finding as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// `changes` or `events`.
    pub chain: String,
    /// The zone, or `global`.
    pub key: String,
    /// The row's place.
    pub chain_seq: i64,
    /// The row's id; empty where the row is not there.
    pub row_id: String,
    /// What is wrong with it.
    pub fault: String,
    /// When it was found, unix milliseconds.
    pub found_at: i64,
}

/// How it stands with the chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Integrity {
    /// How many chains were checked.
    pub chains: i64,
    /// How many rows they had.
    pub rows: i64,
    /// When the chain whose last check is longest ago was checked, unix milliseconds.
    pub checked_at: Option<i64>,
    /// How many findings are open.
    pub open: i64,
    /// The first of them.
    pub findings: Vec<Open>,
}

impl Integrity {
    /// How it stands with all chains, or with those of a zone.
    pub async fn read(connection: &mut SqlConnection, zone: Option<&str>) -> Result<Self, StoreError> {
        let zone = zone.unwrap_or_default();
        let (chains, rows, checked_at): (i64, i64, Option<i64>) = sqlx::query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(checked), 0) AS BIGINT), MIN(checked_at) FROM audit_checks \
             WHERE $1 = '' OR chain_key = $1",
        )
        .bind(zone)
        .fetch_one(&mut *connection)
        .await?;
        let open: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM audit_findings WHERE acknowledged_at IS NULL AND ($1 = '' OR chain_key = $1)",
        )
        .bind(zone)
        .fetch_one(&mut *connection)
        .await?;
        type Columns = (String, String, i64, String, String, i64);
        let findings: Vec<Columns> = sqlx::query_as(
            "SELECT chain, chain_key, chain_seq, row_id, fault, found_at FROM audit_findings \
             WHERE acknowledged_at IS NULL AND ($1 = '' OR chain_key = $1) \
             ORDER BY found_at, chain, chain_key, chain_seq, fault LIMIT 100",
        )
        .bind(zone)
        .fetch_all(&mut *connection)
        .await?;
        let open_finding = |(chain, key, chain_seq, row_id, fault, found_at): Columns| Open {
            chain,
            key,
            chain_seq,
            row_id,
            fault,
            found_at,
        };
        Ok(Self {
            chains,
            rows,
            checked_at,
            open,
            findings: findings.into_iter().map(open_finding).collect(),
        })
    }

    /// `tampered` where findings are open, `unchecked` before the first check, else `intact`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match (self.open, self.checked_at) {
            (0, Some(_)) => "intact",
            (0, None) => "unchecked",
            _ => "tampered",
        }
    }
}

/// Is any finding open?
pub(crate) async fn is_tampered(connection: &mut SqlConnection) -> Result<bool, StoreError> {
    let open: Option<i64> =
        sqlx::query_scalar("SELECT chain_seq FROM audit_findings WHERE acknowledged_at IS NULL LIMIT 1")
            .fetch_optional(connection)
            .await?;
    Ok(open.is_some())
}

/// Has this chain open findings?
pub(crate) async fn has_findings(connection: &mut SqlConnection, chain: &Chain) -> Result<bool, StoreError> {
    let open: Option<i64> = sqlx::query_scalar(
        "SELECT chain_seq FROM audit_findings WHERE chain = $1 AND chain_key = $2 AND acknowledged_at IS NULL LIMIT 1",
    )
    .bind(chain.kind())
    .bind(chain.key())
    .fetch_optional(connection)
    .await?;
    Ok(open.is_some())
}

/// Takes note of all open findings, in the name of `author`. Answers how many there were.
pub async fn acknowledge(tx: &mut WriteTx<'_>, author: &str) -> Result<u64, StoreError> {
    let now = tx.now();
    let noted = sqlx::query(
        "UPDATE audit_findings SET acknowledged_at = $1, acknowledged_by = $2 WHERE acknowledged_at IS NULL",
    )
    .bind(now)
    .bind(author)
    .execute(&mut *tx.connection())
    .await?;
    Ok(noted.rows_affected())
}

/// Checks chains and records what it finds. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    store: Store,
    key: ChainKey,
    /// Where chains ended when this process checked them: nobody who changes the database changes this.
    heads: Arc<Mutex<HashMap<Chain, Head>>>,
}

impl Checker {
    pub(crate) fn new(store: Store, key: ChainKey) -> Self {
        Self { store, key, heads: Arc::default() }
    }

    /// Checks every chain, one after the other.
    pub(crate) async fn check_all(&self) -> Result<(), StoreError> {
        for chain in self.chains().await? {
            self.check(&chain, Pace::Gentle).await?;
        }
        Ok(())
    }

    /// Checks a chain.
    pub(crate) async fn check(&self, chain: &Chain, pace: Pace) -> Result<(), StoreError> {
        let seen = self.last_head(chain).await?;
        let report = verify(&self.store, &self.key, chain, seen.as_ref(), pace).await?;
        let (checked, head) = (report.checked, report.head.clone());
        let new = self.record(chain.clone(), report).await?;
        caracal_store::metrics::chain_checked(checked, new.iter().copied());
        let mut heads = self.heads.lock().await;
        match head {
            Some(head) => heads.insert(chain.clone(), head),
            None => heads.remove(chain),
        };
        Ok(())
    }

    /// The end of a chain when it was checked before: what this process saw, or else what any did.
    async fn last_head(&self, chain: &Chain) -> Result<Option<Head>, StoreError> {
        if let Some(head) = self.heads.lock().await.get(chain) {
            return Ok(Some(head.clone()));
        }
        let row: Option<(Option<i64>, Option<String>)> = sqlx::query_as(
            "SELECT head_seq, head_sha256 FROM audit_checks WHERE chain = $1 AND chain_key = $2",
        )
        .bind(chain.kind())
        .bind(chain.key())
        .fetch_optional(&mut *self.store.read().await?)
        .await?;
        let head = |(seq, content_sha256): (Option<i64>, Option<String>)| {
            Some(Head { seq: seq?, content_sha256: content_sha256? })
        };
        Ok(row.and_then(head))
    }

    /// Every chain that there is, that was checked once, or that this process knows.
    async fn chains(&self) -> Result<BTreeSet<Chain>, StoreError> {
        let mut chains: BTreeSet<Chain> = self.heads.lock().await.keys().cloned().collect();
        let mut connection = self.store.read().await?;
        chains.extend(zones(&mut connection).await?.into_iter().map(Chain::Events));
        let of_changes = keys(&mut connection, "admin_audit_events", "chain_key").await?;
        chains.extend(of_changes.into_iter().map(Chain::Changes));
        let known: Vec<(String, String)> =
            sqlx::query_as("SELECT chain, chain_key FROM audit_checks").fetch_all(&mut *connection).await?;
        chains.extend(
            known.into_iter().map(
                |(kind, key)| {
                    if kind == "events" { Chain::Events(key) } else { Chain::Changes(key) }
                },
            ),
        );
        Ok(chains)
    }

    /// Writes down that a chain was checked, and what was found. Answers the words of what is new.
    async fn record(&self, chain: Chain, report: Report) -> Result<Vec<&'static str>, StoreError> {
        self.store
            .write(move |tx| {
                Box::pin(async move {
                    let mut new = Vec::new();
                    for finding in &report.findings {
                        if keep(tx, &chain, finding).await? {
                            new.push(finding);
                        }
                    }
                    if !new.is_empty() {
                        tell(tx, &chain, &new).await?;
                    }
                    note_check(tx, &chain, &report).await?;
                    Ok::<_, StoreError>(new.iter().map(|finding| finding.fault.as_str()).collect())
                })
            })
            .await
    }
}

/// The zones that have events.
pub(crate) async fn zones(connection: &mut SqlConnection) -> Result<Vec<String>, StoreError> {
    keys(connection, "audit_events", "zone_id").await
}

/// The values of the first column of an index, without going through all of it.
async fn keys(
    connection: &mut SqlConnection,
    table: &'static str,
    column: &'static str,
) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE keys (key) AS (SELECT MIN({column}) FROM {table} UNION ALL \
         SELECT (SELECT MIN({column}) FROM {table} WHERE {column} > keys.key) FROM keys WHERE keys.key IS NOT NULL) \
         SELECT key FROM keys WHERE key IS NOT NULL"
    );
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await?)
}

/// `false` where it is known already.
async fn keep(tx: &mut WriteTx<'_>, chain: &Chain, finding: &Finding) -> Result<bool, StoreError> {
    let now = tx.now();
    let kept = sqlx::query(
        "INSERT INTO audit_findings (chain, chain_key, chain_seq, fault, row_id, found_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (chain, chain_key, chain_seq, fault) DO NOTHING",
    )
    .bind(chain.kind())
    .bind(chain.key())
    .bind(finding.chain_seq)
    .bind(finding.fault.as_str())
    .bind(finding.id.as_str())
    .bind(now)
    .execute(&mut *tx.connection())
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Leaves an event of what was found.
async fn tell(tx: &mut WriteTx<'_>, chain: &Chain, new: &[&Finding]) -> Result<(), StoreError> {
    tracing::error!(
        chain = chain.kind(),
        key = chain.key(),
        findings = new.len(),
        "a chain is not as it was written"
    );
    let named: Vec<_> = new
        .iter()
        .take(MOST_NAMED)
        .map(|finding| {
            json!({ "chain_seq": finding.chain_seq, "id": finding.id, "fault": finding.fault.as_str() })
        })
        .collect();
    let zone = if chain.key() == GLOBAL { "unknown" } else { chain.key() };
    let event = AuditEvent::new(zone, TAMPERED, &ids::new_id(), "deny", tx.now())
        .with_status("anomaly")
        .with_metadata(json!({ "chain": chain.kind(), "found": new.len(), "findings": named }));
    tx.audit(&event).await
}

async fn note_check(tx: &mut WriteTx<'_>, chain: &Chain, report: &Report) -> Result<(), StoreError> {
    let now = tx.now();
    sqlx::query(
        "INSERT INTO audit_checks (chain, chain_key, checked, head_seq, head_sha256, checked_at) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (chain, chain_key) DO UPDATE SET checked = excluded.checked, \
         head_seq = excluded.head_seq, head_sha256 = excluded.head_sha256, checked_at = excluded.checked_at",
    )
    .bind(chain.kind())
    .bind(chain.key())
    .bind(i64::try_from(report.checked).unwrap_or(i64::MAX))
    .bind(report.head.as_ref().map(|head| head.seq))
    .bind(report.head.as_ref().map(|head| head.content_sha256.clone()))
    .bind(now)
    .execute(&mut *tx.connection())
    .await?;
    Ok(())
}
