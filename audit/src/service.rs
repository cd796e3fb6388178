//! The service: takes events in, and answers gateways and those who ask for its health (contract admin-audit §11.10).

use crate::chain::ChainKey;
use crate::ingest;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_store::Store;
use caracal_store::http::{Refusal, identify_requests};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long to wait for a notice before looking anyway: other processes write too, and a failure is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long events gather once the first is there, so that many are taken in one transaction.
const GATHER: Duration = Duration::from_millis(10);

/// The audit service. Cheap to clone; [`Audit::run`] has to run for the ledger to grow.
#[derive(Debug, Clone)]
pub struct Audit {
    pub(crate) store: Store,
    pub(crate) gateway_key: GatewayKey,
    chain_key: ChainKey,
    ingesting: Arc<AtomicBool>,
}

impl Audit {
    /// A service on this store. `hmac_key` keys the chains, `gateway_key` is what gateways sign with.
    #[must_use]
    pub fn new(store: Store, hmac_key: Vec<u8>, gateway_key: GatewayKey) -> Self {
        let chain_key = ChainKey::new(hmac_key);
        Self { store, gateway_key, chain_key, ingesting: Arc::default() }
    }

    /// The HTTP face: `/health`, `/ready`, and what gateways deliver.
    pub fn router(&self) -> Router {
        let (router, _) = crate::api::routes().into_parts();
        router
            .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "not_found") })
            .layer(middleware::from_fn(identify_requests))
            .with_state(self.clone())
    }

    /// Takes events into the ledger until `stop` resolves; then takes what is still waiting.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut written = self.store.audit_written();
        let mut stop = std::pin::pin!(stop);
        loop {
            written.mark_unchanged();
            self.take_all().await;
            tokio::select! {
                () = &mut stop => break,
                // The sender lives as long as the store; were it gone, the timer still looks.
                Ok(()) = written.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        self.take_all().await;
        self.ingesting.store(false, Ordering::Relaxed);
    }

    async fn take_all(&self) {
        let result = ingest::catch_up(&self.store, &self.chain_key).await;
        if let Err(error) = &result {
            caracal_store::metrics::events_not_taken();
            tracing::error!(%error, "events could not be taken into the ledger");
        }
        self.ingesting.store(result.is_ok(), Ordering::Relaxed);
    }
}

pub(crate) async fn health(State(audit): State<Audit>) -> Response {
    if audit.ingesting.load(Ordering::Relaxed) {
        return Json(json!({ "ok": true })).into_response();
    }
    let body = json!({ "ok": false, "ready": false, "reason": "consumer_unhealthy" });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

pub(crate) async fn ready(State(audit): State<Audit>) -> Response {
    let reason = if audit.store.ping().await.is_err() {
        Some("database_unreachable")
    } else if !audit.ingesting.load(Ordering::Relaxed) {
        Some("consumer_unhealthy")
    } else {
        None
    };
    match reason {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => {
            let body = json!({ "ready": false, "reason": reason });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
