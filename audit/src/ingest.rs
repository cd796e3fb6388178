//! From the outbox into the ledger: in order, exactly once, in one transaction with the removal from the outbox.

use crate::chain::{ChainKey, Head};
use crate::query::{StoredEvent, content_of};
use caracal_store::audit::AuditEvent;
use caracal_store::{Store, StoreError, WriteTx};
use serde_json::json;
use std::collections::HashMap;

/// How many events one transaction takes, so that other writers need not wait long.
const BATCH: i64 = 128;

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
                let mut heads = Heads::default();
                for (id, json) in waiting {
                    take(tx, &key, &mut heads, &id, &json).await?;
                    sqlx::query("DELETE FROM audit_outbox WHERE id = $1")
                        .bind(id)
                        .execute(&mut *tx.connection())
                        .await?;
                }
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

/// The heads of the chains that a batch extends.
#[derive(Default)]
struct Heads(HashMap<String, Option<Head>>);

impl Heads {
    async fn of(&mut self, tx: &mut WriteTx<'_>, zone: &str) -> Result<Option<Head>, StoreError> {
        if let Some(head) = self.0.get(zone) {
            return Ok(head.clone());
        }
        let row: Option<(i64, String)> = sqlx::query_as(
            "SELECT chain_seq, content_sha256 FROM audit_events WHERE zone_id = $1 ORDER BY chain_seq DESC LIMIT 1",
        )
        .bind(zone)
        .fetch_optional(&mut *tx.connection())
        .await?;
        let head = row.map(|(seq, content_sha256)| Head { seq, content_sha256 });
        self.0.insert(zone.to_owned(), head.clone());
        Ok(head)
    }
}

async fn take(
    tx: &mut WriteTx<'_>,
    key: &ChainKey,
    heads: &mut Heads,
    id: &str,
    json: &str,
) -> Result<(), StoreError> {
    let event: AuditEvent = match serde_json::from_str(json) {
        Ok(event) => event,
        Err(error) => {
            // Evidence is not thrown away because it cannot be read.
            let problem = json!({ "outbox_id": id, "problem": error.to_string(), "text": json });
            let event = failure("unknown", "malformed_event", tx.now()).with_metadata(problem);
            caracal_store::metrics::event_unreadable();
            return append(tx, key, heads, &event).await;
        }
    };
    let known = StoredEvent::find(tx.connection(), &event.id).await?;
    let Some(known) = known else { return append(tx, key, heads, &event).await };
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
    append(tx, key, heads, &event).await
}

fn failure(zone: &str, status: &str, now: i64) -> AuditEvent {
    let event = AuditEvent::new(zone, "audit_ingest_error", &caracal_store::ids::new_id(), "deny", now);
    event.with_status(status)
}

async fn append(
    tx: &mut WriteTx<'_>,
    key: &ChainKey,
    heads: &mut Heads,
    event: &AuditEvent,
) -> Result<(), StoreError> {
    let ingested_at = tx.now();
    let head = heads.of(tx, &event.zone_id).await?;
    let link = key.link(head.as_ref(), &content_of(event, ingested_at));
    let text = |value: &serde_json::Value| crate::canonical::to_text(value);
    sqlx::query(
        "INSERT INTO audit_events (id, zone_id, chain_seq, event_type, request_id, decision, policy_set_version_id, \
         manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, \
         ingested_at, content_sha256, prev_content_sha256, chain_hmac) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
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
    .bind(link.hmac.as_str())
    .execute(&mut *tx.connection())
    .await?;
    let head = Head { seq: link.seq, content_sha256: link.content_sha256 };
    heads.0.insert(event.zone_id.clone(), Some(head));
    caracal_store::metrics::event_taken();
    Ok(())
}
