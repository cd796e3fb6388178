//! The job that tells notification sinks of a zone's approvals (contract admin-audit §5.15).
//!
//! Events are taken from the ledger, in its order, into deliveries; the oldest delivery of each sink is sent until it is
//! answered with 2xx or abandoned, and only then the next. No change waits for a sink. A delivery is claimed before it
//! is sent, so any number of processes send it once; who goes away in between leaves it to the others. It is sent at
//! least once: receivers know a delivery again by its id.

use crate::events::redact;
use crate::sinks::{EventType, place};
use aws_lc_rs::hmac;
use axum::http::{HeaderName, HeaderValue};
use caracal_audit::Ledger;
use caracal_store::egress::{Egress, Hosts, Limits};
use caracal_store::secrets::Vault;
use caracal_store::{Store, StoreError, clock, ids};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;

/// How often deliveries are looked for.
const EVERY: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), max_bytes: 64 * 1024 };
/// How many events of a zone one look takes, and how many sinks are told at once.
const BATCH: i64 = 64;
const MAX_ATTEMPTS: i64 = 8;
/// Whoever claimed a delivery has this long to say what became of it, in milliseconds.
const CLAIM: i64 = 60_000;
/// The first wait after a failure; it doubles up to the last.
const FIRST_WAIT: i64 = 30_000;
const LAST_WAIT: i64 = 900_000;
/// Settled deliveries are kept for seven days.
const KEEP: i64 = 7 * 24 * 60 * 60 * 1000;

/// Tells sinks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    store: Store,
    vault: Vault,
    ledger: Ledger,
    egress: Egress,
    every: Duration,
}

/// A sink that has something to be told of.
struct Behind {
    id: String,
    zone: String,
    types: Vec<EventType>,
    cursor: i64,
}

/// An event of the ledger, for one sink.
struct Told {
    event_id: String,
    event_type: String,
    seq: i64,
    body: String,
}

/// A delivery that is due.
struct Due {
    id: String,
    sink: String,
    zone: String,
    url: String,
    event_type: String,
    body: String,
    attempts: i64,
}

/// What became of an attempt: the status, if there was an answer, and what was wrong.
struct Outcome {
    status: Option<i64>,
    error: Option<String>,
}

impl Notifier {
    /// A notifier on this store; `hmac_key` keys the ledger's chains.
    #[must_use]
    pub fn new(store: Store, vault: Vault, hmac_key: Vec<u8>, egress: Egress) -> Self {
        Self { ledger: Ledger::new(store.clone(), hmac_key), store, vault, egress, every: EVERY }
    }

    /// The notifier that looks this often.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Tells sinks until `stop` resolves.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            // What is cut off here was claimed, and is sent again later.
            tokio::select! {
                () = &mut stop => return,
                passed = self.pass() => if let Err(error) = passed {
                    tracing::error!(%error, "sinks could not be told");
                }
            }
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }

    /// Takes what happened, sends what is due and forgets what is long settled. Answers how many deliveries were
    /// attempted.
    pub async fn pass(&self) -> Result<usize, StoreError> {
        self.ledger.catch_up().await?;
        for sink in self.behind().await? {
            self.take(sink).await?;
        }
        let mut attempted = 0;
        loop {
            let due = self.due().await?;
            if due.is_empty() {
                break;
            }
            let mut attempts = JoinSet::new();
            for due in due {
                let notifier = self.clone();
                attempts.spawn(async move { notifier.attempt(due).await });
            }
            let mut sent = 0;
            for result in attempts.join_all().await {
                sent += usize::from(result?);
            }
            attempted += sent;
            // All of them were claimed by others.
            if sent == 0 {
                break;
            }
        }
        self.forget().await?;
        Ok(attempted)
    }

    /// The active sinks whose zones have newer events than they looked at.
    async fn behind(&self) -> Result<Vec<Behind>, StoreError> {
        let mut connection = self.store.read().await?;
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT s.id, s.zone_id, s.event_types_json, s.cursor_chain_seq FROM notification_sinks s \
             WHERE s.active = 1 AND EXISTS (SELECT 1 FROM audit_events e WHERE e.zone_id = s.zone_id \
             AND e.chain_seq > s.cursor_chain_seq)",
        )
        .fetch_all(&mut *connection)
        .await?;
        let of_row = |(id, zone, types, cursor): (String, String, String, i64)| {
            let types = serde_json::from_str(&types)
                .map_err(|error| StoreError::corrupt(format!("notification_sinks {id}: {error}")))?;
            Ok(Behind { id, zone, types, cursor })
        };
        rows.into_iter().map(of_row).collect()
    }

    /// Makes deliveries of what the sink has not looked at, batch by batch.
    async fn take(&self, sink: Behind) -> Result<(), StoreError> {
        let Behind { id, zone, types, mut cursor } = sink;
        loop {
            let (seen, told) = self.events(&zone, &types, cursor).await?;
            let Some(seen) = seen else { return Ok(()) };
            if !self.keep(&id, cursor, seen, told).await? {
                return Ok(());
            }
            cursor = seen;
        }
    }

    /// The next events of a zone: up to which they go, and those of these types.
    async fn events(
        &self,
        zone: &str,
        types: &[EventType],
        after: i64,
    ) -> Result<(Option<i64>, Vec<Told>), StoreError> {
        type Columns = (String, i64, String, String, Option<String>, i64);
        let mut connection = self.store.read().await?;
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT id, chain_seq, event_type, decision, metadata_json, occurred_at FROM audit_events \
             WHERE zone_id = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT $3",
        )
        .bind(zone)
        .bind(after)
        .bind(BATCH)
        .fetch_all(&mut *connection)
        .await?;
        let seen = rows.last().map(|row| row.1);
        let mut told = Vec::new();
        for (event_id, seq, event_type, decision, metadata, at) in rows {
            let wanted = serde_json::from_value::<EventType>(event_type.as_str().into());
            if !wanted.is_ok_and(|wanted| types.contains(&wanted)) {
                continue;
            }
            let mut data: Value =
                metadata.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
            redact(&mut data);
            let body = json!({
                "id": event_id, "type": event_type, "zone_id": zone, "decision": decision,
                "occurred_at": clock::iso(at), "data": data,
            });
            told.push(Told { event_id, event_type, seq, body: body.to_string() });
        }
        Ok((seen, told))
    }

    /// Moves the sink on together with what it is to be told. `false` where another process did.
    async fn keep(&self, sink: &str, from: i64, to: i64, told: Vec<Told>) -> Result<bool, StoreError> {
        let sink = sink.to_owned();
        let kept = self.store.write(move |tx| {
            Box::pin(async move {
                let moved = sqlx::query(
                    "UPDATE notification_sinks SET cursor_chain_seq = $1 WHERE id = $2 AND cursor_chain_seq = $3",
                )
                .bind(to)
                .bind(sink.as_str())
                .bind(from)
                .execute(&mut *tx.connection())
                .await?;
                if moved.rows_affected() == 0 {
                    return Ok(false);
                }
                let now = tx.now();
                for Told { event_id, event_type, seq, body } in told {
                    sqlx::query(
                        "INSERT INTO notification_deliveries (id, sink_id, event_id, event_type, chain_seq, body, \
                         available_at, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
                    )
                    .bind(ids::new_id())
                    .bind(sink.as_str())
                    .bind(event_id)
                    .bind(event_type)
                    .bind(seq)
                    .bind(body)
                    .bind(now)
                    .execute(&mut *tx.connection())
                    .await?;
                }
                Ok::<_, StoreError>(true)
            })
        });
        kept.await
    }

    /// The oldest delivery of each active sink, where it is due.
    async fn due(&self) -> Result<Vec<Due>, StoreError> {
        type Columns = (String, String, String, String, String, String, i64);
        let mut connection = self.store.read().await?;
        let rows: Vec<Columns> = sqlx::query_as(
            "SELECT d.id, d.sink_id, s.zone_id, s.url, d.event_type, d.body, d.attempts FROM notification_deliveries d \
             JOIN notification_sinks s ON s.id = d.sink_id WHERE s.active = 1 AND d.delivered_at IS NULL \
             AND d.abandoned_at IS NULL AND d.available_at <= $1 AND d.chain_seq = (SELECT MIN(o.chain_seq) \
             FROM notification_deliveries o WHERE o.sink_id = d.sink_id AND o.delivered_at IS NULL \
             AND o.abandoned_at IS NULL) ORDER BY d.available_at, d.id LIMIT $2",
        )
        .bind(self.store.now())
        .bind(BATCH)
        .fetch_all(&mut *connection)
        .await?;
        let due = |(id, sink, zone, url, event_type, body, attempts): Columns| Due {
            id,
            sink,
            zone,
            url,
            event_type,
            body,
            attempts,
        };
        Ok(rows.into_iter().map(due).collect())
    }

    /// Claims a delivery, sends it and says what became of it. `false` where another process has it.
    async fn attempt(&self, due: Due) -> Result<bool, StoreError> {
        if !self.claim(&due).await? {
            return Ok(false);
        }
        let outcome = self.send(&due).await?;
        self.settle(due, outcome).await?;
        Ok(true)
    }

    async fn claim(&self, due: &Due) -> Result<bool, StoreError> {
        let (id, attempts) = (due.id.clone(), due.attempts);
        let claimed = self.store.write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                let claimed = sqlx::query(
                    "UPDATE notification_deliveries SET attempts = attempts + 1, available_at = $1 WHERE id = $2 \
                     AND attempts = $3 AND available_at <= $4 AND delivered_at IS NULL AND abandoned_at IS NULL",
                )
                .bind(now + CLAIM)
                .bind(id)
                .bind(attempts)
                .bind(now)
                .execute(&mut *tx.connection())
                .await?;
                Ok::<_, StoreError>(claimed.rows_affected() == 1)
            })
        });
        claimed.await
    }

    async fn send(&self, due: &Due) -> Result<Outcome, StoreError> {
        let place = place(&due.zone, &due.sink);
        let envelope: Option<String> = sqlx::query_scalar("SELECT envelope FROM secret_store WHERE ref = $1")
            .bind(place.as_str())
            .fetch_optional(&mut *self.store.read().await?)
            .await?;
        let secret = envelope.map(|envelope| self.vault.open(&envelope, &place));
        let Some(Ok(secret)) = secret else {
            return Ok(Outcome { status: None, error: Some("the secret cannot be opened".to_owned()) });
        };
        let headers = signed(due, &secret, self.store.now() / 1000)?;
        // Which hosts may be called the addresses decide: the URL is an operator's own.
        let sent = self.egress.post_json(&due.url, Hosts::Any, &headers, &due.body, LIMITS).await;
        Ok(match sent {
            Ok(reply) if (200..300).contains(&reply.status) => {
                Outcome { status: Some(i64::from(reply.status)), error: None }
            }
            Ok(reply) => Outcome {
                status: Some(i64::from(reply.status)),
                error: Some(format!("answered {}", reply.status)),
            },
            Err(error) => Outcome { status: None, error: Some(error.reason().to_owned()) },
        })
    }

    async fn settle(&self, due: Due, outcome: Outcome) -> Result<(), StoreError> {
        let attempts = due.attempts + 1;
        let wait = wait(attempts, u64::from_le_bytes(ids::random_bytes::<8>()?));
        let settled = self.store.write(move |tx| {
            Box::pin(async move {
                let now = tx.now();
                let delivered = outcome.error.is_none();
                let abandoned = !delivered && attempts >= MAX_ATTEMPTS;
                sqlx::query(
                    "UPDATE notification_deliveries SET delivered_at = $1, abandoned_at = $2, available_at = $3, \
                     response_status = $4, last_error = $5 WHERE id = $6",
                )
                .bind(delivered.then_some(now))
                .bind(abandoned.then_some(now))
                .bind(now + if delivered || abandoned { 0 } else { wait })
                .bind(outcome.status)
                .bind(outcome.error.clone())
                .bind(due.id)
                .execute(&mut *tx.connection())
                .await?;
                sqlx::query(
                    "UPDATE notification_sinks SET consecutive_failures = CASE WHEN $1 = 1 THEN 0 ELSE \
                     consecutive_failures + 1 END, last_success_at = COALESCE($2, last_success_at), \
                     last_failure_at = COALESCE($3, last_failure_at), last_error = $4 WHERE id = $5",
                )
                .bind(i64::from(delivered))
                .bind(delivered.then_some(now))
                .bind((!delivered).then_some(now))
                .bind(outcome.error)
                .bind(due.sink)
                .execute(&mut *tx.connection())
                .await?;
                Ok::<_, StoreError>(())
            })
        });
        settled.await
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let before = self.store.now() - KEEP;
        let mut connection = self.store.read().await?;
        let any: Option<String> = sqlx::query_scalar(
            "SELECT id FROM notification_deliveries WHERE created_at < $1 \
             AND COALESCE(delivered_at, abandoned_at) < $1 LIMIT 1",
        )
        .bind(before)
        .fetch_optional(&mut *connection)
        .await?;
        drop(connection);
        if any.is_none() {
            return Ok(());
        }
        let forgotten = self.store.write(move |tx| {
            Box::pin(async move {
                sqlx::query(
                    "DELETE FROM notification_deliveries WHERE id IN (SELECT id FROM notification_deliveries \
                     WHERE created_at < $1 AND COALESCE(delivered_at, abandoned_at) < $1 LIMIT 500)",
                )
                .bind(before)
                .execute(&mut *tx.connection())
                .await?;
                Ok::<_, StoreError>(())
            })
        });
        forgotten.await
    }
}

/// How long to wait after so many attempts, in milliseconds: twice as long each time, and up to 30 % more by chance.
fn wait(attempts: i64, chance: u64) -> i64 {
    let doublings = u32::try_from(attempts - 1).unwrap_or(0).min(16);
    let base = FIRST_WAIT.saturating_mul(1_i64 << doublings).min(LAST_WAIT);
    let percent = i64::try_from(chance % 31).unwrap_or(0);
    base + base * percent / 100
}

/// The headers of a delivery: what it is, and the proof that it comes from here.
fn signed(due: &Due, secret: &[u8], timestamp: i64) -> Result<Vec<(HeaderName, HeaderValue)>, StoreError> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, format!("{timestamp}.{}", due.body).as_bytes());
    let mut signature = "v1=".to_owned();
    for byte in tag.as_ref() {
        let _ = write!(signature, "{byte:02x}");
    }
    let header = |(name, value): (&'static str, String)| {
        let value = HeaderValue::from_str(&value)
            .map_err(|_| StoreError::corrupt(format!("a delivery's {name} is no header")))?;
        Ok((HeaderName::from_static(name), value))
    };
    [
        ("x-caracal-event", due.event_type.clone()),
        ("x-caracal-delivery", due.id.clone()),
        ("x-caracal-sink", due.sink.clone()),
        ("x-caracal-timestamp", timestamp.to_string()),
        ("x-caracal-signature", signature),
    ]
    .into_iter()
    .map(header)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_admin_5_15_waits_double_up_to_a_quarter_of_an_hour() {
        for (attempts, base) in
            [(1, 30_000), (2, 60_000), (3, 120_000), (5, 480_000), (6, 900_000), (8, 900_000)]
        {
            assert_eq!(wait(attempts, 0), base, "{attempts}");
            assert_eq!(wait(attempts, 30), base * 13 / 10, "{attempts}");
        }
    }
}
