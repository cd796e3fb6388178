//! Into the ledger: from the outbox in order, exactly once, in one transaction with the removal from it; and at once
//! what Audit itself is told.

use crate::chain::{ChainKey, Head, Link};
use crate::query::StoredEvent;
use crate::sealed::Sealed;
use caracal_store::audit::AuditEvent;
use caracal_store::many::{Bound, list, pieces};
use caracal_store::{Store, StoreError, WriteTx};
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// How many events one transaction takes: other writers wait for as long as that takes.
pub(crate) const BATCH: usize = 64;

/// Takes one batch. Answers whether more may wait; if not, nothing waited that was written before the call.
///
/// What waits is read and made ready beside the writer, whose time everyone shares. The transaction takes what still
/// waits then, so an event is taken once, whoever else takes events.
async fn take_batch(store: &Store, key: &ChainKey) -> Result<bool, StoreError> {
    let waiting: Vec<(i64, String, String)> = {
        let mut connection = store.read().await?;
        sqlx::query_as("SELECT place, id, event_json FROM audit_outbox ORDER BY place LIMIT $1")
            .bind(i64::try_from(BATCH).unwrap_or(i64::MAX))
            .fetch_all(&mut *connection)
            .await?
    };
    if waiting.is_empty() {
        return Ok(false);
    }
    let full = waiting.len() >= BATCH;
    let now = store.now();
    let ready: Vec<Ready> =
        waiting.into_iter().map(|(place, id, json)| Ready::new(place, id, json, now)).collect();
    let key = key.clone();
    store
        .write(move |tx| {
            Box::pin(async move {
                let ours = remove(tx, ready).await?;
                let ids: Vec<&str> = ours.iter().map(|ready| ready.id.as_str()).collect();
                let known = known(tx, &ids).await?;
                let mut batch = Batch::new(key, known);
                for ready in ours {
                    batch.take(tx, ready).await?;
                }
                batch.write(tx).await
            })
        })
        .await?;
    Ok(full)
}

/// Takes batches until the outbox is empty. Every event that was written before the call is in the ledger then.
pub(crate) async fn catch_up(store: &Store, key: &ChainKey) -> Result<(), StoreError> {
    while take_batch(store, key).await? {}
    Ok(())
}

/// Puts events that are new, and under ids of our own making, at the end of their chains.
pub(crate) async fn append_all(
    tx: &mut WriteTx<'_>,
    key: ChainKey,
    events: Vec<Sealed>,
) -> Result<(), StoreError> {
    let mut batch = Batch::new(key, HashSet::new());
    for event in events {
        batch.append(tx, event).await?;
    }
    batch.write(tx).await
}

/// A waiting event, made ready for its place in a chain.
struct Ready {
    /// Where it stands in the outbox.
    place: i64,
    /// The id of its row there.
    id: String,
    event: Result<(AuditEvent, Sealed), Unreadable>,
}

struct Unreadable {
    text: String,
    problem: String,
}

impl Ready {
    fn new(place: i64, id: String, json: String, now: i64) -> Self {
        let event = match serde_json::from_str(&json) {
            Ok(event) => {
                let sealed = Sealed::new(&event, now);
                Ok((event, sealed))
            }
            Err(error) => Err(Unreadable { text: json, problem: error.to_string() }),
        };
        Self { place, id, event }
    }
}

/// Which of the waiting events the ledger has already.
async fn known(tx: &mut WriteTx<'_>, ids: &[&str]) -> Result<HashSet<String>, StoreError> {
    let mut known = HashSet::new();
    for piece in pieces(ids) {
        let sql = format!("SELECT id FROM audit_events WHERE id IN {}", list(piece.len(), 0));
        let mut query = sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql));
        for id in piece {
            query = query.bind(*id);
        }
        known.extend(query.fetch_all(&mut *tx.connection()).await?);
    }
    Ok(known)
}

/// Takes events out of the outbox. Answers those that were still there: a place may have been left meanwhile, and taken by
/// another event since.
async fn remove(tx: &mut WriteTx<'_>, ready: Vec<Ready>) -> Result<Vec<Ready>, StoreError> {
    let places: Vec<i64> = ready.iter().map(|ready| ready.place).collect();
    let mut there = HashSet::with_capacity(places.len());
    for piece in pieces(&places) {
        let sql = format!("SELECT place, id FROM audit_outbox WHERE place IN {}", list(piece.len(), 0));
        let mut query = sqlx::query_as::<_, (i64, String)>(sqlx::AssertSqlSafe(sql));
        for place in piece {
            query = query.bind(*place);
        }
        there.extend(query.fetch_all(&mut *tx.connection()).await?);
    }
    let mut ours = ready;
    ours.retain(|ready| there.remove(&(ready.place, ready.id.clone())));
    let mut gone = HashSet::with_capacity(ours.len());
    for piece in pieces(&ours) {
        let sql = format!("DELETE FROM audit_outbox WHERE place IN {} RETURNING place", list(piece.len(), 0));
        let mut query = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql));
        for ready in piece {
            query = query.bind(ready.place);
        }
        gone.extend(query.fetch_all(&mut *tx.connection()).await?);
    }
    ours.retain(|ready| gone.contains(&ready.place));
    Ok(ours)
}

/// What one transaction adds to the ledger.
struct Batch {
    key: ChainKey,
    /// The waiting events that the ledger has already, or gets from this batch.
    known: HashSet<String>,
    /// The heads of the chains, as this batch extends them.
    heads: HashMap<String, Option<Head>>,
    /// Linked, and still to be written.
    rows: Vec<(Sealed, Link)>,
}

impl Batch {
    fn new(key: ChainKey, known: HashSet<String>) -> Self {
        Self { key, known, heads: HashMap::new(), rows: Vec::new() }
    }

    async fn take(&mut self, tx: &mut WriteTx<'_>, ready: Ready) -> Result<(), StoreError> {
        let Ready { id, event, .. } = ready;
        let (event, sealed) = match event {
            Ok(event) => event,
            Err(Unreadable { text, problem }) => {
                caracal_store::metrics::event_unreadable();
                // Evidence is not thrown away because it cannot be read.
                let problem = json!({ "outbox_id": id, "problem": problem, "text": text });
                let event = failure("unknown", "malformed_event", tx.now()).with_metadata(problem);
                return self.append_new(tx, event).await;
            }
        };
        // An event whose id is not that of its row may be there under its own, also from this very batch.
        if event.id == id && self.known.insert(id) {
            return self.append(tx, sealed).await;
        }
        self.write(tx).await?;
        let known = StoredEvent::find(tx.connection(), &event.id).await?;
        let Some(known) = known else { return self.append(tx, sealed).await };
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
        self.append_new(tx, event).await
    }

    async fn append_new(&mut self, tx: &mut WriteTx<'_>, event: AuditEvent) -> Result<(), StoreError> {
        let now = tx.now();
        self.append(tx, Sealed::new(&event, now)).await
    }

    /// Links an event to its chain.
    async fn append(&mut self, tx: &mut WriteTx<'_>, sealed: Sealed) -> Result<(), StoreError> {
        let zone = sealed.zone();
        let head = match self.heads.get_mut(zone) {
            Some(head) => head,
            None => {
                let head = head_of(tx, zone).await?;
                self.heads.entry(zone.to_owned()).or_insert(head)
            }
        };
        let link = self.key.link_text(head.as_ref(), sealed.content());
        *head = Some(Head { seq: link.seq, content_sha256: link.content_sha256.clone() });
        self.rows.push((sealed, link));
        Ok(())
    }

    /// Writes the rows that were linked.
    async fn write(&mut self, tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
        let linked = std::mem::take(&mut self.rows);
        let rows: Vec<_> = linked.iter().map(|(sealed, link)| row(sealed, link)).collect();
        tx.connection().insert_rows(INSERT, &rows).await?;
        caracal_store::metrics::events_taken(rows.len());
        Ok(())
    }
}

const INSERT: &str = "INSERT INTO audit_events (id, zone_id, event_type, request_id, decision, policy_set_version_id, \
     manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, metadata_json, occurred_at, \
     ingested_at, chain_seq, content_sha256, prev_content_sha256, chain_hmac)";

/// The values of [`INSERT`].
fn row<'a>(sealed: &'a Sealed, link: &'a Link) -> [Bound<'a>; 17] {
    let [
        id,
        zone,
        kind,
        request,
        decision,
        version,
        manifest,
        status,
        policies,
        diagnostics,
        metadata,
        at,
        taken,
    ] = sealed.row();
    let (seq, prev) = (Bound::Number(link.seq), link.prev.as_deref().into());
    let (hash, hmac) = (Bound::Text(&link.content_sha256), Bound::Text(&link.hmac));
    [
        id,
        zone,
        kind,
        request,
        decision,
        version,
        manifest,
        status,
        policies,
        diagnostics,
        metadata,
        at,
        taken,
        seq,
        hash,
        prev,
        hmac,
    ]
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
