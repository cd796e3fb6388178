//! The routes (contract coordinator §4 to §9).

use crate::caller::authenticate;
use crate::config::Config;
use crate::failure::{self, Code, Failure};
use crate::receipt::Receipted;
use crate::{
    aliases, attempts, delegate, delegations, effective, invocations, lease, outbox, services, sessions,
    start, stats, verify,
};
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, patch, post};
use axum::{Extension, Json, Router};
use caracal_store::http::{RequestId, identify_requests};
use serde_json::json;
use std::sync::Arc;

/// Everything that the Coordinator answers.
pub fn router(config: Config) -> Router {
    let config = Arc::new(config);
    let zone = Router::new()
        .route("/zones/{zone}/agents", get(sessions::list_route).post(start::route))
        .route("/zones/{zone}/agents/{session}", get(sessions::get_route).delete(sessions::terminate_route))
        .route("/zones/{zone}/agents/{session}/children", get(sessions::children_route))
        .route("/zones/{zone}/agents/{session}/effective-authority", get(effective::route))
        .route("/zones/{zone}/agents/{session}/suspend", patch(sessions::suspend_route))
        .route("/zones/{zone}/agents/{session}/resume", patch(sessions::resume_route))
        .route("/zones/{zone}/agents/{session}/lease", post(lease::take_route))
        .route("/zones/{zone}/agents/{session}/heartbeat", post(lease::heartbeat_route))
        .route("/zones/{zone}/delegations", post(delegate::route))
        .route("/zones/{zone}/delegations/active", get(delegations::active_route))
        .route("/zones/{zone}/delegations/inbound/{session}", get(delegations::inbound_route))
        .route("/zones/{zone}/delegations/inbound/{session}/{edge}", get(delegations::probe_route))
        .route("/zones/{zone}/delegations/outbound/{session}", get(delegations::outbound_route))
        .route("/zones/{zone}/delegations/{edge}/traverse", get(delegations::traverse_route))
        .route("/zones/{zone}/delegations/{edge}/impact", get(delegations::impact_route))
        .route("/zones/{zone}/delegations/{edge}/revoke", patch(delegations::revoke_route))
        .route("/zones/{zone}/agent-services", get(services::list_route).post(services::register_route))
        .route("/zones/{zone}/invocations", get(invocations::list_route).post(invocations::create_route))
        .route("/zones/{zone}/invocations/{invocation}", get(invocations::get_route))
        .route("/zones/{zone}/invocations/{invocation}/start", patch(attempts::start_route))
        .route("/zones/{zone}/invocations/{invocation}/cancel", patch(attempts::cancel_route))
        .route("/zones/{zone}/invocations/{invocation}/complete", patch(attempts::complete_route))
        .route("/zones/{zone}/outbox", get(outbox::list_route))
        .route("/zones/{zone}/outbox/{entry}/requeue", post(outbox::requeue_route))
        .route_layer(from_fn_with_state(Arc::clone(&config), authenticate));
    Router::new()
        .route("/health", get(async || Json(json!({ "ok": true }))))
        .route("/ready", get(ready))
        .route("/stats", get(stats::route))
        .route("/v1/verify", post(verify::route))
        .merge(zone)
        .fallback(unknown)
        .method_not_allowed_fallback(async || Failure::from(Code::MethodNotAllowed))
        .layer(from_fn_with_state(Arc::clone(&config), render))
        .layer(from_fn(identify_requests))
        .with_state(config)
}

/// Renders refusals, and counts what became of idempotency keys.
async fn render(
    State(config): State<Arc<Config>>,
    Extension(RequestId(id)): Extension<RequestId>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let kept = response.extensions().get::<Receipted>().map(|Receipted(what)| *what);
    if let Some(what) = kept.or_else(|| failure::key_use(&response)) {
        config.counters.key(what);
    }
    failure::render(response, &id)
}

async fn unknown(uri: Uri) -> Failure {
    match aliases::successor(uri.path()) {
        Some(now) => Failure::because(Code::NotFound, format!("this route is gone: use {now}")),
        None => Code::NotFound.into(),
    }
}

async fn ready(State(config): State<Arc<Config>>) -> Response {
    match config.store.ping().await {
        Ok(()) => Json(json!({ "ok": true })).into_response(),
        Err(error) => {
            tracing::error!(%error, "not ready");
            let body = json!({ "ok": false, "error": "database_unreachable", "dependency": "database" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
