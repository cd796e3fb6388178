//! What gateways deliver: `POST /internal/audit/gateway-events`.
//!
//! A worker of a gateway numbers its events from 1 and keeps them until they are acknowledged. So an event that comes
//! twice is known by its number, and a number that never comes is recorded as a gap.

use crate::chain::ChainKey;
use crate::delivery::{Delivery, DeliveryError, Stream, Told};
use crate::ingest::{BATCH, append_all};
use crate::sealed::Sealed;
use crate::service::Audit;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use caracal_store::audit::AuditEvent;
use caracal_store::http::{BodyError, Refusal, RequestId, read_body};
use caracal_store::internal::{GatewayProof, authenticate};
use caracal_store::{Store, StoreError, WriteTx};
use serde_json::json;
use std::sync::Arc;

/// The largest body, in bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
#[derive(Debug, thiserror::Error)]
enum ReceiveError {
    #[error("the nonce was used before")]
    Replayed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ReceiveError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Takes a delivery and answers `{"acknowledged": n}`: every event up to number n is in evidence, or recorded as
/// missing.
pub(crate) async fn receive(State(audit): State<Audit>, request: Request<Body>) -> Response {
    let request_id = request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    match accept(&audit, request).await {
        Ok(acknowledged) => Json(json!({ "acknowledged": acknowledged })).into_response(),
        Err(refusal) => refusal.of_request(&request_id).into_response(),
    }
}

async fn accept(audit: &Audit, request: Request<Body>) -> Result<i64, Refusal> {
    let (parts, body) = request.into_parts();
    let body = read_body(body, MAX_BODY).await.map_err(|error| match error {
        BodyError::TooLarge => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        _ => Refusal::new(StatusCode::BAD_REQUEST, "invalid_body"),
    })?;
    let path = parts.uri.path_and_query().map_or(parts.uri.path(), |path| path.as_str());
    let now = audit.store.now();
    let proof = authenticate(&audit.gateway_key, &parts.headers, parts.method.as_str(), path, &body, now)
        .map_err(|error| {
            Refusal::new(StatusCode::UNAUTHORIZED, "gateway_unauthorized").because(error.to_string())
        })?;
    let invalid =
        |why: DeliveryError| Refusal::new(StatusCode::BAD_REQUEST, "invalid_body").because(why.to_string());
    let mut delivery = Delivery::read(&body).map_err(invalid)?;
    let stream = delivery.stream();
    let events = delivery.events(&stream, now).map_err(invalid)?;
    let written = write(&audit.store, &audit.chain_key, proof, stream, events).await;
    written.map_err(|error| match error {
        ReceiveError::Replayed => {
            Refusal::new(StatusCode::UNAUTHORIZED, "gateway_unauthorized").because(error.to_string())
        }
        ReceiveError::Store(error) => {
            tracing::error!(%error, "gateway events could not be written");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable")
        }
    })
}

/// Writes a delivery, in as many transactions as it takes. Should one fail, the gateway sends all of it again, and what
/// was written before is known by its numbers.
async fn write(
    store: &Store,
    key: &ChainKey,
    proof: GatewayProof,
    stream: Stream,
    mut events: Vec<Told>,
) -> Result<i64, ReceiveError> {
    let (stream, mut proof) = (Arc::new(stream), Some(proof));
    loop {
        let rest = events.split_off(events.len().min(BATCH));
        let (stream, key, proof) = (Arc::clone(&stream), key.clone(), proof.take());
        let acknowledged: i64 = store
            .write(move |tx| {
                Box::pin(async move {
                    if let Some(proof) = proof
                        && !proof.spend(tx).await?
                    {
                        return Err(ReceiveError::Replayed);
                    }
                    stream.append(tx, key, events).await
                })
            })
            .await?;
        if rest.is_empty() {
            return Ok(acknowledged);
        }
        events = rest;
    }
}

impl Stream {
    /// Puts what is new among these events into the ledger, and what is missing before them. Answers up to which number
    /// all is there.
    async fn append(
        &self,
        tx: &mut WriteTx<'_>,
        key: ChainKey,
        events: Vec<Told>,
    ) -> Result<i64, ReceiveError> {
        let row: Option<(i64, i64)> = sqlx::query_as(
            "SELECT acknowledged, missing FROM evidence_streams \
             WHERE gateway_id = $1 AND worker = $2 AND incarnation = $3",
        )
        .bind(self.gateway.as_str())
        .bind(self.worker.as_str())
        .bind(self.incarnation.as_str())
        .fetch_optional(&mut *tx.connection())
        .await?;
        let (before, mut missing) = row.unwrap_or((0, 0));
        let (mut acknowledged, now) = (before, tx.now());
        let mut new = Vec::with_capacity(events.len());
        for Told { seq, event } in events {
            if seq <= acknowledged {
                continue;
            }
            if seq > acknowledged + 1 {
                missing += seq - acknowledged - 1;
                new.push(Sealed::new(&self.gap(event.zone(), acknowledged + 1, seq - 1, now), now));
            }
            new.push(event);
            acknowledged = seq;
        }
        append_all(tx, key, new).await?;
        if row.is_none() || acknowledged != before {
            sqlx::query(
                "INSERT INTO evidence_streams (gateway_id, worker, incarnation, acknowledged, missing, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (gateway_id, worker, incarnation) DO UPDATE SET \
                 acknowledged = excluded.acknowledged, missing = excluded.missing, updated_at = excluded.updated_at",
            )
            .bind(self.gateway.as_str())
            .bind(self.worker.as_str())
            .bind(self.incarnation.as_str())
            .bind(acknowledged)
            .bind(missing)
            .bind(now)
            .execute(&mut *tx.connection())
            .await?;
        }
        Ok(acknowledged)
    }

    /// Events `from` to `to` never came. They are told of in the zone of the event that came instead.
    fn gap(&self, zone: &str, from: i64, to: i64, now: i64) -> AuditEvent {
        let metadata = json!({
            "gateway_id": self.gateway,
            "gateway_worker": self.worker,
            "gateway_incarnation": self.incarnation,
            "from": from,
            "to": to,
            "missing": to - from + 1,
        });
        let event = AuditEvent::new(zone, "evidence_gap", &caracal_store::ids::new_id(), "deny", now);
        event.with_status("anomaly").with_metadata(metadata)
    }
}
