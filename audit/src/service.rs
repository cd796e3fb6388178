//! The service: takes events in, and answers gateways and those who ask for its health (contract admin-audit §11.10).

use crate::chain::ChainKey;
use crate::ingest;
use crate::integrity::{self, Checker};
use crate::retention::Pruner;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse as _, Response};
use caracal_mandate::gateway_signature::GatewayKey;
use caracal_store::http::{Refusal, identify_requests};
use caracal_store::{Store, StoreError};
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long to wait for a notice before looking anyway: other processes write too, and a failure is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long events gather once the first is there, so that many are taken in one transaction.
const GATHER: Duration = Duration::from_millis(50);

/// How often every chain is checked and what is too old is pruned.
const TEND: Duration = Duration::from_secs(60 * 60);

/// For how many days events are kept where nobody says less.
const RETENTION_DAYS: i64 = 365;

/// The audit service. Cheap to clone; [`Audit::run`] has to run for the ledger to grow.
#[derive(Debug, Clone)]
pub struct Audit {
    pub(crate) store: Store,
    pub(crate) gateway_key: GatewayKey,
    pub(crate) chain_key: ChainKey,
    checker: Checker,
    retention_days: i64,
    ingesting: Arc<AtomicBool>,
}

impl Audit {
    /// A service on this store. `hmac_key` keys the chains, `gateway_key` is what gateways sign with.
    #[must_use]
    pub fn new(store: Store, hmac_key: Vec<u8>, gateway_key: GatewayKey) -> Self {
        let chain_key = ChainKey::new(hmac_key);
        let checker = Checker::new(store.clone(), chain_key.clone());
        let (retention_days, ingesting) = (RETENTION_DAYS, Arc::default());
        Self { store, gateway_key, chain_key, checker, retention_days, ingesting }
    }

    /// The service where events are kept for at most so many days (`AUDIT_RETENTION_DAYS`); operators can lower it.
    #[must_use]
    pub fn with_retention_days(mut self, days: i64) -> Self {
        self.retention_days = days;
        self
    }

    /// The HTTP face: `/health`, `/ready`, and what gateways deliver.
    pub fn router(&self) -> Router {
        let (router, _) = crate::api::routes().into_parts();
        router
            .fallback(|| async { Refusal::new(StatusCode::NOT_FOUND, "not_found") })
            .layer(middleware::from_fn(identify_requests))
            .with_state(self.clone())
    }

    /// Takes events into the ledger until `stop` resolves; then takes what is still waiting. Meanwhile every chain is
    /// checked once an hour, and what is older than it is kept is pruned.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let audit = self.clone();
        let tending = tokio::spawn(async move { audit.tend().await });
        self.take_until(stop).await;
        tending.abort();
    }

    /// Checks every chain now.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.checker.check_all().await
    }

    /// Prunes what is older than it is kept. Answers how many rows went.
    pub async fn prune(&self) -> Result<u64, StoreError> {
        let pruner = Pruner {
            store: self.store.clone(),
            key: self.chain_key.clone(),
            checker: self.checker.clone(),
            most_days: self.retention_days,
        };
        pruner.prune().await
    }

    async fn tend(&self) {
        loop {
            if let Err(error) = self.check().await {
                tracing::error!(%error, "the chains could not be checked");
            }
            let pruned = self.prune().await;
            caracal_store::metrics::retention_ran(pruned.is_ok());
            if let Err(error) = pruned {
                tracing::error!(%error, "old evidence could not be pruned");
            }
            tokio::time::sleep(TEND).await;
        }
    }

    async fn take_until(&self, stop: impl Future<Output = ()>) {
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

    async fn is_tampered(&self) -> Result<bool, StoreError> {
        self.store.ping().await?;
        integrity::is_tampered(&mut *self.store.read().await?).await
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

/// Tampering makes the service unready until someone who administers has taken note of it.
pub(crate) async fn ready(State(audit): State<Audit>) -> Response {
    let reason = match audit.is_tampered().await {
        Err(error) => {
            tracing::error!(%error, "the database does not answer");
            Some("database_unreachable")
        }
        Ok(_) if !audit.ingesting.load(Ordering::Relaxed) => Some("consumer_unhealthy"),
        Ok(true) => Some("ledger_tampered"),
        Ok(false) => None,
    };
    match reason {
        None => Json(json!({ "ready": true })).into_response(),
        Some(reason) => {
            let body = json!({ "ready": false, "reason": reason });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
