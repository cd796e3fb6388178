//! From the outbox into the ledger: in order, exactly once, in one transaction with the removal from the outbox.

use crate::chain::{ChainKey, Head, Link};
use crate::query::{StoredEvent, content_of};
use caracal_store::audit::AuditEvent;
use caracal_store::many::{list, pieces, placeholders};
use caracal_store::{Store, StoreError, WriteTx};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// How many events one transaction takes, so that other writers need not wait long.
const BATCH: i64 = 256;

/// Takes one batch. Answers whether more may wait; if not, the outbox was empty at the end of the transaction.
async fn take_batch(store: &Store, key: &ChainKey) -> Result<bool, StoreError> {
    let key = key.clone();
    store
        .write(move |tx| {
            Box::pin(async move {
                let waiting: Vec<(String, String)> = sqlx::query_as(
                    "SELECT id, event_json FROM audit_outbox ORDER BY created_at, id LIMIT $1",
                )
                .bind(BATCH)
                .fetch_all(&mut *tx.connection())
                .await?;
                let full = i64::try_from(waiting.len()).is_ok_and(|count| count >= BATCH);
                let known = known(tx, &waiting).await?;
                let mut batch = Batch { key, known, heads: HashMap::new(), rows: Vec::new() };
                for (id, json) in &waiting {
                    batch.take(tx, id, json).await?;
                }
                batch.write(tx).await?;
                forget(tx, &waiting).await?;
                Ok::<_, StoreError>(full)
            })
        })
        .await
}

/// Takes batches until the outbox is empty. Every event that was written before the call is in the ledger then.
pub(crate) async fn catch_up(store: &Store, key: &ChainKey) -> Result<(), StoreError> {
    let mut connection = store.read().await?;
    let waiting: Option<String> =
        sqlx::query_scalar("SELECT id FROM audit_outbox LIMIT 1").fetch_optional(&mut *connection).await?;
    drop(connection);
    if waiting.is_some() {
        while take_batch(store, key).await? {}
    }
    Ok(())
}

/// Which of the waiting events the ledger has already.
async fn known(tx: &mut WriteTx<'_>, waiting: &[(String, String)]) -> Result<HashSet<String>, StoreError> {
    let mut known = HashSet::new();
    for piece in pieces(waiting) {
        let sql = format!("SELECT id FROM audit_events WHERE id IN {}", list(piece.len(), 0));
        let mut query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
        for (id, _) in piece {
            query = query.bind(id.as_str());
        }
        known.extend(query.fetch_all(&mut *tx.connection()).await?);
    }
    Ok(known)
}

async fn forget(tx: &mut WriteTx<'_>, taken: &[(String, String)]) -> Result<(), StoreError> {
    for piece in pieces(taken) {
        let sql = format!("DELETE FROM audit_outbox WHERE id IN {}", list(piece.len(), 0));
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for (id, _) in piece {
            query = query.bind(id.as_str());
        }
        query.execute(&mut *tx.connection()).await?;
    }
    Ok(())
}

/// What one transaction adds to the ledger.
struct Batch {
    key: ChainKey,
    /// The waiting events that the ledger has already.
    known: HashSet<String>,
    /// The heads of the chains, as this batch extends them.
    heads: HashMap<String, Option<Head>>,
    /// Linked, and still to be written.
    rows: Vec<(AuditEvent, Link)>,
}

impl Batch {
    async fn take(&mut self, tx: &mut WriteTx<'_>, id: &str, json: &str) -> Result<(), StoreError> {
        let event: AuditEvent = match serde_json::from_str(json) {
            Ok(event) => event,
            Err(error) => {
                // Evidence is not thrown away because it cannot be read.
                let problem = json!({ "outbox_id": id, "problem": error.to_string(), "text": json });
                let event = failure("unknown", "malformed_event", tx.now()).with_metadata(problem);
                return self.append(tx, event).await;
            }
        };
        // An event whose id is not that of its row may be there under its own, also from this very batch.
        if event.id == id && !self.known.contains(id) {
            return self.append(tx, event).await;
        }
        self.write(tx).await?;
        let known = StoredEvent::find(tx.connection(), &event.id).await?;
        let Some(known) = known else { return self.append(tx, event).await };
        if known.has_content(&event) {
            return Ok(());
        }
        tracing::error!(event = %event.id, zone = %known.event.zone_id, "an event came again with another content");
        let problem = json!({
            "event_id": event.id,
            "stored_sha256": known.link.content_sha256,
            "incoming": serde_json::to_value(&event).unwrap_or_default(),
        });
        let event = failure(&known.event.zone_id, "content_mismatch", tx.now()).with_metadata(problem);
        self.append(tx, event).await
    }

    /// Links an event to its chain.
    async fn append(&mut self, tx: &mut WriteTx<'_>, event: AuditEvent) -> Result<(), StoreError> {
        let head = match self.heads.remove(&event.zone_id) {
            Some(head) => head,
            None => head_of(tx, &event.zone_id).await?,
        };
        let link = self.key.link(head.as_ref(), &content_of(&event, tx.now()));
        let head = Head { seq: link.seq, content_sha256: link.content_sha256.clone() };
        self.heads.insert(event.zone_id.clone(), Some(head));
        self.rows.push((event, link));
        Ok(())
    }

    /// Writes the rows that were linked.
    async fn write(&mut self, tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
        let ingested_at = tx.now();
        let rows = std::mem::take(&mut self.rows);
        let text = |value: &serde_json::Value| crate::canonical::to_text(value);
        for piece in pieces(&rows) {
            let sql = format!(
                "INSERT INTO audit_events (id, zone_id, chain_seq, event_type, request_id, decision, \
                 policy_set_version_id, manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, \
                 metadata_json, occurred_at, ingested_at, content_sha256, prev_content_sha256, chain_hmac) VALUES {}",
                placeholders(piece.len(), 17)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (event, link) in piece {
                query = query
                    .bind(event.id.as_str())
                    .bind(event.zone_id.as_str())
                    .bind(link.seq)
                    .bind(event.event_type.as_str())
                    .bind(event.request_id.as_str())
                    .bind(event.decision.as_str())
                    .bind(event.policy_set_version_id.as_deref())
                    .bind(event.manifest_sha.as_deref())
                    .bind(event.evaluation_status.as_str())
                    .bind(text(&event.determining_policies_json))
                    .bind(text(&event.diagnostics_json))
                    .bind(event.metadata_json.as_ref().map(text))
                    .bind(event.occurred_at)
                    .bind(ingested_at)
                    .bind(link.content_sha256.as_str())
                    .bind(link.prev.as_deref())
                    .bind(link.hmac.as_str());
            }
            query.execute(&mut *tx.connection()).await?;
        }
        Ok(())
    }
}

/// The last row of a zone's chain, as it is written.
async fn head_of(tx: &mut WriteTx<'_>, zone: &str) -> Result<Option<Head>, StoreError> {
    let row: Option<(i64, String)> = sqlx::query_as(
        "SELECT chain_seq, content_sha256 FROM audit_events WHERE zone_id = $1 ORDER BY chain_seq DESC LIMIT 1",
    )
    .bind(zone)
    .fetch_optional(&mut *tx.connection())
    .await?;
    Ok(row.map(|(seq, content_sha256)| Head { seq, content_sha256 }))
}

fn failure(zone: &str, status: &str, now: i64) -> AuditEvent {
    let event = AuditEvent::new(zone, "audit_ingest_error", &caracal_store::ids::new_id(), "deny", now);
    event.with_status(status)
}
