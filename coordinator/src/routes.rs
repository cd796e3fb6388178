//! The routes (contract coordinator §4 to §9).

use crate::caller::authenticate;
use crate::config::Config;
use crate::failure::{self, Code, Failure};
use crate::receipt::Receipted;
use crate::{aliases, api};
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json, Router};
use caracal_store::http::{RequestId, identify_requests};
use serde_json::{Value, json};
use std::sync::Arc;

/// Everything that the Coordinator answers.
pub fn router(config: Config) -> Router {
    let config = Arc::new(config);
    let (zone, _) = api::zone().into_parts();
    let (open, _) = api::open().into_parts();
    open.merge(zone.route_layer(from_fn_with_state(Arc::clone(&config), authenticate)))
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

pub(crate) async fn health() -> Json<Value> {
    Json(json!({ "ok": true }))
}

pub(crate) async fn ready(State(config): State<Arc<Config>>) -> Response {
    match config.store.ping().await {
        Ok(()) => Json(json!({ "ok": true })).into_response(),
        Err(error) => {
            tracing::error!(%error, "not ready");
            let body = json!({ "ok": false, "error": "database_unreachable", "dependency": "database" });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}
