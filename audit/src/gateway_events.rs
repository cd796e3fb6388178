//! What gateways deliver: `POST /internal/audit/gateway-events`.
//!
//! A worker of a gateway numbers its events from 1 and keeps them until they are acknowledged. So an event that comes
//! twice is known by its number, and a number that never comes is recorded as a gap.

use crate::chain::ChainKey;
use crate::ingest::{BATCH, Sealed, append_all};
use crate::service::Audit;
use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::delivery::{self, Columns};
use caracal_mandate::id::{GatewayId, ZoneId};
use caracal_store::audit::AuditEvent;
use caracal_store::http::{BodyError, Refusal, RequestId, read_body};
use caracal_store::internal::{GatewayProof, authenticate};
use caracal_store::{Store, StoreError, WriteTx};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The largest body, in bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The most events in one call.
const MAX_EVENTS: usize = 1_000;
/// The most bytes of JSON that one shared object may have.
const MAX_SHARED: usize = 16 * 1024;
/// The longest name of a worker, an incarnation, a type, a status, a reason or a request, in bytes.
const MAX_NAME: usize = 128;

/// One delivery.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delivery {
    gateway: GatewayId,
    worker: Name,
    incarnation: Incarnation,
    /// What events have in common, so that it is said once ([`delivery`]).
    #[serde(default)]
    shared: Vec<Map<String, Value>>,
    /// What the places of the rows mean.
    #[serde(default)]
    columns: Vec<String>,
    /// Events as rows, after those that are objects.
    #[serde(default)]
    rows: Vec<Vec<Value>>,
    #[serde(default)]
    events: Vec<Map<String, Value>>,
}

/// Which start of the worker it was: a number or a name.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Incarnation {
    Name(Name),
    Number(u64),
}

/// One event of a gateway.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayEvent {
    /// Its number, from 1.
    seq: u64,
    /// Unix milliseconds.
    #[serde(alias = "time")]
    occurred_at: u64,
    /// The zone, as far as it is known for certain.
    #[serde(alias = "zone")]
    zone_id: Option<ZoneId>,
    request_id: Name,
    event_type: Name,
    decision: GatewayDecision,
    #[serde(default)]
    evaluation_status: Option<Name>,
    #[serde(default)]
    reason: Option<Name>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum GatewayDecision {
    Allow,
    Deny,
}

/// A short text without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(format!("a name has 1 to {MAX_NAME} bytes and no control characters"))
        }
    }
}

impl Delivery {
    /// The events, each with all its members. What is shared must not make more of a small call than a call may hold.
    fn whole_events(&mut self) -> Result<Vec<GatewayEvent>, String> {
        if self.events.len().saturating_add(self.rows.len()) > MAX_EVENTS {
            return Err(format!("events and rows: at most {MAX_EVENTS} in one call"));
        }
        for (index, shared) in self.shared.iter().enumerate() {
            let size = serde_json::to_vec(shared).map_or(usize::MAX, |json| json.len());
            if size > MAX_SHARED {
                return Err(format!("shared[{index}]: at most {MAX_SHARED} bytes"));
            }
        }
        let decisions = match &self.incarnation {
            Incarnation::Name(_) => None,
            Incarnation::Number(number) => Some(delivery::decision_prefix(&self.worker.0, *number)),
        };
        let columns = Columns::read(&self.columns, decisions);
        let columns = columns.ok_or("columns: one stands twice or has no meaning")?;
        let mut events = std::mem::take(&mut self.events);
        for (index, row) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            let event = columns.event(row);
            events.push(event.ok_or_else(|| format!("rows[{index}]: does not fit the columns"))?);
        }
        let whole = |(index, event)| {
            let event = delivery::whole(&self.shared, event);
            let event = event.ok_or_else(|| format!("events[{index}].as: not one of what is shared"))?;
            GatewayEvent::deserialize(Value::Object(event))
                .map_err(|error| format!("events[{index}]: {error}"))
        };
        let events = events.into_iter().enumerate().map(whole).collect::<Result<Vec<_>, _>>()?;
        Self::check(&events)?;
        Ok(events)
    }

    /// Numbers have to rise, else nothing could be said about what is missing.
    fn check(events: &[GatewayEvent]) -> Result<(), String> {
        let mut last = 0;
        for (index, event) in events.iter().enumerate() {
            if event.seq <= last {
                return Err(format!("events[{index}].seq: {} does not follow {last}", event.seq));
            }
            last = event.seq;
            if i64::try_from(event.seq).is_err() || i64::try_from(event.occurred_at).is_err() {
                return Err(format!("events[{index}]: a number is out of range"));
            }
        }
        Ok(())
    }
}

/// Which worker's events, as the database names it.
#[derive(Debug, Clone)]
struct Stream {
    gateway: String,
    worker: String,
    incarnation: String,
}

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
    let invalid = |why: String| Refusal::new(StatusCode::BAD_REQUEST, "invalid_body").because(why);
    // A member that stands twice could be read in two ways.
    let body = caracal_mandate::json::parse(&body).map_err(|error| invalid(error.to_string()))?;
    let mut delivery = Delivery::deserialize(body).map_err(|error| invalid(error.to_string()))?;
    let events = delivery.whole_events().map_err(invalid)?;
    let stream = Stream::of(delivery);
    let events = Told::all(events, &stream, now);
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

/// An event and its number, ready for the ledger.
struct Told {
    seq: i64,
    event: Sealed,
}

impl Told {
    fn all(events: Vec<GatewayEvent>, stream: &Stream, now: i64) -> Vec<Self> {
        let told = |event: GatewayEvent| {
            let seq = i64::try_from(event.seq).unwrap_or(i64::MAX);
            Self { seq, event: Sealed::new(event.into_audit_event(stream), now) }
        };
        events.into_iter().map(told).collect()
    }
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
    fn of(delivery: Delivery) -> Self {
        Self {
            gateway: delivery.gateway.to_string(),
            worker: delivery.worker.0,
            incarnation: match delivery.incarnation {
                Incarnation::Name(name) => name.0,
                Incarnation::Number(number) => number.to_string(),
            },
        }
    }

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
                new.push(Sealed::new(self.gap(event.zone(), acknowledged + 1, seq - 1, now), now));
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

impl GatewayEvent {
    fn into_audit_event(self, stream: &Stream) -> AuditEvent {
        let zone = self.zone_id.as_ref().map_or("unknown", ZoneId::as_str);
        let decision = match self.decision {
            GatewayDecision::Allow => "allow",
            GatewayDecision::Deny => "deny",
        };
        let occurred_at = i64::try_from(self.occurred_at).unwrap_or(i64::MAX);
        let mut event = AuditEvent::new(zone, &self.event_type.0, &self.request_id.0, decision, occurred_at);
        if let Some(status) = self.evaluation_status {
            event.evaluation_status = status.0;
        }
        let mut metadata = self.metadata;
        if let Some(Name(reason)) = self.reason {
            event.diagnostics_json = json!([{ "reason": reason }]);
            metadata.insert("reason".to_owned(), Value::from(reason));
        }
        metadata.insert("gateway_id".to_owned(), Value::from(stream.gateway.as_str()));
        metadata.insert("gateway_worker".to_owned(), Value::from(stream.worker.as_str()));
        metadata.insert("gateway_incarnation".to_owned(), Value::from(stream.incarnation.as_str()));
        metadata.insert("gateway_seq".to_owned(), Value::from(self.seq));
        event.with_metadata(Value::Object(metadata))
    }
}
